"""The parts of the U-Nets against closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from d2o.backbones.conditioning import FourierEmbedding, PositionalEmbedding
from d2o.backbones.layers import Block, Resample, ResampledConv2d, Style, group_norm
from d2o.backbones.unet import Direction, Place

TAPS = [(1, 1), (1, 3, 3, 1), (1, 3)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def stuffed(x: Tensor, taps: tuple[int, ...]) -> Tensor:
    """Double images by the definition: zeros between the pixels, then correlate with four times the flipped filter."""
    count, channels, height, width = x.shape
    sparse = x.new_zeros(count, channels, 2 * height, 2 * width)
    sparse[:, :, ::2, ::2] = x
    return correlated(sparse, tuple(reversed(taps)), len(taps) // 2, (len(taps) - 1) // 2) * 4


def correlated(x: Tensor, taps: tuple[int, ...], before: int, after: int) -> Tensor:
    line = torch.tensor(taps) / sum(taps)
    kernel = line.outer(line).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(x, (before, after, before, after)), kernel, groups=x.shape[1])


@pytest.mark.parametrize("taps", TAPS)
def test_resampling_follows_its_definition(taps: tuple[int, ...]) -> None:
    x = torch.randn(2, 5, 6, 6)
    edge = (len(taps) - 1) // 2
    torch.testing.assert_close(Resample("down", taps)(x), correlated(x, taps, edge, edge)[:, :, ::2, ::2])
    torch.testing.assert_close(Resample("up", taps)(x), stuffed(x, taps))


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
@pytest.mark.parametrize(("direction", "size"), [("up", 16), ("down", 4)])
def test_resampling_keeps_constants_inside(taps: tuple[int, ...], direction: Direction, size: int) -> None:
    out = Resample(direction, taps)(torch.ones(1, 2, 8, 8))
    assert out.shape == (1, 2, size, size)
    torch.testing.assert_close(out[:, :, 1:-1, 1:-1], torch.ones(1, 2, size - 2, size - 2))


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_resampled_convolution_is_resampling_then_convolution(
    taps: tuple[int, ...], kernel: int, direction: Direction
) -> None:
    layer, x = ResampledConv2d(4, 6, kernel, direction, taps), torch.randn(2, 4, 8, 8)
    plain = F.conv2d(Resample(direction, taps)(x), layer.weight, layer.bias, padding=kernel // 2)
    torch.testing.assert_close(layer(x), plain)


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_filter_last_is_one_wide_convolution(taps: tuple[int, ...]) -> None:
    """Convolving and then filtering, on an unbounded image of zeros, is one convolution with the composed kernel."""
    layer, x = ResampledConv2d(3, 5, 3, "down", taps, filter_last=True), torch.randn(2, 3, 8, 8)
    length = len(taps)
    composed = F.conv_transpose2d(layer.weight, layer.resample_filter.expand(3, 1, -1, -1), groups=3)
    assert composed.shape[-1] == length + 2
    torch.testing.assert_close(layer(x), F.conv2d(x, composed, layer.bias, stride=2, padding=(length - 1) // 2 + 1))


def test_positional_frequencies() -> None:
    noise = torch.tensor([0.0, 1.0, 500.0])
    for endpoint, last in ((True, 1e-4), (False, 1e-4 ** (3 / 4))):
        out = PositionalEmbedding(8, endpoint)(noise)
        assert out.shape == (3, 8)
        assert out[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
        torch.testing.assert_close(out[:, 0], noise.cos())
        torch.testing.assert_close(out[:, 7], (noise * last).sin())


def test_fourier_frequencies_are_fixed_and_wide() -> None:
    layer = FourierEmbedding(2000)
    assert abs(float(layer.freqs.std()) - 16) < 1.5
    out = layer(torch.tensor([0.25]))
    torch.testing.assert_close(out[0, :1000] ** 2 + out[0, 1000:] ** 2, torch.ones(1000))
    torch.testing.assert_close(out[0, 1000:], (math.pi / 2 * layer.freqs).sin())


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (16, 4), (20, 5), (128, 32), (160, 32), (768, 32)])
def test_norm_groups(channels: int, groups: int) -> None:
    assert group_norm(channels, 1e-5).num_groups == groups


@pytest.mark.parametrize("channels", [130, 132])
def test_norm_refuses_uneven_groups(channels: int) -> None:
    with pytest.raises(ValueError, match=f"{channels}.*32"):
        group_norm(channels, 1e-5)


@pytest.mark.parametrize("head_channels", [None, 4])
def test_attention_by_hand(head_channels: int | None) -> None:
    """Write the sum over pixels out: channel 3 * (head * size + i) + part of qkv is channel i of that part."""
    style = Style(embedding_channels=4, dropout=0.0, eps=1e-5, skip_scale=0.5, head_channels=head_channels)
    block = Block(style, Place("block", 3, 8, 8, attention=True)).eval()
    torch.nn.init.normal_(block.qkv.weight)
    x = torch.randn(1, 8, 3, 3)
    size = head_channels or 8
    with_attention = block(x, torch.zeros(1, 4))
    block.num_heads = 0
    middle = block(x, torch.zeros(1, 4))
    qkv = block.qkv(block.norm2(middle))[0].flatten(1)
    seen = torch.zeros(8, 9)
    for head in range(8 // size):
        query, key, value = (qkv[[3 * (head * size + i) + part for i in range(size)]] for part in range(3))
        seen[head * size : (head + 1) * size] = value @ (query.T @ key / math.sqrt(size)).softmax(1).T
    torch.testing.assert_close(with_attention, 0.5 * (middle + block.proj(seen.view(1, 8, 3, 3))))
