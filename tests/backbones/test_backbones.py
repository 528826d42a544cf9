"""The contract that every backbone keeps: F(x, noise, label, augmentation) -> [N,C,H,W], rebuilt from its spec."""

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2o.backbones import BACKBONES, Backbone, build

Batch = dict[str, Tensor]


def distance(first: Tensor, second: Tensor) -> float:
    """Return the largest difference relative to the deviation."""
    return float((first - second).detach().abs().max() / second.detach().std())


def test_spec_round_trip(spec: dict, network: Backbone, batch: Batch) -> None:
    assert isinstance(network.config, dict)
    again = json.loads(json.dumps({"kind": network.kind, **network.config}))
    assert again == {"kind": network.kind, **network.config}
    assert spec.items() <= again.items()
    rebuilt = build(again).eval()
    rebuilt.load_state_dict(network.state_dict())
    assert torch.equal(rebuilt(**batch), network(**batch))


def test_meta_construction(spec: dict, network: Backbone) -> None:
    with torch.device("meta"):
        ghost = build(spec)
    shapes = {name: (value.shape, value.dtype) for name, value in network.state_dict().items()}
    assert {name: (value.shape, value.dtype) for name, value in ghost.state_dict().items()} == shapes
    assert all(value.is_meta for value in ghost.state_dict().values())
    assert ghost(torch.zeros(2, 3, 8, 8, device="meta"), torch.zeros(2, device="meta")).shape == (2, 3, 8, 8)


def test_evaluation_is_deterministic_and_dropout_is_not(network: Backbone, batch: Batch) -> None:
    assert torch.equal(network(**batch), network(**batch))
    network.train()
    assert distance(network(**batch), network(**batch)) > 1e-3


def test_training_without_dropout_equals_evaluation(spec: dict, network: Backbone, batch: Batch) -> None:
    steady = build(spec | {"dropout": 0.0}).train()
    steady.load_state_dict(network.state_dict())
    assert distance(steady(**batch), network(**batch)) < 1e-4


def test_images_do_not_see_each_other(network: Backbone, batch: Batch) -> None:
    together = network(**batch)
    for index in range(4):
        alone = network(**{name: value[index : index + 1] for name, value in batch.items()})
        assert distance(alone, together[index : index + 1]) < 1e-4


def test_no_class_is_none_or_negative(network: Backbone, batch: Batch) -> None:
    conditional = network(**batch)
    nothing = network(**batch | {"condition": None})
    assert torch.equal(network(**batch | {"condition": torch.full((4,), -1)}), nothing)
    assert distance(nothing, conditional) > 1e-3
    mixed = network(**batch | {"condition": torch.tensor([0, -1, 1, -7])})
    assert distance(mixed, torch.stack([conditional[0], nothing[1], conditional[2], nothing[3]])) < 1e-4


@pytest.mark.parametrize("argument", ["x", "noise", "condition", "augmentation"])
def test_every_argument_matters(network: Backbone, batch: Batch, argument: str) -> None:
    moved = batch | {argument: batch[argument].roll(1, 0)}
    assert distance(network(**moved), network(**batch)) > 1e-3


def test_no_augmentation_is_the_zero_vector(network: Backbone, batch: Batch) -> None:
    assert torch.equal(
        network(**batch | {"augmentation": None}), network(**batch | {"augmentation": torch.zeros(4, 9)})
    )


def test_label_dropout_acts_in_training_only(spec: dict, network: Backbone, batch: Batch) -> None:
    forgetful = build(spec | {"dropout": 0.0, "label_dropout": 1 - 1e-12})
    forgetful.load_state_dict(network.state_dict())
    assert distance(forgetful.eval()(**batch), network(**batch)) < 1e-4
    assert distance(forgetful.train()(**batch), network(**batch | {"condition": None})) < 1e-4


def test_gradients_reach_every_parameter(network: Backbone, batch: Batch) -> None:
    network(**batch).square().sum().backward()
    untouched = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert untouched == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_channels_last_changes_nothing(network: Backbone, batch: Batch) -> None:
    expected = network(**batch)
    network.to(memory_format=torch.channels_last)
    assert distance(network(**batch), expected) < 1e-4
    assert distance(network(**batch | {"x": batch["x"].contiguous(memory_format=torch.channels_last)}), expected) < 1e-4


def test_autocast_keeps_the_embedding_exact(network: Backbone, batch: Batch) -> None:
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: tuple, output: Any) -> None:
        seen.append(output)

    network.get_submodule("map_layer1").register_forward_hook(keep)
    pair = {name: value[:2] for name, value in batch.items()}
    exact = network(**pair)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(**pair)
        rounded.float().square().mean().backward()
    assert torch.equal(*seen)
    assert seen[1].dtype == torch.float32
    assert not torch.equal(rounded.float(), exact), "nothing ran in bfloat16"
    assert (rounded.float() - exact).square().mean().sqrt() < 0.1 * exact.std()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_other_sizes_and_widths(spec: dict) -> None:
    wide = build(spec | {"in_channels": 5, "out_channels": 2}).eval()
    assert wide(torch.zeros(2, 5, 8, 8), torch.zeros(2)).shape == (2, 2, 8, 8)
    assert wide(torch.zeros(0, 5, 8, 8), torch.zeros(0)).shape == (0, 2, 8, 8)


