"""The teacher's own features as a judge: which are taken, what is shared, what it may see, and how a run resumes."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from autoencoders import save_autoencoder
from d2o import backbones
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM, Epsilon
from d2o.diffusion.noise import noise_for
from d2o.discriminators import About, OwnFeatures
from d2o.discriminators.own_features import as_map, explore, find_taps
from d2o.encoders.codec import attach
from d2o.kernels.convolution import Convolution
from d2o.objectives import Adversarial, Consistency, Progressive
from d2o.objectives.batch import Batch
from d2o.objectives.gan import squared_difference, squared_gradient
from d2o.training.freezing import CONVOLUTIONS, count_frozen
from d2o.training.loop import train
from d2o.training.networks import networks
from d2o.training.recipe import Recipe, change
from refusal import refused

SHAPE = (1, 8, 8)
JUDGE = OwnFeatures(width=8)
RECIPE = Recipe(
    objectives=(Adversarial(r1=1e-6, r1_every=2),), frozen=CONVOLUTIONS, batch_size=4, duration=16, discriminator=JUDGE
)
DIT = {"kind": "dit", "patch_size": 2, "channels": 16, "num_blocks": 4, "num_heads": 2}


def images(count: int = 4, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return noise_for(range(50, 50 + count), shape).clamp(-1, 1)


def transformer(classes: int = 2) -> Denoiser:
    """Return a transformer none of whose layers is zero."""
    sizes = {"resolution": 8, "in_channels": 1, "out_channels": 1, "num_classes": classes}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = backbones.build({**DIT, **sizes})
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return Denoiser(network, Epsilon(), SHAPE, classes).eval()


def storages(*modules: Any) -> int:
    tensors = [p for module in modules for p in module.parameters()]
    return sum({p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in tensors}.values())


class Theirs(nn.Module):
    """A network that is no backbone, without lists of blocks; `calls` counts those of its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.body, self.last = (nn.Conv2d(a, b, 3, padding=1) for a, b in ((1, 8), (8, 8), (8, 1)))
        self.calls = 0

    def forward(self, x: Tensor, noise: Tensor, condition: Any = None, augmentation: Any = None) -> Tensor:
        inner = self.body(self.first(x).relu()).relu()
        self.calls += 1
        return self.last(inner)


class TestTaps:
    def test_a_quarter_a_half_three_quarters_and_all_of_the_blocks(self, tiny_denoiser):
        for denoiser, wanted in (
            (tiny_denoiser(), ["dec.8x8_in0", "dec.8x8_in1", "dec.8x8_block0", "dec.8x8_block1"]),  # of five
            (transformer(), [f"blocks.{k}" for k in range(4)]),
        ):
            assert find_taps((), denoiser.backbone, explore(denoiser)) == wanted

    def test_a_star_stands_for_one_part_of_a_name(self):
        found = find_taps(("blocks.*", "x_embedder.proj"), (teacher := transformer()).backbone, explore(teacher))
        assert found == ["x_embedder.proj", *(f"blocks.{k}" for k in range(4))]

    def test_names_that_match_nothing_are_answered_by_those_there_are(self):
        with refused("'block.1'", "blocks.0", "blocks.3"):
            OwnFeatures(taps=("block.1",)).build(SHAPE, 2, teacher=transformer())
        with refused("'t_embedder'", "blocks.0"):
            OwnFeatures(taps=("t_embedder",)).build(SHAPE, 2, teacher=transformer())

    def test_they_are_what_the_modules_give(self, tiny_denoiser):
        for teacher, name in ((tiny_denoiser(), "enc.8x8_block0"), (transformer(0), "blocks.1")):
            judge = OwnFeatures(taps=(name,), width=8, sigma_mean=-1.0).build(SHAPE, teacher=teacher)
            caught = []
            handle = teacher.backbone.get_submodule(name).register_forward_hook(
                lambda *row, to=caught: to.append(row[2])
            )
            with torch.no_grad():
                teacher(x := images(), torch.tensor(-1.0).exp())
                handle.remove()
                found = judge.features(x)[0][0]
            wanted = caught[0] if caught[0].dim() == 4 else caught[0].transpose(1, 2).unflatten(2, (4, 4))
            torch.testing.assert_close(found, wanted)

    def test_the_pass_ends_at_the_last(self):
        teacher = Denoiser(network := Theirs(), EDM(), SHAPE)
        for taps, more in ((("body",), 0), (("body", "last"), 1)):
            judge = OwnFeatures(taps=taps, width=8).build(SHAPE, teacher=teacher)
            network.calls = 0
            judge(images())
            assert network.calls == more
        assert OwnFeatures(width=8).build(SHAPE, teacher=teacher).look.names == ["first", "body", "last"]
        assert not any(part._forward_hooks for part in network.modules())

    @pytest.mark.parametrize(
        ("output", "shape"),
        [
            (torch.zeros(2, 5, 3, 3), (2, 5, 3, 3)),
            (torch.zeros(2, 9, 5), (2, 5, 3, 3)),
            (torch.zeros(2, 7, 5), (2, 5, 7, 1)),
            ((torch.zeros(2, 5, 4, 4), (torch.zeros(2, 9, 9, 9),)), (2, 5, 4, 4)),
            ((torch.zeros(2, 3, 6), torch.zeros(2, 4, 6)), (2, 6, 2, 2)),
            (torch.zeros(2, 5), None),
            ({"sample": torch.zeros(2, 5, 4, 4)}, None),
        ],
    )
    def test_maps_tokens_and_the_last_of_several(self, output, shape):
        found = as_map(output)
        assert (None if found is None else tuple(found.shape)) == shape


