"""Edm2UNet: magnitudes are preserved, the public networks have their published sizes, outputs are the reference's."""

import json
import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from d2o.backbones import build
from d2o.backbones.edm2_unet import Edm2UNet, MPBlock, MPConv

from .conftest import fill, images

SMALL = {"kind": "edm2_unet", "resolution": 8, "in_channels": 3, "out_channels": 3, "num_classes": 4, "num_blocks": 1}
SMALL |= {"channels": 16, "channel_multipliers": [1, 2], "attention_resolutions": [4], "head_channels": 8}


def magnitude(x: Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


def distance(first: Tensor, second: Tensor) -> float:
    """Return the largest difference relative to the deviation."""
    return float((first - second).detach().abs().max() / second.detach().std())


@torch.no_grad()
def make(**change: Any) -> Edm2UNet:
    """Return a small network whose every path matters: fresh ones have gains of zero."""
    network = fill(build(SMALL | change)).eval()
    assert isinstance(network, Edm2UNet)
    for name, parameter in network.named_parameters():
        if name.endswith("gain"):
            parameter.fill_(0.8)
    network.emb_fourier.phases.copy_(torch.linspace(0, 6, len(network.emb_fourier.phases)))
    return network


@pytest.fixture
def batch() -> dict[str, Any]:
    return {"x": images(4), "noise": torch.tensor([-1.5, -0.3, 0.4, 1.1]), "condition": torch.tensor([0, 3, 1, 2])}


def test_a_whole_network_keeps_magnitudes() -> None:
    torch.manual_seed(0)
    network = make(resolution=32, channels=32, attention_resolutions=[])
    for name, parameter in network.named_parameters():
        parameter.data = torch.zeros([]) if name.endswith("gain") else torch.randn_like(parameter)
    assert not network(torch.randn(2, 3, 32, 32), torch.zeros(2)).any(), "the output's gain starts at zero"
    network.out_gain.data.fill_(1)

    def keep(_m: Any, _x: Any, y: Tensor) -> None:
        seen.append(magnitude(y))

    seen: list[float] = []
    for module in network.modules():
        if isinstance(module, MPBlock):
            module.register_forward_hook(keep)
    assert 0.6 < magnitude(network(torch.randn(4, 3, 32, 32), torch.randn(4))) < 1.1
    assert len(seen) == 3 + 7
    assert all(0.7 < value < 1.1 for value in seen), seen


# The paper's sizes, in millions, of the networks for ImageNet: latents of 4 channels or images of 3, 64 x 64.
PUBLIC = {"XS": (128, 125), "S": (192, 280), "M": (256, 498), "L": (320, 777), "XL": (384, 1119), "XXL": (448, 1523)}


@pytest.mark.parametrize(("channels", "millions"), PUBLIC.values(), ids=PUBLIC)
@pytest.mark.parametrize("colours", [3, 4])
def test_public_networks(channels: int, millions: int, colours: int) -> None:
    with torch.device("meta"):
        sizes = {"resolution": 64, "in_channels": colours, "out_channels": colours, "num_classes": 1000}
        network = build({"kind": "edm2_unet", **sizes, "channels": channels})
    roles: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        roles[network.role(name)] += parameter.numel()
    assert abs(roles.total() / 1e6 - millions) < 0.6
    if (channels, colours) == (192, 3):
        assert roles.total() == 280_209_253
    assert len(network.state_dict()) == 200
    assert set(roles) == {role for _, role in Edm2UNet.roles}
    assert 0.837 < (roles["convolution"] + roles["projection"]) / roles.total() < 0.841  # what D2O-F freezes
    assert 0.912 < (roles["convolution"] + roles["projection"] + roles["qkv"]) / roles.total() < 0.916


def test_names_and_roles() -> None:
    names = dict(make().named_parameters())
    expected = {
        "emb_noise.weight": "embedding",
        "emb_label.weight": "embedding",
        "enc.8x8_conv.weight": "input",
        "enc.8x8_block0.conv_res0.weight": "convolution",
        "enc.4x4_down.conv_res1.weight": "convolution",
        "enc.4x4_block0.conv_skip.weight": "skip",
        "enc.4x4_block0.attn_qkv.weight": "qkv",
        "dec.4x4_in0.attn_proj.weight": "projection",
        "dec.4x4_in1.emb_gain": "gain",
        "dec.8x8_up.emb_linear.weight": "affine",
        "dec.8x8_block1.conv_skip.weight": "skip",
        "out_conv.weight": "output",
        "out_gain": "output",
    }
    assert expected.keys() <= names.keys()
    assert {name: Edm2UNet.role(name) for name in expected} == expected
    assert {name for name, _ in make().named_buffers()} == {"emb_fourier.freqs", "emb_fourier.phases"}
    with pytest.raises(ValueError, match=r"logvar_linear\.weight"):
        Edm2UNet.role("logvar_linear.weight")


EXPECTED = (
    "-0.527059 -0.245951 0.175328 -1.189677 0.775034 -0.518350 1.111097 -0.660192 1.452467 "
    "0.370804 0.574525 -0.063951 1.510953 -0.719102 -1.199791 0.855555 2.027041 0.428502 "
)


def test_reference_outputs() -> None:
    """The numbers are outputs of the reference implementation for the same formula weights."""
    expected = torch.tensor([float(number) for number in EXPECTED.split()])
    with torch.no_grad():
        output = make()(images(2), torch.tensor([-1.2, 0.9]), torch.tensor([2, -1]))
    torch.testing.assert_close(output[:, :, 1::3, 7].flatten(), expected, atol=2e-5, rtol=1e-4)


def test_spec_round_trip(batch: dict[str, Any]) -> None:
    network = make(clip=None, label_balance=0.3)
    spec = json.loads(json.dumps({"kind": network.kind, **network.config}))
    rebuilt = build(spec).eval()
    rebuilt.load_state_dict(network.state_dict())
    assert (SMALL | {"clip": None, "label_balance": 0.3}).items() <= spec.items()
    assert torch.equal(rebuilt(**batch), network(**batch))
    with torch.device("meta"):
        assert build(spec)(torch.zeros(2, 3, 8, 8), torch.zeros(2)).shape == (2, 3, 8, 8)


def test_no_class_is_none_or_negative(batch: dict[str, Any]) -> None:
    network = make()
    nothing = network(**batch | {"condition": None})
    assert torch.equal(network(**batch | {"condition": torch.full((4,), -1)}), nothing)
    assert distance(nothing, network(**batch)) > 1e-3


@pytest.mark.parametrize("argument", ["x", "noise", "condition"])
def test_every_argument_matters(batch: dict[str, Any], argument: str) -> None:
    network = make()
    assert distance(network(**batch | {argument: batch[argument].roll(1, 0)}), network(**batch)) > 1e-3


@pytest.mark.parametrize(
    "option", ["label_balance", "concat_balance", "residual_balance", "attention_balance", "clip", "head_channels"]
)
def test_every_option_matters(batch: dict[str, Any], option: str) -> None:
    other = make(**{option: 4 if option == "head_channels" else 0.15})
    assert distance(other(**batch), make()(**batch)) > 1e-3


def test_images_do_not_see_each_other(batch: dict[str, Any]) -> None:
    network = make()
    together = network(**batch)
    for index in range(4):
        alone = network(**{name: value[index : index + 1] for name, value in batch.items()})
        assert distance(alone, together[index : index + 1]) < 1e-4
    assert network(torch.zeros(0, 3, 8, 8), torch.zeros(0)).shape == (0, 3, 8, 8)


def test_channels_last_changes_nothing(batch: dict[str, Any]) -> None:
    network = make()
    expected = network(**batch)
    network.to(memory_format=torch.channels_last)
    assert distance(network(**batch), expected) < 1e-4


def test_dropout_acts_in_training_only(batch: dict[str, Any]) -> None:
    network = make(dropout=0.5)
    assert torch.equal(network(**batch), network(**batch))
    network.train()
    assert distance(network(**batch), network(**batch)) > 1e-2


def test_constraints_normalise_the_weights_that_are_trained_and_no_others(batch: dict[str, Any]) -> None:
    network = make()
    before, expected = {name: value.clone() for name, value in network.state_dict().items()}, network(**batch)
    network.train()(**batch)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items()), "by no forward pass"
    frozen = {name for name, _ in network.named_parameters() if network.role(name) == "convolution"}
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name not in frozen)
    network.constrain_weights()
    assert distance(network(**batch), expected) < 3e-2  # the formula's weights are small: the epsilon of norms counts
    for name, parameter in network.named_parameters():
        if name in frozen or parameter.dim() == 0:
            assert torch.equal(parameter, before[name])
        else:
            assert torch.allclose(parameter.flatten(1).square().mean(1), torch.ones(len(parameter)), atol=3e-3)


