"""State dicts with EDM's names: the network of their shapes, bit for bit, in the preconditioning that a user says."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import d2o
from d2o import backbones
from d2o.checkpoints import inspect
from d2o.checkpoints.readers import states
from d2o.cli.main import run
from d2o.diffusion.families import EDM, VE, VP, Boundary, Epsilon
from refusal import refused

from .openai_reference import Kind, make_weights
from .test_edm import ADM, NCSNPP, SONG, assert_same_weights, network

SIZES = {"resolution": 16, "in_channels": 3, "out_channels": 3, "channels": 8, "dropout": 0.0}
LEVELS = {"channel_multipliers": [1, 2, 1], "num_blocks": 2, "attention_resolutions": [8, 4]}
NETWORKS: dict[str, dict[str, Any]] = {
    "ddpmpp": {"kind": "song_unet", **SIZES, **LEVELS},
    "ncsnpp": {
        "kind": "song_unet", **SIZES, **LEVELS, "num_classes": 3, "augmentation_dim": 9, "embedding": "fourier",
        "noise_embedding_multiplier": 2, "encoder": "residual", "resample_filter": [1, 3, 3, 1],
    },
    "skip": {"kind": "song_unet", **SIZES, **LEVELS, "encoder": "skip", "decoder": "skip", "embedding_multiplier": 3},
    "one level": {"kind": "song_unet", **SIZES, "channel_multipliers": [2], "attention_resolutions": []},
    "adm": {"kind": "dhariwal_unet", **SIZES, **LEVELS, "num_classes": 4, "augmentation_dim": 2},
    "grey adm": {"kind": "dhariwal_unet", **SIZES, **LEVELS, "in_channels": 1, "out_channels": 1, "num_blocks": 1},
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:The weights in")


def build(name: str) -> backbones.Backbone:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        made = backbones.build(NETWORKS[name]).eval()
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made


def prefixed(prefix: str, made: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in made.state_dict().items()}


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_and_names_tell_the_network(tmp_path, name, prefix):
    made, path = build(name), tmp_path / "song.pt"
    torch.save({"ema": prefixed(prefix, made), "net": {}, "step": 3}, path)
    denoiser = d2o.load(path)
    assert_same_weights(denoiser, made)
    assert denoiser.backbone.config == made.config
    x, noise = torch.randn(2, *denoiser.image_shape), torch.tensor([-1.0, 0.5])
    label = torch.tensor([0, 2]) if denoiser.num_classes else None
    torch.testing.assert_close(denoiser.backbone(x, noise, label), made(x, noise, label), rtol=1e-5, atol=1e-6)
    record = inspect(path).as_dict()
    assert (record["family"], record["start"], record["clip"]) == ("edm", 80.0, None)
    assert record["assumed"] == {"family": "edm", "sigma_data": 0.5, "dropout": 0.0}


FAMILIES = {
    "edm": ({"sigma_data": 0.7}, EDM(0.7)),
    "boundary": ({"eps": 0.01}, Boundary(sigma_min=0.01)),
    "vp": ({"beta_d": 10.0}, VP(beta_range=10.0)),
    "ve": ({}, VE()),
    "epsilon": ({}, Epsilon("squaredcos_cap_v2", nearest="difference")),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_family_is_said_and_what_is_not_is_assumed(tmp_path, suffix):
    path, made = tmp_path / f"song{suffix}", build("ddpmpp")
    (torch.save if suffix == ".pt" else safetensors.torch.save_file)(made.state_dict(), path)
    with pytest.warns(UserWarning, match="family = edm.*--family"):
        assert d2o.load(path).preconditioning == EDM()
    for family, (config, wanted) in FAMILIES.items():
        found = d2o.load(path, family=family, config=config | {"dropout": 0.2})
        assert found.preconditioning == wanted and found.one_step == (family == "boundary")
        assert not {"family", "dropout", *config} & found.provenance["assumed"].keys()
    with refused(str(path), "flow", "edm"):
        d2o.load(path, family="flow")


@pytest.mark.parametrize("settings", [SONG, NCSNPP, ADM], ids=["ddpmpp", "ncsnpp", "adm"])
def test_a_config_with_edm_s_arguments_is_checked(tmp_path, settings):
    path, made = tmp_path / "song.pt", network(settings)
    torch.save(made.state_dict(), path)
    assert_same_weights(d2o.load(path, config=settings | {"precond": "VEPrecond"}), made)
    assert d2o.load(path, config=settings | {"precond": "VEPrecond"}).preconditioning == VE()
    wrong = {"img_resolution": 16, "model_channels": 8, "channel_mult": [2, 2], "num_blocks": 2, "label_dim": 7}
    wrong |= {"model_type": "UNet", "dropout": 7, "blocks": 2, "precond": "EDM"}
    for name, value in wrong.items():
        with refused("song.pt", name):
            d2o.load(path, config=settings | {name: value})
    with refused("song.pt", "VEPrecond", "VPPrecond"):
        d2o.load(path, config={"precond": "VEPrecond"}, family="vp")


def test_iddpm_s_table_tells_its_family(tmp_path):
    made = network(ADM, outputs=2)
    torch.save(prefixed("model.", made) | {"u": torch.linspace(100, 0, 501)}, tmp_path / "iddpm.pt")
    denoiser = d2o.load(tmp_path / "iddpm.pt")
    assert denoiser.preconditioning == Epsilon("squaredcos_cap_v2", steps=500, nearest="difference")
    assert torch.equal(denoiser.backbone.state_dict()["out_conv.weight"], made.state_dict()["out_conv.weight"][:3])
    assert "family" not in denoiser.provenance["assumed"]
    with refused("iddpm.pt", "EDMPrecond", "iDDPMPrecond"):
        d2o.load(tmp_path / "iddpm.pt", family="edm")


def test_what_does_not_fit_is_named(tmp_path):
    path, state = tmp_path / "song.pt", build("ncsnpp").state_dict()
    for changes, word in (
        ({"enc.8x8_block1.conv1.weight": None}, "2 of 16, 1 of 8"),
        ({"enc.4x4_block0.conv1.weight": torch.zeros(12, 1)}, "multiples of 8"),
        ({"enc.16x16_conv.weight": torch.zeros(0, 3, 3, 3)}, "multiples of 0"),
        ({"enc.8x8_down.conv0.resample_filter": torch.ones(1, 1, 4, 4)}, "filter"),
        ({"map_layer1.weight": None}, "map_layer1.weight is missing"),
        ({"lora.weight": torch.zeros(1)}, "lora.weight"),
        ({"map_label.weight": torch.zeros(16)}, "map_label.weight"),
        ({"enc.2x2_conv.weight": torch.zeros(1)}, "0 of 2"),
    ):
        changed = {name: tensor for name, tensor in (state | changes).items() if tensor is not None}
        torch.save(changed, path)
        for use in (d2o.load, inspect) if word != "filter" else (d2o.load,):  # inspect reads no numbers
            with refused("song.pt", word):
                use(path)


def test_the_remedy_works_and_stays(tmp_path, capsys):
    path, out, config = tmp_path / "student.pt", tmp_path / "student.safetensors", tmp_path / "config.json"
    torch.save(build("ddpmpp").state_dict(), path)
    config.write_text(json.dumps({"sigma_data": 0.6}))
    assert run(["convert", str(path), str(out), "--family", "boundary", "--config", str(config)]) == 0
    assert d2o.load(out).preconditioning == Boundary(0.6) and d2o.load(out).one_step
    capsys.readouterr()
    assert run(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["assumed"]["family"] == "edm"


def test_no_two_readers_take_the_same_names():
    pytest.importorskip("diffusers")
    sizes = {"resolution": 8, "in_channels": 3, "out_channels": 3}
    with torch.device("meta"):
        unet, dit = backbones.build({"kind": "diffusers_unet", **sizes}), backbones.build({"kind": "dit", **sizes})
        openai = make_weights(Kind())
    named = {"unet": {name.removeprefix("unet."): t for name, t in unet.state_dict().items()}, "openai": openai}
    named |= {"dit": dit.state_dict(), **{name: build(name).state_dict() for name in NETWORKS}}
    found = {name: [reader for reader in states.READERS if reader.recognise(state)] for name, state in named.items()}
    assert all(len(readers) == 1 for readers in found.values())
    assert {reader for readers in found.values() for reader in readers} == set(states.READERS)


STRANGERS = {
    "lucidrains": {"model.init_conv.weight": 4, "model.downs.0.0.block1.proj.weight": 4, "betas": 1000},
    "score_sde": {"module.all_modules.0.weight": 4, "module.sigmas": 1000},
    "reads text": {"conv_in.weight": 4, "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q.weight": 4},
    "EDM2": {"unet.emb_fourier.freqs": 4, "logvar_fourier.freqs": 4},
}


@pytest.mark.parametrize("name", STRANGERS)
def test_networks_that_are_not_here_are_called_by_their_names(tmp_path: Path, name: str) -> None:
    state = {key: torch.zeros(size) for key, size in STRANGERS[name].items()}
    averaged = {f"{prefix}{key}": t for key, t in state.items() for prefix in ("online_model.", "ema_model.")}
    counted = averaged | {"initted": torch.tensor(True), "step": torch.tensor(3)}
    for content in (state, {"step": 3, "model": state, "opt": {}, "ema": counted, "scaler": None}):
        torch.save(content, tmp_path / "model-10.pt")
        with refused("model-10.pt", name, "own-network.md"):
            d2o.load(tmp_path / "model-10.pt")
