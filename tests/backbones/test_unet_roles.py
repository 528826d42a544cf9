"""Counts of the real networks, built without memory: the public files and the shares that each freezing rule holds."""

from collections import Counter

import pytest
import torch

from d2o.backbones import Backbone, build
from d2o.backbones.unet import UNet

NCSNPP = {
    "embedding": "fourier",
    "noise_embedding_multiplier": 2,
    "encoder": "residual",
    "resample_filter": [1, 3, 3, 1],
}
CIFAR = {"kind": "song_unet", "resolution": 32, "channel_multipliers": [2, 2, 2]}
FACES = {"kind": "song_unet", "resolution": 64, "channel_multipliers": [1, 2, 2, 2]}
IMAGENET = {"kind": "dhariwal_unet", "resolution": 64, "num_classes": 1000}
AUGMENTED = {"augmentation_dim": 9}
CONVOLUTIONS = {"convolution", "projection"}


def ghost(spec: dict) -> Backbone:
    with torch.device("meta"):
        return build({"in_channels": 3, "out_channels": 3, **spec})


def counts(network: Backbone) -> Counter[str]:
    """Return the number of parameters of every role."""
    total: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        role = network.role(name)
        total[role] += parameter.numel()
    return total


@pytest.mark.parametrize(
    ("spec", "parameters", "entries"),
    [
        (CIFAR | NCSNPP | AUGMENTED, 56_397_827, 432),
        (CIFAR | NCSNPP | AUGMENTED | {"num_classes": 10}, 56_400_643, 434),
        (CIFAR | AUGMENTED, 55_733_891, 425),
        (CIFAR | AUGMENTED | {"num_classes": 10}, 55_735_299, 427),
        (FACES | NCSNPP | AUGMENTED, 62_761_091, 563),
        (FACES | AUGMENTED, 61_805_571, 553),
        (IMAGENET, 295_899_267, 553),
    ],
    ids=["cifar-ve", "cifar-cond-ve", "cifar-vp", "cifar-cond-vp", "faces-ve", "faces-vp", "imagenet"],
)
def test_public_files(spec: dict, parameters: int, entries: int) -> None:
    network = ghost(spec)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == entries


@pytest.mark.parametrize(
    ("spec", "parameters", "shares"),
    [
        (CIFAR | NCSNPP, 56_395_523, (84.40, 86.50, 90.46)),
        (CIFAR, 55_732_739, (85.40, 87.53, 91.54)),
        (FACES | NCSNPP, 62_758_787, (83.84, 85.72, 89.70)),
        (FACES, 61_804_419, (85.13, 87.05, 91.09)),
        (IMAGENET, 295_899_267, (78.77, 86.96, 90.17)),
    ],
    ids=["cifar-ve", "cifar-vp", "faces-ve", "faces-vp", "imagenet"],
)
def test_frozen_shares(spec: dict, parameters: int, shares: tuple[float, float, float]) -> None:
    by_role = counts(ghost(spec))
    assert by_role.total() == parameters
    for roles, share in zip(
        (CONVOLUTIONS, CONVOLUTIONS | {"qkv"}, CONVOLUTIONS | {"qkv", "skip"}), shares, strict=True
    ):
        assert round(100 * sum(by_role[role] for role in roles) / parameters, 2) == share


@pytest.mark.parametrize(
    ("spec", "roles", "frozen"),
    [
        (CIFAR | NCSNPP, CONVOLUTIONS, 47_597_568),
        (CIFAR | NCSNPP, {"convolution", "qkv"}, 48_387_072),  # the paper's 85.80 %
        (CIFAR, CONVOLUTIONS, 55_732_739 - 8_135_171),
        (FACES | NCSNPP, CONVOLUTIONS, 52_614_144),
        (FACES, CONVOLUTIONS, 61_804_419 - 9_190_275),
        (IMAGENET, CONVOLUTIONS, 233_065_920),
    ],
)
def test_frozen_counts(spec: dict, roles: set[str], frozen: int) -> None:
    by_role = counts(ghost(spec))
    assert sum(by_role[role] for role in roles) == frozen


def test_paper_share() -> None:
    by_role = counts(ghost(CIFAR | NCSNPP))
    assert round(100 * (by_role["convolution"] + by_role["qkv"]) / by_role.total(), 2) == 85.80


def test_every_role_is_met_and_unknown_names_are_refused() -> None:
    by_role = counts(ghost(CIFAR | NCSNPP | AUGMENTED))
    assert set(by_role) == {role for _, role in UNet.roles}
    with pytest.raises(ValueError, match=r"blocks\.0\.weight"):
        UNet.role("blocks.0.weight")


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("enc.32x32_conv.weight", "input"),
        ("dec.32x32_aux_conv.bias", "output"),
        ("dec.32x32_aux_norm.weight", "output"),
        ("out_conv.weight", "output"),
        ("enc.16x16_aux_residual.weight", "residual"),
        ("enc.16x16_aux_skip.weight", "residual"),
        ("enc.16x16_down.conv0.weight", "convolution"),
        ("dec.16x16_up.skip.weight", "skip"),
        ("dec.16x16_in0.norm2.bias", "norm"),
        ("dec.16x16_in0.proj.bias", "projection"),
        ("map_augment.weight", "embedding"),
    ],
)
def test_roles_by_name(name: str, role: str) -> None:
    assert UNet.role(name) == role
