"""What a network predicts: where its weights do not tell, it is asked for, and nothing is guessed."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import d2o
from d2o.backbones.dit import DiT
from d2o.checkpoints import inspect
from d2o.checkpoints.readers import consistency
from d2o.cli.main import run
from d2o.diffusion.families import Boundary, Epsilon
from refusal import refused

from .test_consistency import released

State = dict[str, Tensor]
DIT = DiT(4, 4, 8, 3, channels=384, num_blocks=1, num_heads=6).state_dict()


@pytest.fixture(scope="module")
def theirs() -> State:
    """Return the state dict of a consistency model, without the numbers."""
    return {name: torch.empty(tensor.shape, device="meta") for name, tensor in released(64).items()}


def adm(state: State, outputs: int = 3) -> State:
    """Return the weights as guided-diffusion has them: attention of one dimension, perhaps with a learned sigma."""
    flat = {name: t[..., 0] if name.endswith((".qkv.weight", ".proj_out.weight")) else t for name, t in state.items()}
    ends = {f"out.2.{part}": torch.empty([outputs, *state[f"out.2.{part}"].shape[1:]]) for part in ("weight", "bias")}
    return flat | {name: tensor.to("meta") for name, tensor in ends.items()}


class TestConsistency:
    def test_guided_diffusion_s_networks_predict_noise_and_are_refused(self, theirs):
        for name in ("ema_0.9999_250000.pt", "64x64_diffusion.pt", "cd_imagenet64_l2.pt"):
            with refused(name, "guided-diffusion", "--family consistency"):
                consistency.from_state(adm(theirs), Path(name))
            with refused(name, "guided-diffusion", "6 output"):
                consistency.from_state(adm(theirs, 6), Path(name))

    def test_the_teachers_published_beside_them_take_many_steps_and_are_refused(self, theirs):
        for name in ("edm_imagenet64_ema.pt", "0a1b-edm_cat256_ema.pt"):
            with refused(name, "many steps", "--family consistency"):
                consistency.from_state(theirs, Path(name))

    def test_the_released_names_are_read(self, theirs):
        for name in ("cd_imagenet64_l2.pt", "ct_bedroom256.pt", "model.pt"):
            assert consistency.from_state(theirs, Path(name)).one_step

    def test_who_knows_it_says_so(self, theirs):
        for state in (theirs, adm(theirs)):
            found = consistency.from_state(state, Path("edm.pt"), "consistency")
            assert isinstance(found.preconditioning, Boundary)


class TestDiT:
    @pytest.mark.parametrize("name", ["DiT-XL-2-256x256.pt", "my_dit.pt", "0f3c-DiT-S.pt"])
    def test_a_name_that_says_dit_is_enough(self, tmp_path, name):
        torch.save(DIT, tmp_path / name)
        assert isinstance(inspect(tmp_path / name).denoiser.preconditioning, Epsilon)

    @pytest.mark.parametrize(
        "name", ["SiT-XL-2-256x256.pt", "model.pt", "0400000.pt", "lightningdit.pt", "dit_vs_sit.pt"]
    )
    def test_otherwise_it_is_asked_for(self, tmp_path, name):
        path = tmp_path / name
        torch.save(DIT, path)
        with refused(str(path), "velocity", "--family epsilon"):
            d2o.load(path)
        assert isinstance(d2o.load(path, family="epsilon").preconditioning, Epsilon)

    def test_the_training_s_arguments_say_more_than_the_name(self, tmp_path):
        for model, name in (("SiT-XL/2", "DiT.pt"), ("DiT-XL/2", "0400000.pt")):
            for arguments in (argparse.Namespace(model=model), {"model": model}):
                torch.save({"model": DIT, "ema": DIT, "opt": {}, "args": arguments}, tmp_path / name)
                if model.startswith("DiT"):
                    assert inspect(tmp_path / name).denoiser.num_classes == 3
                else:
                    with refused("SiT", "--family epsilon"):
                        inspect(tmp_path / name)

    def test_the_remedy_works_and_stays(self, tmp_path, capsys):
        path, out = tmp_path / "model.pt", tmp_path / "dit.safetensors"
        torch.save(DIT, path)
        assert run(["sample", str(path), "--out", str(tmp_path / "x.png")]) == 2
        assert "d2o convert FILE OUT.safetensors --family epsilon" in capsys.readouterr().err
        assert run(["convert", str(path), str(out), "--family", "epsilon"]) == 0
        assert run(["inspect", str(out)]) == 0
        assert run(["inspect", str(path), "--family", "epsilon"]) == 0

    def test_a_wrong_family_is_no_way_in(self, tmp_path):
        torch.save(DIT, tmp_path / "DiT.pt")
        for family, word in (("consistency", "leave family out"), ("epsilom", "epsilon"), ("boundary", "consistency")):
            with refused(word):
                d2o.load(tmp_path / "DiT.pt", family=family)
        with refused("leave family out"):
            d2o.load("digits-small", family="epsilon")


@pytest.fixture
def pipeline(tmp_path) -> Path:
    diffusers = pytest.importorskip("diffusers")
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(4, 8), norm_num_groups=4, layers_per_block=1, attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(clip_sample=False)).save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def put(pipeline: Path, name: str, kind: str, index: bool = True) -> None:
    """Put a part into a pipeline: its folder, and, with `index`, its row of the index."""
    (pipeline / name).mkdir()
    (pipeline / name / "config.json").write_text(json.dumps({"_class_name": kind}))
    if index:
        change(pipeline / "model_index.json", **{name: ["diffusers", kind]})


def change(file: Path, **settings: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


class TestPipelines:
    @pytest.mark.parametrize("index", [True, False])
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("vqvae", "VQModel"),
            ("vae", "VQModel"),
            ("movq", "VQModel"),
            ("codec", "AutoencoderKL"),
            ("vae", "AutoencoderTiny"),
        ],
    )
    def test_latents_of_unknown_codecs_are_no_pixels(self, pipeline, name, kind, index):
        put(pipeline, name, kind, index)
        for path in (pipeline, pipeline / "unet"):
            with refused(str(pipeline), name, kind):
                inspect(path)
        (pipeline / "model_index.json").unlink()
        with refused(name, kind):
            d2o.load(pipeline / "unet")

    def test_a_codec_belongs_to_the_network_s_folder_too(self, pipeline):
        put(pipeline, "vae", "AutoencoderKL")
        for path in (pipeline, pipeline / "unet"):
            codec: Any = inspect(path).denoiser.codec
            assert Path(codec.folder) == pipeline / "vae"

    def test_what_the_index_names_must_be_there(self, pipeline):
        change(pipeline / "model_index.json", vae=["diffusers", "AutoencoderKL"])
        with refused("vae", "download"):
            inspect(pipeline)
        change(pipeline / "model_index.json", vae=[None, None], text_encoder=["transformers", "CLIPTextModel"])
        with refused("text_encoder", "CLIPTextModel"):
            inspect(pipeline)

    def test_clipping_is_the_model_s(self, pipeline):
        scheduler = pipeline / "scheduler" / "scheduler_config.json"
        assert d2o.load(pipeline).clip is None
        change(scheduler, clip_sample=True, clip_sample_range=0.8)
        denoiser = d2o.load(pipeline)
        assert denoiser.clip == inspect(pipeline).as_dict()["clip"] == 0.8
        x = 80 * torch.randn(2, *denoiser.image_shape)
        assert torch.equal(denoiser(x, 80.0), denoiser.replace(clip=None)(x, 80.0).clamp(-0.8, 0.8))
        change(scheduler, clip_sample=False, thresholding=True)
        with pytest.warns(UserWarning, match="thresholding"):
            inspect(pipeline)

    @pytest.mark.parametrize("settings", [{"use_flow_sigmas": True}, {"timestep_type": "continuous"}])
    def test_times_of_other_kinds_are_refused(self, pipeline, settings):
        change(pipeline / "scheduler" / "scheduler_config.json", **settings)
        with refused(next(iter(settings))):
            inspect(pipeline)

    def test_wrapped_weights_of_a_folder_are_read(self, pipeline):
        weights = d2o.load(pipeline).state_dict()
        file = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
        state = {f"module._orig_mod.{name.removeprefix('backbone.unet.')}": tensor for name, tensor in weights.items()}
        file.unlink()
        torch.save(state, file.with_suffix(".bin"))
        again = d2o.load(pipeline).state_dict()
        assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
