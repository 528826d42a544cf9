"""EDM2: recorded arguments and weights become a denoiser, exactly or with a sentence that says what is wrong."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import d2o
from d2o.backbones import build
from d2o.checkpoints import native
from d2o.checkpoints.readers import edm2
from d2o.diffusion.families import EDM
from d2o.encoders.codec import Autoencoder
from d2o.errors import CheckpointError, MismatchError, UnsupportedCheckpointError
from d2o.training.freezing import CONVOLUTIONS, freeze

FILE = Path("edm2.pkl")
KWARGS: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 4,
    "label_dim": 3,
    "model_channels": 16,
    "channel_mult": [1, 2],
}
KWARGS |= {"num_blocks": 1, "attn_resolutions": [4], "channels_per_head": 8, "dropout": 0.1, "use_fp16": True}
ENCODER: dict[str, Any] = {
    "class_name": "StabilityVAEEncoder",
    "vae_name": "stabilityai/sd-vae-ft-mse",
    "batch_size": 8,
}
ENCODER |= {
    "scale": np.array([0.12, 0.11, 0.13, 0.15], np.float32),
    "bias": np.array([-0.7, -0.35, 0.0, 0.33], np.float32),
}


def weights(kwargs: dict[str, Any], dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Return random weights of the network that EDM2 would make, named as in its files."""
    spec = edm2.describe(kwargs)["backbone"]
    torch.manual_seed(0)
    network = build(spec)
    state = {f"unet.{name}": torch.randn(tensor.shape).to(dtype) for name, tensor in network.state_dict().items()}
    head = {"freqs": torch.randn(128), "phases": torch.randn(128)}
    return (
        state
        | {f"logvar_fourier.{name}": tensor for name, tensor in head.items()}
        | {"logvar_linear.weight": torch.randn(1, 128)}
    )


def make(change: dict[str, Any] | None = None, encoder: dict[str, Any] | None = None) -> d2o.Denoiser:
    kwargs = KWARGS | (change or {})
    return edm2.make(kwargs, weights(kwargs), FILE, {"sha256": "0123"}, encoder)


def test_half_precision_weights_are_cast_up_exactly() -> None:
    denoiser, state = make(), weights(KWARGS)
    assert denoiser.preconditioning == EDM(0.5)
    assert (denoiser.image_shape, denoiser.num_classes, denoiser.training) == ((4, 8, 8), 3, False)
    mine = denoiser.backbone.state_dict()
    assert {f"unet.{name}" for name in mine} == {name for name in state if not name.startswith("logvar_")}
    assert all(tensor.dtype == torch.float32 for tensor in mine.values())
    assert all(torch.equal(tensor.half(), state[f"unet.{name}"]) for name, tensor in mine.items())
    assert all(parameter.requires_grad for parameter in denoiser.parameters())


def test_it_denoises_trains_and_freezes(tmp_path: Path) -> None:
    denoiser = make()
    x, label = torch.randn(2, 4, 8, 8), torch.tensor([0, 2])
    with torch.no_grad():
        expected = denoiser(x, 2.0, label)
        assert expected.shape == x.shape
        assert not torch.equal(denoiser(x, 2.0), expected)
        torch.testing.assert_close(denoiser(x, 1e-5, label), x, atol=1e-3, rtol=0)
    d2o.save(tmp_path / "native.safetensors", denoiser)
    again = d2o.load(tmp_path / "native.safetensors")
    assert native.describe(again) == native.describe(denoiser)
    with torch.no_grad():
        assert torch.equal(again(x, 2.0, label), expected)
    share = freeze(again, CONVOLUTIONS)
    assert 0.6 < share.frozen / share.total < 0.9
    before = {name: tensor.clone() for name, tensor in again.state_dict().items()}
    again.train()(x, 2.0, label).square().mean().backward()
    for name, parameter in again.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None)
        assert parameter.requires_grad or torch.equal(parameter, before[name])


def test_defaults_are_those_of_the_class() -> None:
    sizes = {"img_resolution": 64, "img_channels": 3, "label_dim": 1000, "use_fp16": True, "dropout": 0.0}
    spec = edm2.describe(sizes)
    with torch.device("meta"):
        config = build(spec["backbone"]).config
    assert config == {
        "resolution": 64,
        "in_channels": 3,
        "out_channels": 3,
        "num_classes": 1000,
        "channels": 192,
        "channel_multipliers": [1, 2, 3, 4],
        "noise_embedding_multiplier": 1,
        "embedding_multiplier": 4,
        "num_blocks": 3,
        "attention_resolutions": [16, 8],
        "head_channels": 64,
        "dropout": 0.0,
        "label_balance": 0.5,
        "concat_balance": 0.5,
        "residual_balance": 0.3,
        "attention_balance": 0.3,
        "clip": 256.0,
    }


@pytest.mark.parametrize("multipliers", [[2, 1, 3], (2, 1, 3)])
@pytest.mark.parametrize("noise", [{}, {"channel_mult_noise": None, "channel_mult_emb": None}])
def test_widths_of_embeddings_follow_the_levels(multipliers: Any, noise: dict[str, None]) -> None:
    config = native.describe(make({"channel_mult": multipliers, **noise}))["backbone"]
    assert (config["noise_embedding_multiplier"], config["embedding_multiplier"]) == (2, 3)
    config = native.describe(make({"channel_mult": multipliers, "channel_mult_noise": 1, "channel_mult_emb": 2}))[
        "backbone"
    ]
    assert (config["noise_embedding_multiplier"], config["embedding_multiplier"]) == (1, 2)


