"""Distribution matching: the gradient of its formula, Gaussians in closed form, and what the fake network learns."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2o import backbones
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM, Flow
from d2o.diffusion.noise import SIGMA_MAX, SIGMA_MIN, noise_for
from d2o.discriminators.own_features import explore
from d2o.kernels.storage import NARROW
from d2o.objectives import OBJECTIVES, DistributionMatching
from d2o.objectives.batch import Batch
from d2o.objectives.distribution_matching import Judge, add_noise, find_bottleneck
from d2o.objectives.objective import Networks
from d2o.objectives.one_step import MADE
from d2o.training.freezing import CONVOLUTIONS
from d2o.training.loop import train
from d2o.training.networks import networks
from d2o.training.recipe import Recipe
from refusal import refused

from .gaussian import SHAPE, Exact

RECIPE = Recipe(objectives=(DistributionMatching(fake_steps=3),), batch_size=4, duration=8, betas=(0.9, 0.999))
WITH_HEAD = replace(RECIPE, objectives=(DistributionMatching(fake_steps=3, gan=0.1),))


def stream(start: int = 0) -> Any:
    while True:
        index = torch.arange(start, start + 4)
        yield noise_for((10**6 + index).tolist(), (1, 8, 8)).clamp(-1, 1), index % 2, index
        start += 4


def batch_of(images: Tensor, **changes: Any) -> Batch:
    """Return a batch whose student has made these images, as a turn leaves them."""
    return Batch(torch.zeros_like(images), None, range(len(images)), 1, shared={MADE: {(None, ()): images}}, **changes)


def exact(teacher: Any, fake: Any) -> Networks:
    student: Any = Exact(lambda x, sigma: x)
    return Networks(student, student, Exact(teacher), extra={"fake": Exact(fake)})  # type: ignore[arg-type]


def gradient(objective: DistributionMatching, made: Networks, images: Tensor, **changes: Any) -> Tensor:
    images = images.detach().requires_grad_()
    objective(made, batch_of(images, **changes)).sum().backward()
    assert images.grad is not None
    return images.grad


class TestTheStudentsGradient:
    X = 0.5 * noise_for(range(7), SHAPE).double()

    def test_is_the_formula(self):
        seen = []

        def teacher(x, sigma):
            seen.append(x)
            return torch.tanh(x) / (1 + sigma)

        def fake(x, sigma):
            return 0.3 * x / (1 + sigma) + 0.1

        found = gradient(DistributionMatching(), exact(teacher, fake), self.X)
        noisy, sigma = seen[0], add_noise(self.X, Exact(teacher), batch_of(self.X), "matching")[1].view(-1, 1, 1, 1)  # type: ignore[arg-type]
        for image in range(len(self.X)):
            pull = (fake(noisy, sigma) - teacher(noisy, sigma))[image]
            size = (self.X - teacher(noisy, sigma))[image].abs().mean()
            torch.testing.assert_close(found[image], pull / size / self.X[0].numel(), rtol=1e-12, atol=0)

    def test_is_nothing_where_both_networks_agree(self):
        made = exact(lambda x, sigma: x / (1 + sigma), lambda x, sigma: x / (1 + sigma))
        assert gradient(DistributionMatching(), made, self.X).abs().max() == 0
        made = exact(lambda x, sigma: self.X, lambda x, sigma: self.X)  # the teacher has nothing to say
        assert gradient(DistributionMatching(), made, self.X).abs().max() == 0

    def test_carries_gaussians_to_the_teachers(self):
        """Both denoisers are those of N(mean, deviation^2); the student is such a mean + deviation times noise."""

        def denoiser(mean, deviation):
            return lambda x, sigma: (deviation**2 * x + sigma**2 * mean) / (deviation**2 + sigma**2)

        z, teacher = noise_for(range(1000, 1050), SHAPE).double(), denoiser(0.7, 0.5)
        student = torch.tensor([-0.5, 0.2], dtype=torch.float64, requires_grad=True)
        optimiser, means = torch.optim.SGD([student], lr=0.2), []
        for step in range(150):
            mean, deviation = student
            made = exact(teacher, denoiser(mean.item(), deviation.item()))
            batch = replace(batch_of(mean + deviation * z), seed=step)
            optimiser.zero_grad()
            DistributionMatching()(made, batch).mean().backward()
            optimiser.step()
            means.append(student[0].item())
        assert all(later > earlier for earlier, later in pairwise(means[:10]))
        assert student.tolist() == pytest.approx([0.7, 0.5], abs=0.02)


@pytest.mark.parametrize("family", [EDM(), Flow()], ids=lambda family: family.kind)
def test_levels_are_the_teachers_without_both_ends(family):
    teacher: Any = Exact(lambda x, sigma: x)
    teacher.preconditioning = family
    images = torch.zeros(4000, 1, 1, 1, dtype=torch.float64)
    sigmas = family.sigmas(1000)
    noisy, sigma = add_noise(images, teacher, batch_of(images), "matching")
    assert sigma.max() == sigmas[20] and sigma.min() == sigmas[979]  # 960 levels, of each about four
    assert (noisy.flatten() / sigma).std().item() == pytest.approx(1, abs=0.05)
    if family == EDM():
        assert sigma.min() > SIGMA_MIN and sigma.max() < SIGMA_MAX


class TestTheFakeNetwork:
    def test_starts_as_the_teacher_and_all_of_it_moves(self, tiny_denoiser):
        made = networks(replace(RECIPE, frozen=CONVOLUTIONS), tiny_denoiser(classes=2))
        own, teacher = dict(made["fake"].named_parameters()), dict(made.teacher.named_parameters())  # type: ignore[union-attr]
        assert all(torch.equal(own[name], teacher[name]) and own[name].requires_grad for name in teacher)
        storages = {p.untyped_storage().data_ptr() for p in (*teacher.values(), *made.student.parameters())}
        assert not storages & {p.untyped_storage().data_ptr() for p in own.values()}
        frozen = {p for p in made.student.parameters() if not p.requires_grad}
        assert frozen and frozen <= set(teacher.values())  # what is frozen is held once

    def test_takes_its_steps_at_its_own_rate(self, tiny_denoiser):
        made = networks(replace(RECIPE, discriminator_learning_rate=3e-3), tiny_denoiser(classes=2))
        student = made.student.backbone
        given = {name: p.detach().clone() for name, p in made.teacher.named_parameters()}  # type: ignore[union-attr]
        *_, progress = train(replace(RECIPE, discriminator_learning_rate=3e-3), made, stream())
        optimiser = progress.optimizers["fake"]
        assert optimiser.defaults["lr"] == 3e-3 and optimiser.defaults["betas"] == (0.9, 0.999)
        assert {row["step"].item() for row in optimiser.state.values()} == {6}  # three for each of two iterations
        assert {row["step"].item() for row in progress.optimizers["student"].state.values()} == {2}
        assert all(torch.equal(p, given[name]) for name, p in made.teacher.named_parameters())  # type: ignore[union-attr]
        assert {id(p) for p in student.parameters()}.isdisjoint(id(p) for p in made["fake"].parameters())

    @pytest.mark.parametrize("recipe", [RECIPE, WITH_HEAD], ids=["alone", "with a head"])
    def test_alone_moves_in_its_turn(self, tiny_denoiser, recipe):
        made, (objective,) = networks(recipe, tiny_denoiser(classes=2)), recipe.objectives
        x0, classes, index = next(stream())
        batch = Batch(x0, classes, index.tolist())
        objective(made, batch)
        (turn,) = objective.turns(made)
        first, second = turn.loss(made, batch), turn.loss(made, batch)
        assert first.shape == (4,) and not torch.allclose(first, second)  # other noise
        first.sum().backward()
        assert all(p.grad is None for name in ("student", "teacher") for p in made[name].parameters())
        assert all(p.grad is not None for p in made[turn.network].parameters())
        again = Batch(x0, classes, index.tolist())
        objective(made, again)
        for wanted in (first, second):  # the head's spectral norms are estimates, better each time
            torch.testing.assert_close(turn.loss(made, again), wanted, rtol=1e-3, atol=0)

    def test_learns_what_the_student_makes(self, tiny_denoiser):
        made, (objective,) = networks(RECIPE, tiny_denoiser(classes=2)), RECIPE.objectives
        optimiser, losses = torch.optim.Adam(made["fake"].parameters(), 3e-3), []
        for number in range(30):
            batch = Batch(torch.zeros(16, 1, 8, 8), torch.arange(16) % 2, range(16 * number, 16 * number + 16))
            with torch.no_grad():
                objective(made, batch)
            loss = objective.fake_loss(made, batch).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert sum(losses[-10:]) / 10 < 0.7 * sum(losses[:3]) / 3


class TestTheHead:
    def test_learns_to_tell_real_images_and_passes_it_on(self, tiny_denoiser):
        """Real images are white and the student's are black: once the head has learned that, they get lighter."""
        made = networks(WITH_HEAD, tiny_denoiser())
        objective: Any = replace(WITH_HEAD.objectives[0], head=1.0)
        black, white = -torch.ones(16, 1, 8, 8), torch.ones(16, 1, 8, 8)
        optimiser = torch.optim.Adam(made["fake"].parameters(), 3e-3)
        for number in range(25):
            batch = replace(batch_of(black), x0=white, seed=number)
            objective(made, batch)
            optimiser.zero_grad()
            objective.fake_loss(made, batch).mean().backward()
            optimiser.step()
        sigma = torch.full((16,), 0.1)
        low, high = (made["fake"].judge(x + 0.1 * noise_for(range(16), (1, 8, 8)), sigma) for x in (black, white))
        assert low.mean() < 0 < high.mean()
        without, one, two = (gradient(replace(objective, gan=gan), made, black) for gan in (0.0, 1.0, 2.0))
        torch.testing.assert_close(two - without, 2 * (one - without), rtol=1e-3, atol=1e-6)
        assert (one - without).mean() < 0  # downhill is lighter

    def test_sits_where_maps_are_smallest_and_widest(self, tiny_denoiser):
        unet = tiny_denoiser(channel_multipliers=[1, 2])
        shapes = explore(unet)
        assert shapes[find_bottleneck(unet.backbone, shapes)] == (1, 16, 4, 4)
        spec = {"kind": "dit", "patch_size": 2, "channels": 16, "num_blocks": 5, "num_heads": 2}
        network = backbones.build({**spec, "resolution": 8, "in_channels": 1, "out_channels": 1, "num_classes": 0})
        assert find_bottleneck(network, explore(Denoiser(network, EDM(), (1, 8, 8)))) == "blocks.2"

    def test_needs_a_map(self):
        class Nothing(nn.Module):
            def forward(self, x, *_):
                return torch.zeros_like(x)

        with refused("Nothing", "gan=0"):
            Judge(Denoiser(Nothing(), EDM(), (1, 8, 8)))


