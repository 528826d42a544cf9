"""Every kind of discriminator: the contract of the adversarial objective, classes, seeds, R1, and mistakes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from d2o.diffusion.noise import noise_for
from d2o.discriminators import DISCRIMINATORS, Convolutional, Perceptual, Projected, StyleGAN2
from d2o.discriminators.stylegan2 import Convolution
from d2o.objectives.adversarial import Adversarial
from d2o.objectives.objective import Batch, Networks
from d2o.training.recipe import change, from_dict, to_dict
from d2o.training.recipes import D2O
from refusal import refused

SHAPE = (3, 16, 16)
SMALL: dict[str, Any] = {
    "projected": Projected(size=32, width=8, weights="random"),
    "projected unmixed": Projected(size=32, width=8, weights="random", projection="none"),
    "stylegan2": StyleGAN2(channels=128, width=16),
    "perceptual": Perceptual(width=8, weights="random"),
    "convolutional": Convolutional(width=8),
}


def images(count: int = 4, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return noise_for(range(count), shape).clamp(-1, 1)


@pytest.fixture(scope="module", params=SMALL)
def spec(request: pytest.FixtureRequest) -> Any:
    return SMALL[request.param]


@pytest.mark.parametrize("classes", [0, 3])
def test_losses_and_penalty_reach_the_student_and_the_heads(tiny_denoiser, spec, classes):
    student = tiny_denoiser(channels=3, classes=classes)
    discriminator = spec.build((3, 8, 8), classes, seed=1)
    label = torch.arange(4) % classes if classes else None
    networks, batch = Networks(student, student, None, discriminator), Batch(images(shape=(3, 8, 8)), label, range(4))
    objective = Adversarial(augmentation=("color", "translation", "cutout"))
    heads = [p for p in discriminator.parameters() if p.requires_grad]
    for loss in (objective, objective.discriminator_loss, objective.penalise_real):
        found = loss(networks, batch)
        assert found.shape == (4,) and found.isfinite().all()
        found.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in heads)
    assert sum(float(p.grad.abs().sum()) > 0 for p in heads if p.grad is not None) > len(heads) / 2
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())


def test_the_label_counts_and_a_missing_one_is_named(spec):
    discriminator = spec.build(SHAPE, 3, seed=1).eval()
    with torch.no_grad():
        logits = [discriminator(images(2), torch.full((2,), label))[0] for label in (0, 1)]
    assert not torch.allclose(logits[0], logits[1])
    with refused("3", "condition"):
        discriminator(images(2))


def test_the_seed_fixes_the_weights(spec):
    one, same, other = (spec.build(SHAPE, 0, seed=seed).eval()(images(4))[0] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.allclose(one, other)


def test_the_state_of_a_run_leaves_frozen_networks_out_and_restores_the_rest(spec):
    discriminator, other = spec.build(SHAPE, 0, seed=1).eval(), spec.build(SHAPE, 0, seed=2).eval()
    state = discriminator.state_dict()
    assert not any("features" in name or name.startswith("pyramids") for name in state)
    other.load_state_dict(state)
    assert torch.equal(discriminator(images())[0], other(images())[0])


def test_a_recipe_names_its_discriminator_by_kind():
    assert {record().kind: record for record in DISCRIMINATORS.values()} == DISCRIMINATORS
    for record in DISCRIMINATORS.values():
        recipe = replace(D2O, discriminator=record())
        assert from_dict(to_dict(recipe)) == recipe
    assert change(D2O, "discriminator", {"kind": "stylegan2", "width": 8}).discriminator == StyleGAN2(width=8)


def test_a_recipe_from_before_there_were_kinds_still_loads():
    values = to_dict(D2O)
    values["discriminator"] = {"networks": ["vgg16_bn"], "size": 64}
    assert from_dict(values).discriminator == Projected(networks=("vgg16_bn",), size=64)


def test_an_unknown_kind_and_an_unknown_key_are_named():
    with refused("discriminator", "stylegan3", "stylegan2"):
        change(D2O, "discriminator", {"kind": "stylegan3"})
    with refused("discriminator.widht", "'width'"):
        change(D2O, "discriminator", {"kind": "stylegan2", "widht": 8})


@pytest.mark.parametrize(
    ("spec", "shape", "names"),
    [
        (StyleGAN2(), (3, 24, 24), ("24x24",)),
        (StyleGAN2(), (3, 2, 2), ("2x2",)),
        (StyleGAN2(), (3, 16, 8), ("16x8",)),
        (Convolutional(), (3, 4, 4), ("4x4", "8x8")),
        (Perceptual(size=8, weights="random"), SHAPE, ("8 pixels", "size=32")),
        (Perceptual(weights="random"), (4, 16, 16), ("4", "channels")),
        (Perceptual(), SHAPE, ("vgg16",)),
    ],
)
def test_images_that_it_cannot_take_are_refused(spec, shape, names):
    with refused(*names):
        spec.build(shape)


@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_a_discriminator_has_channels(kind):
    with refused("discriminator.width", "0", "1"):
        change(D2O, "discriminator", {"kind": kind, "width": 0})
    with refused("discriminator.group", "0", "1"):
        change(D2O, "discriminator", {"kind": "stylegan2", "group": 0})


class TestStyleGAN2:
    def build(self, **changes: Any) -> Any:
        return replace(SMALL["stylegan2"], **changes).build(SHAPE, seed=1)

    def test_the_deviation_is_that_of_neighbours_and_sees_collapse(self):
        discriminator, x = self.build(), noise_for(range(8), (5, 4, 4))
        found = discriminator.deviation(x)
        assert found.shape == (8, 1, 4, 4)
        for start in (0, 4):
            by_hand = x[start : start + 4].double().std(0, correction=0).mean()
            torch.testing.assert_close(found[start : start + 4], by_hand.float().expand(4, 1, 4, 4))
        assert float(discriminator.deviation(x[:1].expand(8, -1, -1, -1)).max()) < 1e-3

    @pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
    def test_any_number_of_images_can_be_judged(self, count):
        assert self.build()(images(count))[0].shape == (count, 1)

    def test_judging_two_batches_together_mixes_no_groups(self):
        discriminator, one, two = self.build(), images(4), -images(4)
        both = discriminator(torch.cat([one, two]))[0]
        torch.testing.assert_close(both, torch.cat([discriminator(one)[0], discriminator(two)[0]]))

    def test_every_layer_keeps_the_size_of_what_passes(self):
        x = noise_for(range(16), (32, 16, 16))
        out = Convolution(32, 64, 3)(x).detach()
        assert float(out[..., 1:-1, 1:-1].var()) == pytest.approx(1, rel=0.15)

    def test_the_low_pass_filter_removes_what_would_alias(self):
        block: Any = self.build().blocks[0]
        checks = torch.ones(1, 1, 16, 16)
        checks[..., ::2] = -1
        assert float(block.blur(checks, padding=1, stride=2)[..., 1:-1, 1:-1].abs().max()) < 1e-6
        flat = block.blur(torch.ones(1, 1, 16, 16), padding=1, stride=2)
        assert torch.allclose(flat[..., 1:-1, 1:-1], torch.ones(6, 6))

    def test_the_paper_s_size_at_32_pixels(self):
        with torch.device("meta"):
            discriminator = StyleGAN2().build((3, 32, 32))
        assert sum(p.numel() for p in discriminator.parameters()) > 2e7
        assert [block.conv0.weight.shape[0] for block in discriminator.blocks] == [512, 512, 512]  # type: ignore[union-attr]
