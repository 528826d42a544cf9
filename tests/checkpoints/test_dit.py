"""DiT checkpoints: both public formats give the same numbers as their libraries, and what is wrong is named."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import d2o
from d2o import backbones
from d2o.checkpoints import CheckpointError, inspect, native
from d2o.checkpoints.readers import dit
from d2o.cli.main import run
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import Epsilon, Velocity, to_spec
from d2o.diffusion.noise import noise_for
from d2o.errors import MismatchError, UnsupportedCheckpointError, name_file
from d2o.export.dit import to_diffusers

PATH = Path("DiT.pt")
WIDTH = 384  # the smallest of which the number of heads is known


def original(out_channels: int = 8, **config: Any) -> dict[str, Tensor]:
    """Return a state dict as facebookresearch/DiT writes it, with weights that all matter."""
    spec = {"kind": "dit", "resolution": 8, "in_channels": 4, "out_channels": out_channels, "num_classes": 5}
    spec |= {"channels": WIDTH, "num_blocks": 2, "num_heads": 6, **config}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = backbones.build(spec)
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def first_half(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state without its learned sigma, one row after another."""
    kept = [pixel * 8 + channel for pixel in range(4) for channel in range(4)]
    ends = {name: state[name][kept] for name in ("final_layer.linear.weight", "final_layer.linear.bias")}
    return {**state, **ends}


def options(denoiser: Denoiser) -> dict[str, Any]:
    """Return the options of a denoiser's backbone."""
    config: Any = denoiser.backbone.config
    return config


class TestOriginal:
    def test_its_weights_arrive_bit_for_bit_without_the_learned_sigma(self):
        state = original()
        assert dit.recognise(state)
        denoiser = dit.from_state(state, PATH)
        wanted = first_half(state)
        found = denoiser.backbone.state_dict()
        assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in found)
        assert (denoiser.image_shape, denoiser.num_classes) == ((4, 8, 8), 5)
        assert denoiser.preconditioning == Epsilon() and not denoiser.training

    @torch.no_grad()
    def test_it_predicts_the_first_channels_of_the_whole_network(self):
        state = original()
        spec = {**dit.describe(state)["backbone"], "out_channels": 8}
        whole = backbones.build(spec)
        whole.load_state_dict(state)
        x, time, label = noise_for(range(3), (4, 8, 8)), torch.tensor([3.0, 500.0, 999.0]), torch.tensor([0, 4, -1])
        found = dit.from_state(state, PATH).backbone(x, time, label)
        torch.testing.assert_close(found, whole(x, time, label)[:, :4], rtol=0, atol=1e-6)

    @pytest.mark.parametrize("config", [{}, {"out_channels": 4}, {"patch_size": 4}, {"num_classes": 0}])
    def test_sizes_follow_from_shapes(self, config):
        found = options(dit.from_state(original(**config), PATH))
        assert found["out_channels"] == found["in_channels"] == 4 and found["num_blocks"] == 2
        assert found["patch_size"] == config.get("patch_size", 2)
        assert found["num_classes"] == config.get("num_classes", 5)

    def test_half_precision_becomes_float32(self):
        half = {name: tensor.half() for name, tensor in original().items()}
        assert {p.dtype for p in dit.from_state(half, PATH).parameters()} == {torch.float32}

    def test_it_comes_back_from_our_own_file(self, tmp_path):
        denoiser = dit.from_state(original(), PATH)
        d2o.save(tmp_path / "dit.safetensors", denoiser)
        again = d2o.load(tmp_path / "dit.safetensors")
        x, label = noise_for(range(2), (4, 8, 8)), torch.tensor([1, -1])
        assert torch.equal(again(80 * x, 80.0, label), denoiser(80 * x, 80.0, label))
        assert native.describe(again) == native.describe(denoiser)

    def test_training_checkpoints_of_torch_give_the_average_or_what_the_key_names(self, tmp_path):
        model, ema = original(), {name: tensor + 1 for name, tensor in original().items()}
        content = {"model": model, "ema": ema, "opt": {"state": {}}, "args": argparse.Namespace(model="DiT-S/2")}
        torch.save(content, tmp_path / "0400000.pt")
        average, last = d2o.load(tmp_path / "0400000.pt"), d2o.load(tmp_path / "0400000.pt", key="model")
        name = "blocks.0.mlp.fc1.weight"
        assert average.image_shape == (4, 8, 8) and torch.equal(average.backbone.state_dict()[name], ema[name])
        assert torch.equal(last.backbone.state_dict()[name], model[name])

    def test_heads_of_an_unpublished_width_must_be_told(self):
        state = original(channels=24, num_heads=2)
        with pytest.raises(UnsupportedCheckpointError, match=r"DiT\.pt .*width 24.*num_heads=") as error:
            dit.from_state(state, PATH)
        assert isinstance(error.value, CheckpointError)
        assert options(dit.from_state(state, PATH, num_heads=2))["num_heads"] == 2

    def test_they_are_told_on_the_command_line_too(self, tmp_path, capsys):
        path, out = tmp_path / "DiT-narrow.pt", tmp_path / "narrow.safetensors"
        torch.save(original(channels=24, num_heads=2), path)
        assert run(["inspect", str(path)]) == 2 and "--num-heads" in capsys.readouterr().err
        assert run(["convert", str(path), str(out), "--num-heads", "2"]) == 0
        assert options(d2o.load(out)) == options(inspect(path, num_heads=2).denoiser)
        assert run(["inspect", str(out), "--num-heads", "3"]) == 2 and "num_heads" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["x_embedder.proj.weight", "y_embedder.embedding_table.weight", "pos_embed"])
    def test_what_is_missing_or_misshapen_is_named(self, name):
        state = original()
        with pytest.raises(CheckpointError, match=f"{name} is missing"):
            dit.from_state({k: v for k, v in state.items() if k != name}, PATH)
        with pytest.raises(CheckpointError, match=f"{name} has shape"):
            dit.from_state({**state, name: torch.zeros(3)}, PATH)

    @pytest.mark.parametrize("change", [{"blocks.1.mlp.fc2.bias": None}, {"lora": torch.zeros(1)}])
    def test_names_are_strict(self, change):
        state = {name: tensor for name, tensor in {**original(), **change}.items() if tensor is not None}
        with pytest.raises(MismatchError, match=next(iter(change))):
            dit.from_state(state, PATH)

    @pytest.mark.parametrize("rows", [1, 12, 96])
    def test_outputs_that_are_neither_noise_nor_noise_and_sigma(self, rows):
        state = {**original(), "final_layer.linear.weight": torch.zeros(rows, WIDTH)}
        with pytest.raises(CheckpointError, match="output channels"):
            dit.from_state(state, PATH)


