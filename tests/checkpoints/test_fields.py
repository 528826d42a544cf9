"""What a denoiser is besides its network travels with its file; for files of 0.1.0 it is derived from what they say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import d2o
from d2o.checkpoints import native
from d2o.checkpoints.inspection import warn_about_one_step
from d2o.diffusion.families import EDM, Boundary
from d2o.encoders.codec import Autoencoder

OLD = Path(__file__).parents[1] / "fixtures" / "0.1.0"
LITE0 = ("tf_efficientnet_lite0",)


def rewrite(path: Path, **changes: object) -> Path:
    """Write a file as 0.1.0 did, without the fields, and with something changed."""
    spec = {name: value for name, value in native.read_header(path).items() if name not in ("one_step", "judged_by")}
    save_file(load_file(path), path, {native.SPEC: json.dumps(spec | changes)})
    return path


def test_every_field_comes_back(tiny_denoiser, tmp_path):
    codec = Autoencoder("here/vae", (0.5,) * 4, (0.1,) * 4, (0.0, 1.0), precision="bfloat16")
    fields = {"one_step": True, "judged_by": ("a", "b"), "middle_sigmas": (0.8, 0.1), "codec": codec}
    d2o.save(tmp_path / "model.safetensors", tiny_denoiser().replace(**fields))
    again = d2o.load(tmp_path / "model.safetensors")
    for name, value in fields.items():
        assert getattr(again, name) == (replace(codec, precision="float32") if name == "codec" else value)


def test_a_codec_can_be_named_when_loading(tiny_denoiser, tmp_path):
    (tmp_path / "vae").mkdir()
    config = {"_class_name": "AutoencoderKL", "out_channels": 3, "block_out_channels": [8, 8]}
    (tmp_path / "vae" / "config.json").write_text(json.dumps(config))
    d2o.save(tmp_path / "model.safetensors", tiny_denoiser(channels=4).replace(codec=Autoencoder(scale=(2.0,) * 4)))
    plain, named = (d2o.load(tmp_path / "model.safetensors", codec=folder) for folder in (None, tmp_path / "vae"))
    assert plain.pixel_shape == (4, 8, 8) and named.pixel_shape == (3, 16, 16)
    assert named.codec == Autoencoder(str(tmp_path / "vae"), (2.0,) * 4)
    with pytest.raises(ValueError, match=r"nothing.*--codec"):
        d2o.load(tmp_path / "model.safetensors", codec=tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "one_step", "judged_by", "middle_sigmas"),
    [
        ("d2o-f", True, LITE0, ()),
        ("two-step", True, LITE0, (0.8,)),
        ("ctm-gan", True, (), ()),  # a convolutional discriminator has no frozen network
        ("pd", True, (), ()),
        ("pretraining", False, (), ()),
        ("teacher", False, (), ()),
    ],
)
def test_files_of_0_1_0(tmp_path, name, one_step, judged_by, middle_sigmas):
    for _ in range(2):
        denoiser = d2o.load(OLD / name)
        assert (denoiser.one_step, denoiser.judged_by, denoiser.middle_sigmas) == (one_step, judged_by, middle_sigmas)
        assert (warn_about_one_step(denoiser) is None) == one_step
        d2o.save(tmp_path / "again.safetensors", denoiser)
        assert native.describe(d2o.load(tmp_path / "again.safetensors")) == native.describe(denoiser)


@pytest.mark.parametrize(("family", "one_step"), [(EDM(), False), (Boundary(), True)])
@pytest.mark.parametrize("recipe", [3, {}, {"objectives": {"kind": "x"}}, {"objectives": [3]}, {"discriminator": [1]}])
def test_of_a_strange_provenance_the_preconditioning_counts(tiny_denoiser, tmp_path, family, one_step, recipe):
    path = tmp_path / "model.safetensors"
    d2o.save(path, tiny_denoiser().replace(preconditioning=family))
    denoiser = d2o.load(rewrite(path, provenance={"recipe": recipe}))
    assert (denoiser.one_step, denoiser.judged_by) == (one_step, ())


def test_latents_of_0_1_0_are_scaled_as_its_provenance_says(tiny_denoiser, tmp_path):
    path = tmp_path / "model.safetensors"
    d2o.save(path, tiny_denoiser(channels=4))
    latents = {"encoder": "StabilityVAEEncoder", "scale": [1.0] * 4, "bias": [0.5] * 4, "pixel_range": [0, 1]}
    record = {"folder": "vae", "precision": "bfloat16", "checkpointing": True}
    wanted = Autoencoder(None, (1.0,) * 4, (0.5,) * 4, (0.0, 1.0))
    assert d2o.load(rewrite(path, provenance={"latents": latents})).codec == wanted
    assert d2o.load(rewrite(path, provenance={"codec": record})).codec == Autoencoder("vae")
    with pytest.raises(d2o.checkpoints.CheckpointError, match=r"model\.safetensors.*codec"):
        d2o.load(rewrite(path, provenance={"codec": {"folder": 3}}))


def test_the_warning_names_the_remedies(tiny_denoiser):
    assert "d2o finetune" in str(warn_about_one_step(tiny_denoiser()))
    assert "--steps 18" in str(warn_about_one_step(tiny_denoiser(), "--steps 18 gives its own images"))
