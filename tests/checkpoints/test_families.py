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
from d2o.checkpoints.readers import openai_unet
from d2o.cli.main import run
from d2o.diffusion.families import EDM, Boundary, Epsilon, Flow
from d2o.encoders.codec import KINDS
from refusal import refused

from .openai_reference import Kind, make_weights

State = dict[str, Tensor]
QUERIES = "blocks.0.attn.q_norm.weight"
DIT = DiT(4, 4, 8, 3, channels=384, num_blocks=1, num_heads=6).state_dict()


@pytest.fixture(scope="module")
def theirs() -> State:
    """Return the state dict of a consistency model, without the numbers."""
    with torch.device("meta"):
        return make_weights(Kind())


def adm(**changes: Any) -> State:
    """Return weights as guided-diffusion has them: attention of one dimension."""
    with torch.device("meta"):
        return make_weights(Kind(attention_dims=1, **changes))


class TestOpenAI:
    @pytest.mark.parametrize("changes", [{}, {"outputs": 6}, {"by_convolution": True, "outputs": 6}])
    def test_guided_diffusion_s_networks_predict_noise(self, changes):
        for name in ("ema_0.9999_250000.pt", "64x64_diffusion.pt", "cd_imagenet64_l2.pt"):
            found = openai_unet.from_state(adm(**changes), Path(name))
            assert isinstance(found.preconditioning, Epsilon) and not found.one_step
            assert ("family" in found.provenance["assumed"]) is (not changes)  # a learned sigma is proof

    def test_the_teachers_published_beside_them_take_many_steps(self, theirs):
        for name in ("edm_imagenet64_ema.pt", "0a1b-edm_cat256_ema.pt"):
            found = openai_unet.from_state(theirs, Path(name))
            assert found.preconditioning == EDM(time_scale=250.0) and not found.one_step
            assert found.provenance["assumed"]["family"] == "edm"

    def test_the_released_names_are_read(self, theirs):
        for name in ("cd_imagenet64_l2.pt", "ct_bedroom256.pt", "model.pt"):
            found = openai_unet.from_state(theirs, Path(name))
            assert found.one_step and found.provenance["assumed"]["family"] == "boundary"

    def test_who_knows_it_says_so(self, theirs):
        for state in (theirs, adm()):
            for family, kind in (("consistency", Boundary), ("boundary", Boundary), ("epsilon", Epsilon), ("edm", EDM)):
                found = openai_unet.from_state(state, Path("edm.pt"), family)
                assert isinstance(found.preconditioning, kind) and "family" not in found.provenance["assumed"]

    def test_what_cannot_be_is_refused(self, theirs):
        for family in ("consistency", "edm", "sit"):
            with refused("model.pt", "sigma", "family"):
                openai_unet.from_state(adm(outputs=6), Path("model.pt"), family)
        with refused("model.pt", "vp", "epsilon"):
            openai_unet.from_state(theirs, Path("model.pt"), "vp")