def theirs(shared: bool = True, **config: Any) -> Any:
    """Return a tiny DiT of diffusers; in published ones all blocks have the same embedders."""
    diffusers = pytest.importorskip("diffusers")
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 3, "sample_size": 8}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = diffusers.DiTTransformer2DModel(**sizes, out_channels=8, num_embeds_ada_norm=5, **config).eval()
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        if shared:
            for block in model.transformer_blocks:
                block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    return model


def from_diffusers(config: dict, state: dict, preconditioning: Any = None) -> d2o.Denoiser:
    with name_file(PATH):
        spec, tensors = dit.translate_diffusers(config, state)
    return native.make(PATH, spec | {"preconditioning": to_spec(preconditioning or Epsilon())}, tensors)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor, Tensor]:
    return noise_for(range(3), (4, 8, 8)), torch.tensor([0, 412, 999]), torch.tensor([1, 4, 5])


class TestDiffusers:
    @pytest.mark.parametrize("shared", [True, False])
    @torch.no_grad()
    def test_it_predicts_the_same_noise(self, shared, batch):
        model, (x, time, label) = theirs(shared), batch
        denoiser = from_diffusers(dict(model.config), model.state_dict())
        assert options(denoiser)["embedders"] == ("shared" if shared else "per block")
        wanted = model(x, timestep=time, class_labels=label).sample[:, :4]
        found = denoiser.backbone(x, time.float(), torch.where(label == 5, -1, label))
        assert wanted.std() > 0.5
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)

    def test_legacy_configs_and_other_schedules(self):
        model = theirs()
        config = {**model.config, "_class_name": "Transformer2DModel", "cross_attention_dim": None}
        config |= {"only_cross_attention": False, "use_linear_projection": False}
        schedule = Velocity("scaled_linear", 0.00085, 0.012)
        assert from_diffusers(config, model.state_dict(), schedule).preconditioning == schedule

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"norm_type": "layer_norm"}, "norm_type = layer_norm"),
            ({"attention_bias": False}, "attention_bias = False"),
            ({"caption_channels": 4096}, "caption_channels = 4096"),
            ({"out_channels": 5}, "5 output channels"),
            ({"num_layers": "28"}, "whole numbers"),
            ({"num_layers": 10**9}, "num_blocks"),
            ({"sample_size": 10**9}, "resolution"),
            ({"num_layers": 2}, "transformer_blocks|blocks.2"),
            ({"norm_eps": "x"}, "mlp_eps"),
        ],
    )
    def test_what_is_no_dit_is_refused(self, change, message):
        model = theirs()
        with pytest.raises(CheckpointError, match=message):
            from_diffusers({**model.config, **change}, model.state_dict())

    @pytest.mark.parametrize("shared", [True, False])
    @torch.no_grad()
    def test_there_and_back(self, shared):
        model = theirs(shared)
        denoiser = from_diffusers(dict(model.config), model.state_dict())
        config, tensors = to_diffusers(denoiser)
        again = from_diffusers(config, tensors)
        found, wanted = again.state_dict(), denoiser.state_dict()
        assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)

    @torch.no_grad()
    def test_an_original_network_takes_its_one_step_there(self, batch):
        diffusers, (x, time, label) = pytest.importorskip("diffusers"), batch
        denoiser = dit.from_state(original(), PATH)
        config, tensors = to_diffusers(denoiser)
        model = diffusers.DiTTransformer2DModel(**config).eval()
        model.load_state_dict(tensors)
        start = denoiser.preconditioning(torch.tensor(denoiser.sigma_max)).noise
        wanted = denoiser.backbone(x, start.expand(3), torch.where(label == 5, -1, label))
        torch.testing.assert_close(model(x, timestep=time, class_labels=label).sample, wanted, rtol=0, atol=1e-5)


def test_the_published_network_has_its_parameters():
    with torch.device("meta"):
        model = backbones.build(
            {"kind": "dit", "resolution": 32, "in_channels": 4, "out_channels": 8, "num_classes": 1000}
            | {"embedders": "per block"}
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == 749_826_464
