"""On independent numbers of magnitude 1, every operation of EDM2 gives magnitude 1."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from d2o.backbones.edm2_unet import MPBlock, MPConv, MPFourier, MPStyle, mp_cat, mp_silu, mp_sum, normalise
from d2o.backbones.unet import Place, attend

STYLE = MPStyle(32, head_channels=8, dropout=0.0, residual_balance=0.3, attention_balance=0.3, clip=256.0)


def magnitude(x: Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


def distance(first: Tensor, second: Tensor) -> float:
    """Return the largest difference relative to the deviation."""
    return float((first - second).detach().abs().max() / second.detach().std())


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_silu() -> None:
    assert abs(magnitude(mp_silu(torch.randn(1_000_000))) - 1) < 2e-3


@pytest.mark.parametrize("balance", [0.0, 0.3, 0.5, 1.0])
def test_sum(balance: float) -> None:
    a, b = torch.randn(2, 500_000)
    joined = mp_sum(a, b, balance)
    assert abs(magnitude(joined) - 1) < 3e-3
    torch.testing.assert_close(joined * math.sqrt((1 - balance) ** 2 + balance**2), (1 - balance) * a + balance * b)


@pytest.mark.parametrize("balance", [0.2, 0.5])
@pytest.mark.parametrize("widths", [(24, 24), (8, 40)])
def test_concatenation(balance: float, widths: tuple[int, int]) -> None:
    a, b = torch.randn(8, widths[0], 32, 32), torch.randn(8, widths[1], 32, 32)
    joined = mp_cat(a, b, balance)
    assert abs(magnitude(joined) - 1) < 5e-3
    energy = joined.square().sum((0, 2, 3))
    assert abs(float(energy[: widths[0]].sum() / energy[widths[0] :].sum()) - ((1 - balance) / balance) ** 2) < 0.25
    assert torch.equal(mp_cat(a, b, 0.0)[:, widths[0] :], torch.zeros_like(b))


def test_fourier() -> None:
    assert abs(magnitude(MPFourier(4096)(torch.linspace(-1.5, 1.1, 50))) - 1) < 2e-2


@pytest.mark.parametrize("kernel", [0, 1, 3])
def test_convolution(kernel: int) -> None:
    layer = MPConv(64, 96, kernel)
    output = layer(torch.randn(64, 64, *([32, 32] if kernel else [])))
    inside = output[..., 1:-1, 1:-1] if kernel else output
    assert abs(magnitude(inside) - 1) < 2e-2
    assert not layer(torch.ones(1, 64, *([4, 4] if kernel else [])), 0.0).any()


def test_unit_is_idempotent_and_survives_zeros() -> None:
    x = 7 * torch.randn(4, 10, 3)
    once = normalise(x, [1, 2])
    torch.testing.assert_close(once.square().mean((1, 2)), torch.ones(4), atol=3e-4, rtol=0)
    torch.testing.assert_close(normalise(once, [1, 2]), once, atol=0, rtol=2e-4)
    assert not normalise(torch.zeros(2, 3), [1]).any()


def test_only_the_direction_of_weights_counts() -> None:
    layer, x = MPConv(8, 5, 3), torch.randn(2, 8, 6, 6)
    before = layer(x)
    layer.weight.data *= torch.tensor([1e-1, 1, 2, 10, 1e3])[:, None, None, None]
    assert distance(layer(x), before) < 3e-3


@pytest.mark.parametrize("flavour", ["encoder", "decoder"])
@pytest.mark.parametrize("widths", [(32, 32), (24, 40)])
def test_blocks(flavour: Any, widths: tuple[int, int]) -> None:
    block = MPBlock(STYLE, Place("block", 32, *widths), flavour)
    output = block(torch.randn(4, widths[0], 32, 32), mp_silu(torch.randn(4, 32)))
    assert 0.9 < magnitude(output) < 1.05


@pytest.mark.parametrize("flavour", ["encoder", "decoder"])
@pytest.mark.parametrize(("direction", "side"), [("up", 8), ("down", 2)])
def test_blocks_resample(flavour: Any, direction: Any, side: int) -> None:
    block = MPBlock(STYLE, Place("block", side, 8, 8, direction), flavour)
    assert block(torch.randn(2, 8, 4, 4), torch.zeros(2, 32)).shape == (2, 8, side, side)


def test_attention_is_softmax_of_cosines() -> None:
    qkv = torch.randn(2, 48, 3, 3)
    seen = attend(qkv, 2, lambda vectors: normalise(vectors, [2])).reshape(2, 16, 9)
    for head in range(2):
        query, key, value = (normalise(qkv.reshape(2, 2, 8, 3, 9)[:, head, :, part], [1]) for part in range(3))
        weights = (query.transpose(1, 2) @ key / math.sqrt(8)).softmax(2)
        torch.testing.assert_close(seen[:, 8 * head : 8 * head + 8], value @ weights.transpose(1, 2))