def test_blocks_run_again_for_the_fakes_gradients(tiny_denoiser):
    states = []
    for checkpointing in (False, True):
        recipe = replace(WITH_HEAD, checkpointing=checkpointing)
        made = networks(recipe, tiny_denoiser(classes=2))
        assert any("forward" in vars(module) for module in made["fake"].modules()) == checkpointing
        *_, progress = train(recipe, made, stream())
        states.append(progress.state()[0])
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, msg=name)


def test_frozen_weights_in_bfloat16_leave_the_fake_network_whole(tiny_denoiser):
    recipe = replace(RECIPE, frozen=CONVOLUTIONS, frozen_precision="bfloat16")
    *_, progress = train(recipe, networks(recipe, tiny_denoiser(classes=2)), stream())
    kinds = {name: {p.dtype for p in progress.networks[name].parameters()} for name in ("student", "fake")}
    assert kinds == {"student": {torch.float32, NARROW}, "fake": {torch.float32}}


@pytest.mark.parametrize("numbers", [{"gan": -1}, {"head": -1}, {"fake_steps": 0}, {"middle_sigmas": (1.0, 2.0)}])
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ValueError, match=next(iter(numbers))):
        OBJECTIVES["distribution-matching"](**numbers)


def test_several_steps_and_a_start_of_its_own(tiny_denoiser):
    recipe = replace(RECIPE, objectives=(DistributionMatching(sigma=10.0, middle_sigmas=(0.8,)),))
    made = networks(recipe, tiny_denoiser(classes=2))
    assert (made.student.sigma_max, made["fake"].sigma_max, made["fake"].one_step) == (10.0, SIGMA_MAX, False)
    *_, progress = train(recipe, made, stream())
    assert progress.skipped == 0 and progress.losses.keys() == {"student", "fake"}
