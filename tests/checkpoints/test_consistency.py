"""consistency_models: another layout of the same network, compared with that network written from its equations."""

import math
import warnings

import pytest
import torch

import d2o
from d2o.checkpoints.readers import openai_unet
from d2o.diffusion.families import Boundary, boundary_form
from d2o.errors import MismatchError, UnsupportedCheckpointError

from .openai_reference import Kind, Reference, State, make_weights

RELEASED = {64: Kind(), 256: Kind((1, 1, 2, 2, 4, 4), attends=3, scales=False, classes=0)}


@pytest.fixture(scope="module")
def state() -> State:
    return make_weights(RELEASED[64])


@pytest.mark.parametrize("pixels", RELEASED)
def test_it_computes_what_openai_s_network_does(tmp_path, pixels):
    state = make_weights(RELEASED[pixels])
    torch.save(state, tmp_path / "cd.pt")
    denoiser = d2o.load(tmp_path / "cd.pt")
    classes = RELEASED[pixels].classes
    assert denoiser.preconditioning == Boundary(time_scale=250.0) and denoiser.num_classes == classes
    assert denoiser.image_shape == (3, pixels, pixels)
    # The network has no fixed size, so that small images prove the large one too.
    x, sigma = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)), 5.0
    label = torch.tensor([1]) if classes else None
    with torch.no_grad():
        time = torch.tensor([250 * math.log(sigma)])
        inner = Reference(RELEASED[pixels], state)(sigma * x / (sigma**2 + 0.25) ** 0.5, time, label)
        above = sigma - 0.002
        wanted = 0.25 / (above**2 + 0.25) * sigma * x + above * 0.5 / (sigma**2 + 0.25) ** 0.5 * inner
        torch.testing.assert_close(denoiser(sigma * x, sigma, label), wanted, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_its_teacher_takes_the_same_time_in_edm_s_preconditioning(tmp_path):
    kind = Kind((1, 2), width=64)
    state, sigma = make_weights(kind), 3.0
    torch.save(state, tmp_path / "edm_imagenet64_ema.pt")
    teacher = d2o.load(tmp_path / "edm_imagenet64_ema.pt", config={"image_size": 64})
    x, label = sigma * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)), torch.tensor([1])
    norm = (sigma**2 + 0.25) ** 0.5
    inner = Reference(kind, state)(x / norm, torch.tensor([250 * math.log(sigma)]), label)
    wanted = 0.25 / norm**2 * x + sigma * 0.5 / norm * inner
    torch.testing.assert_close(teacher(x, sigma, label), wanted, rtol=1e-4, atol=2e-5)
    assert boundary_form(teacher.preconditioning) == Boundary(time_scale=250.0)


def test_which_of_both_it_is_is_told_unless_its_name_says_so(tmp_path):
    state = make_weights(Kind((1, 2), width=64))
    for name, family, warned in (
        ("model.pt", "boundary", True),
        ("cd_bedroom256.pt", "boundary", False),
        ("edm_cat256_ema.pt", "edm", False),
    ):
        torch.save(state, tmp_path / name)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = d2o.load(tmp_path / name, config={"image_size": 64})
        assert found.preconditioning.kind == found.provenance["assumed"]["family"] == family
        assert any("--family" in str(one.message) for one in caught) is warned


def test_what_is_not_theirs_is_named(tmp_path, state):
    path = tmp_path / "model.pt"
    for change, error, sentence in (
        ({"lora.weight": torch.zeros(1)}, MismatchError, r"lora\.weight is not part of the network"),
        ({"input_blocks.1.0.emb_layers.1.weight": torch.zeros(128, 512)}, MismatchError, r"affine\.weight has shape"),
        ({"input_blocks.0.0.weight": torch.zeros(32, 3, 3, 3)}, MismatchError, r"_conv\.weight has shape"),
        ({"input_blocks.9.0.x": torch.zeros(1)}, MismatchError, r"input_blocks\.9"),
        ({"output_blocks.8.0.out_layers.3.weight": torch.zeros(1)}, UnsupportedCheckpointError, "levels"),
        ({"time_embed.0.weight": torch.zeros(512, 0)}, UnsupportedCheckpointError, "model.pt"),
    ):
        torch.save(state | change, path)
        with pytest.raises(error, match=sentence):
            d2o.load(path)


def test_the_released_models_are_recognised_by_their_shapes():
    with torch.device("meta"):
        weights = make_weights(Kind(width=192, count=3, classes=1000))
    spec, _ = openai_unet.describe(weights, "cd_imagenet64_l2.pt")
    assert spec["backbone"]["num_blocks"] == 3 and spec["backbone"]["attention_resolutions"] == [32, 16, 8]
    assert spec["image_shape"] == [3, 64, 64] and spec["num_classes"] == 1000
