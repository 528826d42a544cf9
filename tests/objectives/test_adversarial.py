"""The adversarial objective with a discriminator so simple that every loss is known by hand."""

import math

import pytest
import torch
from torch import nn

from d2o.diffusion.noise import noise_for
from d2o.discriminators import Discriminator, Projected
from d2o.discriminators.discriminator import UNKNOWN
from d2o.objectives.adversarial import Adversarial
from d2o.objectives.gan import mean_per_image
from d2o.objectives.objective import Batch, Networks


class Linear(Discriminator):
    """Logit = w . image; `seen` counts the images that went through the expensive half."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(noise_for([9], (64,))[0])
        self.seen = 0

    def features(self, images, about=UNKNOWN):
        self.seen += len(images)
        return [[images.flatten(1)]]

    def judge(self, features, condition=None):
        return [row @ self.w[:, None] for (row,) in features]


class Given(Linear):
    """Judges real images 2 and fakes -3, told apart by the brightness."""

    def judge(self, features, condition=None):
        return [torch.where(row.mean(1, keepdim=True) > 5, 2.0, -3.0) + 0 * self.w.sum() for (row,) in features]


@pytest.fixture
def scene(tiny_denoiser):
    student = tiny_denoiser()
    x0 = noise_for(range(50, 54), (1, 8, 8))
    return Networks(student, student, None, Linear()), Batch(x0, None, range(4), seed=1)


def softplus(value):
    return math.log1p(math.exp(value))


@pytest.mark.parametrize(
    ("loss", "fool", "judge"),
    [
        ("non-saturating", softplus(3.0), softplus(-2.0) + softplus(-3.0)),
        ("hinge", 3.0, 0.0),
        ("relativistic", softplus(5.0), softplus(-5.0)),  # real images are 5 above generated ones
    ],
)
def test_losses_by_hand(scene, loss, fool, judge):
    networks, _ = scene
    networks.discriminator = Given()
    batch = Batch(torch.full((4, 1, 8, 8), 10.0), None, range(4))  # real ones are marked by their mean
    objective = Adversarial(loss=loss)
    assert objective(networks, batch).tolist() == pytest.approx([fool] * 4)
    assert objective.discriminator_loss(networks, batch).tolist() == pytest.approx([judge] * 4)


def test_hinge_counts_what_is_inside_the_margin(scene):
    networks, _ = scene

    class Undecided(Given):
        def judge(self, features, condition=None):
            return [torch.where(row.mean(1, keepdim=True) > 5, 0.25, -0.5) for (row,) in features]

    networks.discriminator = Undecided()
    batch = Batch(torch.full((2, 1, 8, 8), 10.0), None, range(2))
    assert Adversarial(loss="hinge").discriminator_loss(networks, batch).tolist() == pytest.approx([0.75 + 0.5] * 2)


def test_logits_are_averaged_within_an_image_and_summed_over_networks():
    logits = [torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[10.0], [20.0]])]
    assert mean_per_image(lambda rows: rows, logits).tolist() == [12.0, 26.0]


@pytest.mark.parametrize(("r1", "every"), [(1e-2, 1), (1e-2, 16), (3.0, 4)])
def test_r1_of_a_linear_discriminator_is_its_squared_weight(scene, r1, every):
    networks, batch = scene
    w = networks.discriminator.w
    penalty = Adversarial(r1=r1, r1_every=every).penalise_real(networks, batch)
    expected = r1 / 2 * float(w.detach().square().sum()) * every
    assert penalty.tolist() == pytest.approx([expected] * 4)
    penalty.mean().backward()
    torch.testing.assert_close(w.grad, r1 * every * w.detach())


def test_the_discriminator_reuses_the_generators_fakes(scene):
    networks, batch = scene
    objective = Adversarial()
    objective(networks, batch)
    assert networks.discriminator.seen == 4
    objective.discriminator_loss(networks, batch)
    assert networks.discriminator.seen == 8  # the real ones only
    objective.discriminator_loss(networks, batch)
    assert networks.discriminator.seen == 16  # used up: fakes of its own


def test_fresh_fakes_are_others(scene):
    networks, batch = scene
    fresh, reused = Adversarial(fresh_fakes=True), Adversarial()
    reused(networks, batch)
    loss = reused.discriminator_loss(networks, batch)
    fresh(networks, batch)
    seen = networks.discriminator.seen
    other = fresh.discriminator_loss(networks, batch)
    assert networks.discriminator.seen == seen + 8
    assert not torch.allclose(loss, other)
    alone = reused.discriminator_loss(networks, batch)  # nothing left to reuse: the same fresh noise
    assert torch.equal(alone, other)


def test_gradients_reach_only_what_the_turn_moves(scene):
    networks, batch = scene
    objective, w = Adversarial(r2=1e-3), networks.discriminator.w
    student = list(networks.student.parameters())
    w.requires_grad_(False)
    objective(networks, batch).mean().backward()
    assert w.grad is None and any(p.grad is not None and p.grad.abs().sum() > 0 for p in student)
    for parameter in student:
        parameter.grad = None
    w.requires_grad_(True)
    for loss in (
        objective.discriminator_loss,
        Adversarial(fresh_fakes=True).discriminator_loss,
        objective.penalise_real,
        objective.penalise_fake,
    ):
        w.grad = None
        loss(networks, batch).mean().backward()
        assert w.grad is not None and w.grad.abs().sum() > 0
        assert all(p.grad is None for p in student)
    assert batch.x0.grad is None and not batch.x0.requires_grad


def test_the_generator_is_one_step_from_the_batchs_noise(scene):
    networks, batch = scene
    with torch.no_grad():
        images = Adversarial().generate(networks.student, batch, "generator")
        assert torch.equal(images, networks.student(80.0 * batch.noise("generator"), 80.0))


def test_the_projected_discriminator_keeps_the_contract(tiny_denoiser):
    student, batch = tiny_denoiser(), Batch(noise_for(range(4), (1, 8, 8)), None, range(4))
    judge = Projected(weights="random", size=32, width=16).build((1, 8, 8))
    networks, objective = Networks(student, student, None, judge), Adversarial()
    frozen = [p for p in judge.parameters() if not p.requires_grad]
    for loss in (objective(networks, batch), objective.discriminator_loss(networks, batch)):
        assert loss.shape == (4,) and loss.isfinite().all()
        loss.mean().backward()
    penalty = objective.penalise_real(networks, batch)
    assert penalty.shape == (4,) and (penalty > 0).all()
    assert frozen and all(p.grad is None for p in frozen)


@pytest.mark.parametrize("numbers", [{"r1": -1}, {"r1_every": 0}, {"sigma": 0}, {"loss": "wasserstein"}, {"r2": -1}])
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ValueError):
        Adversarial(**numbers)


class Remembering(Linear):
    """Keeps what it was shown."""

    def features(self, images, about=UNKNOWN):
        self.shown = [*getattr(self, "shown", []), images.detach()]
        return super().features(images, about)


def test_instance_noise_is_added_to_real_and_generated_images_as_a_function_of_their_place(scene):
    networks, batch = scene

    def shown(deviation, *batches):
        networks.discriminator = Remembering()
        objective = Adversarial(instance_noise=deviation)
        for part in batches:
            objective(networks, part)
            objective.discriminator_loss(networks, part)
        fakes, reals = networks.discriminator.shown[::2], networks.discriminator.shown[1::2]
        return torch.stack([torch.cat(fakes), torch.cat(reals)])

    plain, noisy = shown(0.0, batch), shown(0.5, batch)
    noise = (noisy - plain) / 0.5
    assert torch.equal(plain[1], batch.x0) and abs(noise.std() - 1) < 0.1 and abs(noise.mean()) < 0.1
    assert abs(torch.corrcoef(noise.flatten(1))[0, 1]) < 0.2, "of its own for each"
    torch.testing.assert_close(shown(0.5, *batch.split(1)), noisy)


def test_noisy_images_are_not_cached(scene):
    networks, batch = scene
    networks.discriminator = Projected(size=32, width=8, weights="random").build((1, 8, 8))
    batch.number = [0, 1, 2, 3]
    for deviation, kept in ((0.5, 0), (0.0, 4)):
        Adversarial(instance_noise=deviation).discriminator_loss(networks, batch)
        assert [len(cache.rows) for cache in networks.discriminator.caches] == [kept]