def test_two_passes_before_one_step(batch: dict[str, Any]) -> None:
    """Objectives may call the student twice."""
    network = make().train()
    (network(**batch) - network(**batch | {"condition": None})).square().sum().backward()
    untouched = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert untouched == []
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_gradients_are_orthogonal_to_the_weights(batch: dict[str, Any]) -> None:
    network = make()
    network(**batch).square().sum().backward()
    for layer in network.modules():
        if isinstance(layer, MPConv):
            gradient, weight = layer.weight.grad, layer.weight.detach()
            assert gradient is not None
            assert nn.functional.cosine_similarity(gradient.flatten(1), weight.flatten(1)).abs().max() < 1e-2


def test_autocast_is_close(batch: dict[str, Any]) -> None:
    network = make()
    exact = network(**batch)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(**batch)
        rounded.float().square().mean().backward()
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).square().mean().sqrt() < 0.1 * exact.std()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"concat_balance": 1.5}, "concat_balance.*0 to 1"),
        ({"label_balance": math.nan}, "label_balance"),
        ({"clip": 0}, "clip.*positive"),
        ({"clip": math.inf}, "clip.*positive"),
        ({"head_channels": 0}, "head_channels"),
        ({"channels": 20, "head_channels": 6}, "20.*3"),
        ({"encoder": "skip"}, "edm2_unet.*encoder"),
    ],
)
def test_bad_specs(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build(SMALL | {"channel_multipliers": [1]} | change)


def test_augmentation_is_refused(batch: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\[4, 0\]"):
        make()(**batch, augmentation=torch.zeros(4, 9))
