"""Every convention of the how-to of one's own network, in images of every range: x0 from what its network predicts."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import d2o
from d2o import backbones
from d2o.diffusion import families
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM, Epsilon, Flow, Preconditioning, boundary_form, from_spec, to_spec
from d2o.diffusion.noise import noise_for
from d2o.diffusion.sampling import generate
from d2o.export import export
from d2o.export.one_step import OneStep, compare
from refusal import refused

PAGE = (Path(__file__).parents[2] / "docs/how-to/own-network.md").read_text()
ROWS = re.findall(r"^\|.*\| `([A-Z]\w+\(.*\))` \|$", PAGE, re.MULTILINE)
RANGES = [(-1.0, 1.0), (0.0, 1.0), (-0.5, 0.5), (0.0, 255.0)]
SHAPE = (1, 4, 4)


class Time(NamedTuple):
    """At one time: weights of image and noise in what a network sees, and in what it predicts; what it is told."""

    seen: tuple[float, float]
    predicted: tuple[float, float]
    told: float


def ddpm(betas: Tensor, predicts: str = "noise", unit: float = 1.0) -> Iterator[Time]:
    for time in (0, len(betas) // 3, 2 * len(betas) // 3):
        left = math.prod((1 - betas[: time + 1]).tolist())
        image, noise = left**0.5, (1 - left) ** 0.5
        targets = {"noise": (0.0, 1.0), "image": (1.0, 0.0), "v": (-noise, image)}
        yield Time((image, noise), targets[predicts], unit * time)


def line(steps: int) -> Tensor:
    return torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)


def cosine(steps: int) -> Tensor:
    left = [math.cos((time / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for time in range(steps + 1)]
    return torch.tensor([1 - after / before for before, after in pairwise(left)]).double()


def flow(towards_image: bool = False) -> Iterator[Time]:
    for t in (0.1, 0.5, 0.9):
        yield Time((t, 1 - t), (1, -1), t) if towards_image else Time((1 - t, t), (-1, 1), t)


def edm() -> Iterator[Time]:
    for sigma in (0.1, 1.0, 10.0):
        norm = (sigma**2 + 0.25) ** 0.5
        skip, output = 0.25 / norm**2, sigma * 0.5 / norm
        yield Time((1 / norm, sigma / norm), ((1 - skip) / output, -skip * sigma / output), math.log(sigma) / 4)


CONVENTIONS: dict[str, list[Time]] = {
    "Epsilon()": [*ddpm(line(1000))],
    "Epsilon(steps=500)": [*ddpm(line(500))],
    'Epsilon(schedule="squaredcos_cap_v2")': [*ddpm(cosine(1000))],
    "Epsilon(betas=(0.1, 0.2, 0.3))": [*ddpm(torch.tensor([0.1, 0.2, 0.3]).double())],
    "Epsilon(time_scale=0.001)": [*ddpm(line(1000), unit=0.001)],
    "Sample()": [*ddpm(line(1000), "image")],
    "Velocity()": [*ddpm(line(1000), "v")],
    "Flow()": [*flow()],
    'Flow(towards="image")': [*flow(towards_image=True)],
    "EDM(sigma_data=0.5)": [*edm()],
}


class Known(nn.Module):
    """Answers what it was given, and remembers what it was asked."""

    def __init__(self, answer: Tensor) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, noise: Tensor, label: Any = None, augmentation: Any = None) -> Tensor:
        self.asked = x, noise
        return self.answer


def test_the_page_has_these_conventions_and_no_others():
    assert list(CONVENTIONS) == ROWS


@pytest.mark.parametrize("image_range", RANGES)
@pytest.mark.parametrize("name", CONVENTIONS)
def test_the_true_prediction_gives_the_image_in_our_range(name, image_range):
    family: Preconditioning = replace(eval(name, dict(vars(families))), image_range=image_range)
    x0, noise = noise_for([0], SHAPE) / 3, noise_for([1], SHAPE)
    low, high = image_range
    theirs = low + (x0 + 1) / 2 * (high - low)
    for (image_seen, noise_seen), (image_part, noise_part), told in CONVENTIONS[name]:
        network = Known(image_part * theirs + noise_part * noise)
        sigma = noise_seen / image_seen / ((high - low) / 2)
        found = Denoiser(network, family, SHAPE)(x0 + sigma * noise, sigma)
        torch.testing.assert_close(found, x0, rtol=1e-4, atol=1e-4)
        x, time = network.asked
        torch.testing.assert_close(x, image_seen * theirs + noise_seen * noise, rtol=1e-4, atol=1e-5 * (high - low))
        assert time.item() == pytest.approx(told, abs=1e-5)
        error = Denoiser(Known(network.answer + high - low), family, SHAPE)(x0 + sigma * noise, sigma) - x0
        weighted = family.weight(torch.tensor(sigma)) * error.square().mean()
        assert weighted.item() == pytest.approx((high - low) ** 2, rel=0.02), "the loss is the network's own error"


class Gaussian(nn.Module):
    """The velocity of a flow to images that are N(mean, deviation^2) in [0, 1]."""

    mean, deviation = 0.7, 0.1

    def forward(self, x: Tensor, noise: Tensor, label: Any = None, augmentation: Any = None) -> Tensor:
        t = noise.view(-1, 1, 1, 1)
        variance = ((1 - t) * self.deviation) ** 2 + t**2
        centred = x - (1 - t) * self.mean
        return (t - (1 - t) * self.deviation**2) / variance * centred - self.mean


@torch.no_grad()
def test_a_flow_to_a_gaussian_in_0_to_1_ends_there():
    denoiser, noise = Denoiser(Gaussian(), Flow(image_range=(0.0, 1.0)), SHAPE), noise_for(range(4), SHAPE)
    (once,) = generate(denoiser, range(4))
    torch.testing.assert_close(once, 2 * (noise - denoiser.backbone(noise, torch.ones(4))) - 1)
    for sampler, steps, error in (("euler", 400, 0.02), ("heun", 100, 2e-3)):
        (images,) = generate(denoiser, range(4), steps=steps, sampler=sampler)
        wanted = 2 * (Gaussian.mean + Gaussian.deviation * noise) - 1
        assert (images - wanted).abs().max() < error


def test_images_are_clipped_in_our_range():
    network = Known(torch.tensor([-0.5, 0.5, 1.5]).view(1, 1, 1, 3))
    denoiser = Denoiser(network, families.Sample(image_range=(0.0, 1.0)), (1, 1, 3), clip=1.0)
    assert denoiser(torch.zeros(1, 1, 1, 3), 1.0).flatten().tolist() == [-1, 0, 1]


def test_the_range_is_part_of_the_family_and_its_file(tiny_denoiser, tmp_path):
    for family in (EDM(0.25, image_range=(0.0, 1.0)), Flow(image_range=(-0.5, 0.5))):
        assert from_spec(to_spec(family)) == family and boundary_form(family).image_range == family.image_range
        denoiser = tiny_denoiser().replace(preconditioning=family)
        d2o.save(tmp_path / "model.safetensors", denoiser)
        again = d2o.load(tmp_path / "model.safetensors")
        x = noise_for(range(2), (1, 8, 8))
        assert torch.equal(again(x, 1.0), denoiser(x, 1.0))
    assert "image_range" not in to_spec(EDM()), "what files of the usual range say is what it was"


@torch.no_grad()
@pytest.mark.parametrize("image_range", RANGES)
def test_programs_of_one_step_make_the_same_images(tiny_denoiser, image_range):
    family = Epsilon(image_range=image_range, sigma_max=2.0)
    denoiser = tiny_denoiser().replace(preconditioning=family, clip=0.8)
    assert compare(denoiser, OneStep(denoiser)) < 1e-5


def test_diffusers_own_pipelines_make_no_images_of_another_range(tmp_path):
    pytest.importorskip("diffusers")
    types = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "block_out_channels": [8]}
    settings = {**types, "norm_num_groups": 4, "layers_per_block": 1}
    spec: dict[str, Any] = {
        "kind": "diffusers_unet",
        "resolution": 8,
        "in_channels": 1,
        "out_channels": 1,
        "unet": settings,
    }
    backbone = backbones.build({**spec, "unet": settings}).eval()
    for family, pipeline in (
        (Epsilon(sigma_max=2.0), "DDIMPipeline"),
        (Epsilon(sigma_max=2.0, image_range=(0.0, 1.0)), "ConsistencyModelPipeline"),
    ):
        made = export(Denoiser(backbone, family, (1, 8, 8)), tmp_path / pipeline, "diffusers")
        assert made.error < 1e-4 and pipeline in (made.path / "model_index.json").read_text()
    x, teacher = noise_for(range(2), (1, 8, 8)), Denoiser(backbone, family, (1, 8, 8))
    with torch.no_grad():
        torch.testing.assert_close(d2o.load(made.path)(x, 1.0), teacher(x, 1.0))


@pytest.mark.parametrize("wrong", [[1.0, 0.0], [0.0, 0.0], [float("nan"), 1.0], [0.0, 1e300], [0.0], "01", None])
def test_a_range_that_is_none_is_refused(wrong):
    with refused("image_range"):
        from_spec({"kind": "epsilon", "image_range": wrong})
