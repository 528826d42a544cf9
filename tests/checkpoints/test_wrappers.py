"""The names that training wrappers give are taken off, and types that are no plain weights are named."""

import json

import pytest
import safetensors.torch
import torch
from torch import Tensor

import d2o
from d2o.backbones.dit import DiT
from d2o.checkpoints import inspect
from d2o.checkpoints.native import CHECKSUM
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM
from refusal import refused

LAYER = "blocks.0.mlp.fc1.bias"
STATE = DiT(4, 4, 8, 3, channels=384, num_blocks=1, num_heads=6).state_dict()


def prefixed(prefix: str, value: float) -> dict[str, Tensor]:
    return {f"{prefix}{name}": torch.full_like(t, value) if name == LAYER else t for name, t in STATE.items()}


COUNTERS = {"step": torch.tensor(5), "initted": torch.tensor([True])}
FILES = {
    "DataParallel": prefixed("module.", 1),
    "torch.compile": prefixed("_orig_mod.", 1),
    "both": prefixed("module._orig_mod.", 1),
    "Lightning": {"epoch": 3, "state_dict": prefixed("model.", 1), "hyper_parameters": {"a": 1}},
    "a wrapper within": {"state_dict": prefixed("model.diffusion_model.", 1)},
    "nested": {"model": {"state_dict": prefixed("", 1)}},
    "average beside": {"ema": prefixed("module.", 1), "model": prefixed("module.", 2)},
    "average in one dictionary": {**prefixed("online_model.", 2), **prefixed("ema_model.", 1), **COUNTERS},
    "score_sde": {"step": 3, "optimizer": {"a": 1}, "ema_state_dict": prefixed("", 1), "model_state_dict": STATE},
    "BasicSR": {"params": prefixed("", 2), "params_ema": prefixed("", 1)},
    "an average's shadow": {"ema": {"decay": 0.999, "shadow": prefixed("", 1)}, "model": STATE},
    "an average of no names": {"ema": {"decay": 0.999, "shadow_params": [STATE[LAYER]]}, "model": prefixed("", 1)},
    "another order": {**prefixed("ema.module.", 1), **prefixed("model.module.", 2)},
}


@pytest.mark.parametrize("name", FILES)
def test_wrapped_weights_are_read(tmp_path, name):
    torch.save(FILES[name], tmp_path / "DiT.pt")
    for found in (d2o.load(tmp_path / "DiT.pt"), inspect(tmp_path / "DiT.pt").denoiser):
        assert found.image_shape == (4, 4, 4)
    weights = d2o.load(tmp_path / "DiT.pt").backbone.state_dict()
    assert bool((weights[LAYER] == 1).all()) and torch.equal(weights["pos_embed"], STATE["pos_embed"])


def test_where_the_weights_stood_is_told(tmp_path):
    for name, entry in (
        ("average beside", "ema.module"),
        ("a wrapper within", "state_dict.model.diffusion_model"),
        ("average in one dictionary", "ema_model"),
        ("an average of no names", "model"),
    ):
        torch.save(FILES[name], tmp_path / "DiT.pt")
        assert inspect(tmp_path / "DiT.pt").as_dict()["provenance"]["entry"] == entry
    torch.save(STATE, tmp_path / "DiT.pt")
    assert "entry" not in d2o.load(tmp_path / "DiT.pt").provenance


def test_a_key_chooses_among_wrapped_networks(tmp_path):
    torch.save(FILES["average in one dictionary"], tmp_path / "DiT.pt")
    weights = d2o.load(tmp_path / "DiT.pt", key="online_model").backbone.state_dict()
    assert bool((weights[LAYER] == 2).all())
    torch.save({**prefixed("model.", 1), **prefixed("net.", 2)}, tmp_path / "DiT.pt")
    with refused("DiT.pt", "model", "net", "key"):
        d2o.load(tmp_path / "DiT.pt")


def test_what_stands_beside_a_network_is_not_dropped(tmp_path):
    torch.save({**prefixed("model.", 1), "first_stage_model.conv.weight": torch.ones(3)}, tmp_path / "DiT.pt")
    with refused("DiT.pt", "first_stage_model", "model ("):
        d2o.load(tmp_path / "DiT.pt")
    torch.save({"module." * 1000 + "weight": torch.ones(2)}, tmp_path / "DiT.pt")
    with refused("DiT.pt", "unknown network"):
        d2o.load(tmp_path / "DiT.pt")


@pytest.mark.parametrize("use", [d2o.load, inspect])
class TestTypes:
    @pytest.mark.parametrize(
        "dtype", ["complex64", "complex128", "int8", "int64", "bool", "complex32", "float8_e4m3fn", "uint16"]
    )
    def test_weights_of_torch_files(self, tmp_path, dtype, use):
        weight = STATE[LAYER].to(getattr(torch, dtype))
        torch.save(STATE | {LAYER: weight}, tmp_path / "DiT.pt")
        stored = ("complex32", "float8_e4m3fn", "uint16")  # without a storage of their type
        with refused(
            "DiT.pt", "storage of its own" if dtype in stored else f"fc1.bias has numbers of type torch.{dtype}"
        ):
            use(tmp_path / "DiT.pt")

    @pytest.mark.filterwarnings("ignore")
    def test_quantised_and_sparse_ones(self, tmp_path, use):
        weight = STATE["blocks.0.mlp.fc1.weight"]
        for word, other in (
            ("quantised", torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)),
            ("quantised", torch.quantize_per_channel(weight, torch.ones(1536), torch.zeros(1536), 0, torch.quint8)),
            ("sparse", weight.to_sparse()),
        ):
            torch.save(STATE | {"blocks.0.mlp.fc1.weight": other}, tmp_path / "DiT.pt")
            with refused("DiT.pt", word, "float32"):
                use(tmp_path / "DiT.pt")

    @pytest.mark.parametrize("dtype", ["complex64", "int8", "int64", "bool", "float8_e4m3fn", "float8_e5m2"])
    def test_weights_of_safetensors(self, tmp_path, dtype, use):
        path = tmp_path / "model.safetensors"
        d2o.save(path, Denoiser(DiT(4, 4, 4, 3, channels=8, num_blocks=1, num_heads=2), EDM(), (4, 4, 4), 3))
        with safetensors.safe_open(path, "pt") as file:
            metadata, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        changed = state[f"backbone.{LAYER}"].to(getattr(torch, dtype))
        metadata["d2o"] = json.dumps({k: v for k, v in json.loads(metadata["d2o"]).items() if k != CHECKSUM})
        safetensors.torch.save_file(state | {f"backbone.{LAYER}": changed}, path, metadata)
        with refused("model.safetensors", f"fc1.bias has numbers of type torch.{dtype}"):
            use(path)