class TestHeads:
    def test_a_logit_of_a_map_is_the_mean_of_its_places(self, tiny_denoiser):
        teacher, x = tiny_denoiser(), images()
        places, one = (replace(JUDGE, logits=logits).build(SHAPE, teacher=teacher) for logits in ("places", "map"))
        with torch.no_grad():
            found = places(x)[0].unflatten(1, (-1, 64))
            torch.testing.assert_close(one(x)[0], found.mean(2))
        assert not torch.allclose(found, found.mean(2, keepdim=True))

    @pytest.mark.parametrize("kernel", [1, 3, 5])
    def test_every_kernel_leaves_all_places(self, kernel, tiny_denoiser):
        judge = replace(JUDGE, kernel=kernel).build(SHAPE, teacher=tiny_denoiser())
        firsts = [next(layer for layer in head.modules() if isinstance(layer, Convolution)) for head in judge.heads]
        assert all(cast(Any, layer).kernel_size == (kernel, kernel) for layer in firsts)
        with torch.no_grad():
            assert judge(images())[0].shape == (4, 64 * len(judge.heads))


class TestWhatItSees:
    def test_noise_is_a_function_of_the_seeds(self, tiny_denoiser):
        judge, x = JUDGE.build(SHAPE, teacher=tiny_denoiser()), images()
        with torch.no_grad():
            one, same, other = (judge.features(x, About(seeds=seeds))[0] for seeds in ([1, 2, 3, 4],) * 2 + ([5] * 4,))
            alone = judge.features(x[2:3], About(seeds=[3]))[0]
        for maps in zip(one, same, other, alone, strict=True):
            assert torch.equal(maps[0], maps[1]) and not torch.allclose(maps[0], maps[2])
            torch.testing.assert_close(maps[0][2:3], maps[3])

    def test_levels_are_log_normal(self, tiny_denoiser):
        judge, seen = replace(JUDGE, sigma_mean=-1.5, sigma_deviation=0.5).build(SHAPE, teacher=tiny_denoiser()), []
        judge.look.forward = lambda x, sigma, condition=None: seen.extend([x, sigma]) or []
        judge.features(torch.zeros(2000, *SHAPE), About(seeds=range(2000)))
        x, level = seen[0].flatten(1) / seen[1][:, None], seen[1].log()
        assert float(level.mean()) == pytest.approx(-1.5, abs=0.05)
        assert float(level.std()) == pytest.approx(0.5, abs=0.03)
        assert float(x.std()) == pytest.approx(1, abs=0.01)
        assert abs(float(torch.corrcoef(torch.stack([level, x[:, 0]]))[0, 1])) < 0.1

    def test_the_teacher_is_told_the_condition(self):
        judge = JUDGE.build(SHAPE, 2, teacher=transformer())
        with torch.no_grad():
            logits = [judge(images(), torch.full((4,), k))[0] for k in (0, 1)]
        assert not torch.allclose(*logits)
        with refused("2", "condition"):
            judge(images())

    def test_a_latent_model_judges_latents_and_a_pixel_model_whole_images(self, tiny_denoiser, tmp_path):
        latent = attach(tiny_denoiser(channels=4), save_autoencoder("AutoencoderTiny", tmp_path))
        with refused("4x8x8", "3x16x16", "judged=latents"):
            networks(RECIPE, latent)
        made = networks(change(RECIPE, "objectives.0.judged", "latents"), latent)
        loss = RECIPE.objectives[0]
        batch = Batch(images(4, (3, 16, 16)), None, range(4))
        loss = replace(loss, judged="latents")
        for turn in (loss, loss.discriminator_loss, loss.penalise_real):
            assert turn(made, batch).isfinite().all()
        with refused("1x4x4", "1x8x8", "judged"):
            networks(change(RECIPE, "objectives.0.judged", "crops"), tiny_denoiser())