def test_every_argument_reaches_the_network() -> None:
    change = {"label_balance": 0.1, "concat_balance": 0.2, "res_balance": 0.4, "attn_balance": 0.6, "clip_act": None}
    denoiser = make(change | {"label_dim": 0, "sigma_data": 0.7, "resample_filter": [1, 1], "logvar_channels": 16})
    config = native.describe(denoiser)["backbone"]
    assert (config["label_balance"], config["concat_balance"], config["clip"]) == (0.1, 0.2, None)
    assert (config["residual_balance"], config["attention_balance"], config["dropout"]) == (0.4, 0.6, 0.1)
    assert (denoiser.preconditioning, denoiser.num_classes) == (EDM(0.7), 0)


def test_latents_are_remembered(tmp_path: Path) -> None:
    denoiser = make(encoder=ENCODER)
    json.dumps(denoiser.provenance)
    assert denoiser.provenance == {
        "sha256": "0123",
        "latents": {
            "encoder": "StabilityVAEEncoder",
            "vae": "stabilityai/sd-vae-ft-mse",
            "scale": ENCODER["scale"].tolist(),
            "bias": ENCODER["bias"].tolist(),
            "pixel_range": [0, 1],
        },
    }
    assert denoiser.codec == Autoencoder(
        None, tuple(ENCODER["scale"].tolist()), tuple(ENCODER["bias"].tolist()), (0, 1)
    )
    d2o.save(tmp_path / "native.safetensors", denoiser)
    again = d2o.load(tmp_path / "native.safetensors")
    assert (again.codec, again.provenance) == (denoiser.codec, denoiser.provenance)


@pytest.mark.parametrize("encoder", [None, {"class_name": "StandardRGBEncoder"}])
def test_pixels_need_no_encoder(encoder: dict[str, Any] | None) -> None:
    denoiser = make({"img_channels": 3}, encoder)
    assert denoiser.codec is None and "latents" not in denoiser.provenance


@pytest.mark.parametrize(
    ("encoder", "words"),
    [
        ({"class_name": "Anything"}, "'Anything'.*StabilityVAEEncoder"),
        (ENCODER | {"scale": None}, "scale and bias.* 4 channels"),
        (ENCODER | {"scale": [1.0, 1.0, 1.0, 0.0]}, "scale and bias"),
        (ENCODER | {"bias": [1.0, 1.0, 1.0, math.nan]}, "scale and bias"),
        (ENCODER | {"bias": [1.0]}, "scale and bias"),
    ],
)
def test_encoders_that_cannot_be_used(encoder: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedCheckpointError, match=words):
        make(encoder=encoder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channel_mult": "12"}, "channel_multipliers"),
        ({"channel_mult": []}, "channel_multipliers"),
        ({"channel_mult": [1, "2"]}, "channel_multipliers"),
        ({"channel_mult": [1, 10**9]}, "channel_multipliers"),
        ({"model_channels": 10**9}, "channels"),
        ({"model_channels": 16.0}, "channels"),
        ({"label_dim": -1}, "num_classes"),
        ({"label_dim": None}, "num_classes"),
        ({"img_resolution": 9}, "resolution 9"),
        ({"dropout": "0.1"}, "dropout"),
        ({"clip_act": -1}, "clip"),
        ({"sigma_data": 0}, "sigma_data"),
        ({"sigma_data": "0.5"}, "sigma_data"),
        ({"resample_filter": [1, 3, 3, 1]}, "filter"),
        ({"resample_filter": 1}, "filter"),
        ({"bandwidth": 1}, "'bandwidth'"),
        ({"augment_dim": 9}, "'augment_dim'"),
        ({1: 2}, "'1'"),
    ],
)
def test_bad_arguments(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedCheckpointError, match=words) as caught:
        edm2.make(KWARGS | change, weights(KWARGS), FILE, {})
    assert str(caught.value).startswith("edm2.pkl ") and len(str(caught.value)) < 500


def test_missing_arguments() -> None:
    with pytest.raises(CheckpointError, match=r"edm2\.pkl.*num_classes"):
        edm2.make({"img_resolution": 8, "img_channels": 3}, {}, FILE, {})


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("unet.out_gain", None, "out_gain"),
        ("unet.out_gain", torch.zeros(2), r"out_gain has shape \[2\], not \[\]"),
        ("unet.extra.weight", torch.zeros(2), "extra.weight"),
        ("backbone.out_gain", torch.zeros([]), "backbone.out_gain"),
        ("logvar_other.weight", torch.zeros([]), "logvar_other.weight"),
    ],
)
def test_weights_that_do_not_fit(name: str, tensor: Tensor | None, words: str) -> None:
    state = weights(KWARGS)
    state.pop(name, None)
    if tensor is not None:
        state[name] = tensor
    with pytest.raises(MismatchError, match=words):
        edm2.make(KWARGS, state, FILE, {})


def test_the_head_for_training_may_be_absent() -> None:
    state = {name: tensor for name, tensor in weights(KWARGS).items() if not name.startswith("logvar_")}
    assert edm2.make(KWARGS, state, FILE, {}).num_classes == 3