class TestTransformers:
    @pytest.mark.parametrize("name", ["DiT-XL-2-256x256.pt", "my_dit.pt", "0f3c-DiT-S.pt"])
    def test_a_name_that_says_dit_is_enough(self, tmp_path, name):
        torch.save(DIT, tmp_path / name)
        assert isinstance(inspect(tmp_path / name).denoiser.preconditioning, Epsilon)

    @pytest.mark.parametrize("name", ["SiT-XL-2-256x256.pt", "my_sit.pt"])
    def test_one_that_says_sit_too(self, tmp_path, name):
        torch.save(DIT, tmp_path / name)
        found = inspect(tmp_path / name)
        assert found.denoiser.preconditioning == Flow(towards="image")
        assert found.as_dict()["assumed"] == {"path_type": "linear", "family": "sit"}

    @pytest.mark.parametrize("name", ["model.pt", "0400000.pt", "lightningdit.pt", "dit_vs_sit.pt", "visit.pt"])
    def test_otherwise_it_is_asked_for(self, tmp_path, name):
        path = tmp_path / name
        torch.save(DIT, path)
        with refused(str(path), "velocity", "--family epsilon", "--family sit"):
            d2o.load(path)
        for family, wanted in (("epsilon", Epsilon()), ("sit", Flow(towards="image")), ("flow", Flow())):
            assert d2o.load(path, family=family).preconditioning == wanted

    def test_the_training_s_arguments_say_more_than_the_name(self, tmp_path):
        gvp = Flow("trigonometric", towards="image")
        for told, name, wanted in (
            ({"model": "SiT-XL/2"}, "DiT.pt", Flow(towards="image")),
            ({"model": "SiT-XL/2", "path_type": "GVP", "prediction": "velocity"}, "DiT.pt", gvp),
            ({"model": "DiT-XL/2"}, "0400000.pt", Epsilon()),
        ):
            for arguments in (argparse.Namespace(**told), told):
                torch.save({"model": DIT, "ema": DIT, "opt": {}, "args": arguments}, tmp_path / name)
                assert inspect(tmp_path / name).denoiser.preconditioning == wanted

    @pytest.mark.parametrize(
        "told", [{"path_type": "VP"}, {"prediction": "score"}, {"path_type": "x", "prediction": 3}]
    )
    def test_other_transports_are_refused(self, tmp_path, told):
        torch.save({"ema": DIT, "args": argparse.Namespace(model="SiT-XL/2", **told)}, tmp_path / "SiT.pt")
        with refused("SiT.pt", next(iter(told))):
            inspect(tmp_path / "SiT.pt")

    def test_repa_s_time_runs_towards_the_noise(self, tmp_path):
        projectors = {"projectors.0.0.weight": torch.zeros(2, 2), "projectors.0.0.bias": torch.zeros(2)}
        arguments = argparse.Namespace(model="SiT-XL/2", path_type="linear", prediction="v")
        torch.save({"ema": DIT | projectors, "args": arguments}, tmp_path / "0400000.pt")
        for family in (None, "sit", "flow"):
            found = d2o.load(tmp_path / "0400000.pt", family=family)
            assert found.preconditioning == Flow() and found.backbone.state_dict().keys() == DIT.keys()

    def test_a_lightningdit_is_no_dit(self, tmp_path):
        for name in ("blocks.0.mlp.w12.weight", "blocks.0.norm1.weight", "feat_rope.freqs_cos", QUERIES):
            torch.save(DIT | {name: torch.zeros(4)}, tmp_path / "lightningdit.pt")
            with refused("lightningdit.pt", "LightningDiT", "own-network.md"):
                d2o.load(tmp_path / "lightningdit.pt", family="sit")

    @torch.no_grad()
    def test_normalised_queries_and_keys_are_read_and_tell_the_heads(self, tmp_path):
        network = DiT(4, 4, 4, 3, channels=24, num_blocks=2, num_heads=3, qk_norm=True).eval()
        for tensor in network.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
        torch.save(network.state_dict(), tmp_path / "SiT.pt")
        found = d2o.load(tmp_path / "SiT.pt").backbone
        assert found.config == network.config
        x, time, label = torch.randn(2, 4, 4, 4), torch.rand(2), torch.tensor([0, 2])
        torch.testing.assert_close(found(x, time, label), network(x, time, label))
        with refused("SiT.pt", "num_heads"):
            d2o.load(tmp_path / "SiT.pt", config={"num_heads": 2})

    def test_the_config_is_checked_against_the_weights(self, tmp_path):
        torch.save(DIT, tmp_path / "SiT.pt")
        config = {"input_size": 4, "hidden_size": 384, "depth": 1, "num_classes": 3, "learn_sigma": True}
        assert d2o.load(tmp_path / "SiT.pt", config=config | {"num_heads": 12}).backbone.config["num_heads"] == 12  # type: ignore[index, union-attr]
        for name, wrong in (("depth", 28), ("hidden_size", 1152), ("learn_sigma", False), ("num_clases", 3)):
            with refused("SiT.pt", name):
                d2o.load(tmp_path / "SiT.pt", config=config | {name: wrong})
        with refused("SiT.pt", "path_type", "sit"):
            d2o.load(tmp_path / "SiT.pt", family="epsilon", config={"path_type": "GVP"})

    def test_the_remedy_works_and_stays(self, tmp_path, capsys):
        path, out = tmp_path / "model.pt", tmp_path / "dit.safetensors"
        torch.save(DIT, path)
        assert run(["sample", str(path), "--out", str(tmp_path / "x.png")]) == 2
        assert "`--family epsilon`" in capsys.readouterr().err
        for family, kind in (("epsilon", "epsilon"), ("sit", "flow")):
            assert run(["convert", str(path), str(out), "--family", family]) == 0
            assert inspect(out).as_dict()["family"] == kind
            assert run(["inspect", str(path), "--family", family]) == 0

    def test_a_wrong_family_is_no_way_in(self, tmp_path):
        torch.save(DIT, tmp_path / "DiT.pt")
        for family, word in (("consistency", "sit"), ("epsilom", "epsilon"), ("boundary", "sit")):
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
            ("codec", "AutoencoderDC"),
            ("vae", "AutoencoderKLFlux2"),
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

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_codec_belongs_to_the_network_s_folder_too(self, pipeline, kind):
        put(pipeline, "vae", kind)
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
        assert "thresholding" in inspect(pipeline).as_dict()["provenance"]["ignored"]

    @pytest.mark.parametrize(
        ("settings", "name"),
        [({"use_flow_sigmas": True}, "flow_prediction"), ({"timestep_type": "continuous"}, "timestep_type")],
    )
    def test_times_of_other_kinds_are_refused(self, pipeline, settings, name):
        change(pipeline / "scheduler" / "scheduler_config.json", **settings)
        with refused(name):
            inspect(pipeline)

    def test_wrapped_weights_of_a_folder_are_read(self, pipeline):
        weights = d2o.load(pipeline).state_dict()
        file = pipeline / "unet" / "diffusion_pytorch_model.safetensors"
        state = {f"module._orig_mod.{name.removeprefix('backbone.unet.')}": tensor for name, tensor in weights.items()}
        file.unlink()
        torch.save(state, file.with_suffix(".bin"))
        again = d2o.load(pipeline).state_dict()
        assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())