def test_song_starts_near_nothing_and_adm_at_nothing(spec: dict, batch: Batch) -> None:
    torch.manual_seed(0)
    fresh = build(spec).eval()
    if spec["kind"] == "dhariwal_unet":
        assert not fresh(**batch).any()
    else:
        assert 0 < fresh(**batch).abs().max() < 1e-3


def test_song_weights_are_xavier_uniform() -> None:
    torch.manual_seed(0)
    network = build({"kind": "song_unet", "resolution": 16, "in_channels": 3, "out_channels": 3, "channels": 64})
    state = network.state_dict()
    for name, gain in (("conv0", 1.0), ("conv1", 1e-5), ("qkv", math.sqrt(0.2)), ("proj", 1e-5), ("affine", 1.0)):
        weight = state[f"dec.2x2_in0.{name}.weight"]
        bound = gain * math.sqrt(6 / ((weight.shape[0] + weight.shape[1]) * weight[0, 0].numel()))
        assert bound * 0.99 < weight.abs().max() <= bound
        assert not state[f"dec.2x2_in0.{name}.bias"].any()


def test_adm_weights_are_uniform_by_fan_in() -> None:
    torch.manual_seed(0)
    options = {"resolution": 16, "in_channels": 3, "out_channels": 3, "channels": 32, "num_classes": 100}
    state = build({"kind": "dhariwal_unet", **options}).state_dict()
    for name in ("conv0", "affine", "qkv"):
        for part in ("weight", "bias"):
            bound = 1 / math.sqrt(state[f"dec.2x2_in0.{name}.weight"][0].numel())
            assert bound * 0.95 < state[f"dec.2x2_in0.{name}.{part}"].abs().max() <= bound
    assert not any(state[f"dec.2x2_in0.{name}"].any() for name in ("conv1.weight", "conv1.bias", "proj.weight"))
    assert abs(float(state["map_label.weight"].std()) - 1) < 0.05


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (torch.tensor([0, 1, 2, 4]), "label 4 .*0 to 3"),
        (torch.tensor([0, 1, 2]), "4 integers"),
        (torch.eye(4), "4 integers"),
        (torch.zeros(4), "4 integers"),
    ],
)
def test_bad_labels(network: Backbone, batch: Batch, label: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        network(**batch | {"condition": label})


def test_labels_and_augmentation_that_the_network_does_not_know(spec: dict, batch: Batch) -> None:
    plain = build(spec | {"num_classes": 0, "augmentation_dim": 0}).eval()
    with pytest.raises(ValueError, match="no classes"):
        plain(**batch | {"augmentation": None})
    with pytest.raises(ValueError, match=r"\[4, 0\].*\[4, 9\]"):
        plain(**batch | {"condition": None})
    assert plain(batch["x"], batch["noise"], torch.full((4,), -1)).shape == (4, 3, 8, 8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "song_unett"}, "'song_unet'.*--import"),
        ({"kind": None}, "None.*song_unet.*--import"),
        ({"kind": ["song_unet"]}, "kind"),
        ({"channel": 16}, "'channel'.*'channels'"),
        ({"self": 1}, "'self'"),
        ({"encoder": "residul"}, "encoder.*'residual'.*'residul'"),
        ({"channels": 16.0}, "channels.*4 to 4096"),
        ({"channels": True}, "channels.*4 to 4096"),
        ({"channels": 10**9}, "channels.*4 to 4096"),
        ({"num_blocks": 0}, "num_blocks.*1 to 64"),
        ({"num_classes": -1}, "num_classes.*0 to"),
        ({"dropout": 1.0}, "dropout.*0 to below 1"),
        ({"dropout": math.nan}, "dropout"),
        ({"dropout": "0.1"}, "dropout"),
        ({"channel_multipliers": []}, "channel_multipliers.*1 to 10"),
        ({"channel_multipliers": 2}, "channel_multipliers"),
        ({"channel_multipliers": "12"}, "channel_multipliers"),
        ({"channel_multipliers": [1, 2, 2, 2, 2]}, "8.*16.*channel_multipliers"),
        ({"resample_filter": [1, 2, 1]}, "resample_filter.*even"),
        ({"patch_size": 3}, "patch_size.*3.*8"),
        ({"channels": 132, "channel_multipliers": [1, 1]}, "132.*32"),
    ],
)
def test_bad_specs(change: dict, words: str) -> None:
    spec = {"kind": "song_unet", "resolution": 8, "in_channels": 3, "out_channels": 3, "channel_multipliers": [1]}
    with pytest.raises(ValueError, match=words):
        build(spec | change)


@pytest.mark.parametrize("kind", BACKBONES)
def test_missing_options_are_named(kind: str) -> None:
    with pytest.raises(ValueError, match="resolution, out_channels"):
        build({"kind": kind, "in_channels": 3})


def test_song_options_are_refused_by_adm() -> None:
    with pytest.raises(ValueError, match=r"dhariwal_unet.*encoder"):
        build({"kind": "dhariwal_unet", "resolution": 8, "in_channels": 3, "out_channels": 3, "encoder": "skip"})


def test_attention_heads_must_divide() -> None:
    with pytest.raises(ValueError, match=r"224.*3"):
        build(
            {"kind": "dhariwal_unet", "resolution": 8, "in_channels": 3, "out_channels": 3, "channels": 224}
            | {"channel_multipliers": [1], "attention_resolutions": []}
        )