class TestSharing:
    def test_its_teacher_costs_what_moves(self, tiny_denoiser):
        made = networks(RECIPE, tiny_denoiser())
        share, heads = count_frozen(made.student), storages(made.discriminator.heads)
        moving = 4 * (share.total - share.frozen)
        assert storages(made.student, made.discriminator) == 4 * share.total + moving + heads
        assert storages(made.student, made.ema, made.discriminator) == 4 * share.total + 2 * moving + heads

    @pytest.mark.parametrize(("objective", "shared"), [(Consistency(), True), (Progressive(steps=2), False)])
    def test_a_teacher_that_stays_is_the_judge_s_too(self, tiny_denoiser, objective, shared):
        made = networks(replace(RECIPE, objectives=(objective, *RECIPE.objectives)), tiny_denoiser())
        assert (made.discriminator.look.denoiser is made.teacher) == shared

    def test_it_never_learns_and_is_in_no_checkpoint(self, tiny_denoiser):
        made = networks(RECIPE, tiny_denoiser())
        look = made.discriminator.look
        before = {name: p.clone() for name, p in look.denoiser.named_parameters()}
        state = {}
        for progress in train(RECIPE, made, batches()):
            state = progress.state()[0]
            made.student.train()
            assert not any(p.requires_grad for p in look.denoiser.parameters() if not is_in(p, made.student))
        assert all(torch.equal(p, before[name]) for name, p in look.denoiser.named_parameters())
        assert not look.training and not look.denoiser.backbone.training
        assert all(name.startswith("heads.") for name in made.discriminator.state_dict())
        assert state and not any("look" in name for name in state)


def is_in(parameter: nn.Parameter, network: nn.Module) -> bool:
    return any(parameter is one for one in network.parameters())


def batches(start: int = 0) -> Any:
    while True:
        index = torch.arange(start, start + 4)
        yield noise_for((10**9 + index).tolist(), SHAPE).clamp(-1, 1), None, index
        start += 4


@pytest.mark.parametrize("balance", [None, 0.9])
def test_a_resumed_run_ends_in_the_same_bits(tiny_denoiser, balance):
    recipe, teacher = change(RECIPE, "objectives.0.balance", balance), tiny_denoiser()
    *_, last = train(recipe, networks(recipe, teacher), batches(8), resume=run_to(recipe, teacher, 8))
    wanted, found = run_to(recipe, teacher, 16)[0], last.state()[0]
    assert wanted.keys() == found.keys() and ("balance.squares" in found) == (balance is not None)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def run_to(recipe: Recipe, teacher: Denoiser, count: int) -> Any:
    for progress in train(recipe, networks(recipe, teacher), batches()):
        if progress.images == count:
            return progress.state()
    raise AssertionError


@pytest.mark.parametrize("kind", ["U-Net with attention", "transformer"])
def test_the_exact_penalty_is_the_limit_of_finite_differences(kind, tiny_denoiser):
    unet = tiny_denoiser(attention_resolutions=[8])
    judge = JUDGE.build(SHAPE, teacher=transformer(0) if kind == "transformer" else unet).eval()

    def logits(x: Tensor) -> list[Tensor]:
        return judge.judge(judge.features(x, About(seeds=[1, 2])))

    x = images(2).requires_grad_()
    (gradient,) = torch.autograd.grad(logits(x)[0].sum(), x)
    exact = squared_gradient(logits, x)
    torch.testing.assert_close(exact.detach(), gradient.square().sum((1, 2, 3)), rtol=1e-3, atol=1e-5)
    exact.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in judge.heads.parameters())
    assert all(p.grad is None for p in judge.look.parameters())
    with torch.no_grad():
        direction = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        along = squared_difference(logits, x, direction, epsilon=1e-3)
    torch.testing.assert_close(along, exact.detach(), rtol=0.05, atol=1e-3)
