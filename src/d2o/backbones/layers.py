"""The parts of SongUNet and DhariwalUNet: resampling, and the residual block with attention.

Attribute names are those of the public EDM checkpoints, so that their weights load strictly.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2o.kernels.convolution import Convolution, Geometry, convolve
from d2o.kernels.normalisation import GroupNorm, normalise

from .unet import Direction, Place, attend


class Resample(nn.Module):
    """Double or halve images with a separable low-pass filter; zeros lie outside the image."""

    resample_filter: Tensor

    def __init__(self, direction: Direction, taps: Sequence[int] = (1, 1)) -> None:
        super().__init__()
        self.direction = direction
        self.box = len(taps) == 2 and taps[0] == taps[1]
        # In Python's numbers: on the meta device, where checkpoints are built, torch would import its compiler for it.
        square = [[a * b / sum(taps) ** 2 for b in taps] for a in taps]
        self.register_buffer("resample_filter", torch.tensor([[square]], dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(x)

    def resample(self, x: Tensor, bias: Tensor | None = None, padding: int | None = None) -> Tensor:
        """Return [N,C,2H,2W] or [N,C,H/2,W/2]; `bias` [C] is added to it, `padding` replaces the centred one."""
        if self.box and bias is None:  # the filter (1, 1) is a repetition or a mean
            return F.interpolate(x, scale_factor=2) if self.direction == "up" else F.avg_pool2d(x, 2)
        channels = x.shape[1]
        weight = self.resample_filter.to(x.dtype).expand(channels, -1, -1, -1)
        padding = (weight.shape[-1] - 1) // 2 if padding is None else padding
        if self.direction == "up":
            return F.conv_transpose2d(x, 4 * weight, bias, stride=2, padding=padding, groups=channels)
        return F.conv2d(x, weight, bias, stride=2, padding=padding, groups=channels)


class ResampledConv2d(Resample):
    """A convolution of doubled or halved images; `filter_last` halves what was convolved instead."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        direction: Direction,
        taps: Sequence[int] = (1, 1),
        filter_last: bool = False,
    ) -> None:
        super().__init__(direction, taps)
        assert not (filter_last and direction == "up")
        self.weight, self.bias = nn.Conv2d(in_channels, out_channels, kernel).parameters()
        # Doubling and a 1x1 convolution commute, and the small image is four times cheaper.
        self.filter_last = filter_last or (kernel == 1 and direction == "up")

    def forward(self, x: Tensor) -> Tensor:
        margin = self.weight.shape[-1] // 2
        centred = Geometry(padding=(margin, margin))
        if not self.filter_last:
            return convolve(self.resample(x), self.weight, self.bias, centred)
        if self.box:
            return self.resample(convolve(x, self.weight, self.bias, centred))
        if self.direction == "up":
            return self.resample(convolve(x, self.weight), self.bias)
        # The convolution sees the image's surroundings, so the filter finds values there instead of zeros.
        margin += (self.resample_filter.shape[-1] - 1) // 2
        return self.resample(convolve(x, self.weight, None, Geometry(padding=(margin, margin))), self.bias, padding=0)


def group_norm(channels: int, eps: float, groups: int | None = None) -> GroupNorm:
    """Return a normalisation over `groups`, by default at most 32 of at least 4 channels."""
    groups = groups or max(min(32, channels // 4), 1)
    if channels % groups:
        raise ValueError(f"{channels} channels do not form {groups} groups: take multiples of 4, above 128 of 32.")
    return GroupNorm(groups, channels, eps)


@dataclass(frozen=True)
class Style:
    """What all blocks of one network share.

    `adaptive_scale`: the embedding scales and shifts instead of shifting only. `skip_scale` multiplies every sum of two
    branches. `head_channels`: channels of an attention head, None for a single head; or there are `num_heads`
    everywhere. `groups`: of every norm (see `group_norm`). `shortcut`: resampling blocks have a 1x1 convolution on
    their shortcut even where the width stays.
    """

    embedding_channels: int
    dropout: float
    eps: float
    skip_scale: float = 1.0
    adaptive_scale: bool = True
    head_channels: int | None = None
    num_heads: int | None = None
    groups: int | None = None
    resample_filter: Sequence[int] = (1, 1)
    shortcut: bool = False


class Block(nn.Module):
    """Two convolutions conditioned on the embedding, a shortcut around them, and self-attention where asked for."""

    def __init__(self, style: Style, place: Place) -> None:
        super().__init__()
        self.style = style
        self.in_channels, self.out_channels = in_channels, out_channels = place.in_channels, place.out_channels
        self.norm0 = group_norm(in_channels, style.eps, style.groups)
        self.conv0 = (
            ResampledConv2d(in_channels, out_channels, 3, place.direction, style.resample_filter)
            if place.direction
            else Convolution(in_channels, out_channels, 3, padding=1)
        )
        self.affine = nn.Linear(style.embedding_channels, out_channels * (1 + style.adaptive_scale))
        self.norm1 = group_norm(out_channels, style.eps, style.groups)
        self.conv1 = Convolution(out_channels, out_channels, 3, padding=1)
        self.skip = self._shortcut(place.direction)
        self.num_heads = 0
        if place.attention:
            self.num_heads = style.num_heads or max(out_channels // (style.head_channels or out_channels), 1)
            if out_channels % self.num_heads:
                raise ValueError(f"{out_channels} channels do not split into {self.num_heads} attention heads.")
            self.norm2 = group_norm(out_channels, style.eps, style.groups)
            self.qkv = Convolution(out_channels, 3 * out_channels, 1)
            self.proj = Convolution(out_channels, out_channels, 1)

    def _shortcut(self, direction: Direction | None) -> nn.Module | None:
        widens = self.in_channels != self.out_channels
        if direction and (widens or self.style.shortcut):
            return ResampledConv2d(self.in_channels, self.out_channels, 1, direction, self.style.resample_filter)
        if direction:
            return Resample(direction, self.style.resample_filter)
        return Convolution(self.in_channels, self.out_channels, 1) if widens else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return [N, out_channels, H', W'] for x [N, in_channels, H, W] and embedding [N, embedding_channels]."""
        hidden = self.conv0(normalise(self.norm0, x, silu=True))
        shift = self.affine(embedding)[:, :, None, None]
        if self.style.adaptive_scale:
            scale, shift = shift.chunk(2, dim=1)
            hidden = F.silu(torch.addcmul(shift, self.norm1(hidden), scale + 1))
        else:
            hidden = normalise(self.norm1, hidden + shift, silu=True)
        hidden = self.conv1(F.dropout(hidden, self.style.dropout, self.training))
        x = self._add(hidden, x if self.skip is None else self.skip(x))
        return self._add(self.proj(attend(self.qkv(self.norm2(x)), self.num_heads)), x) if self.num_heads else x

    def _add(self, branch: Tensor, trunk: Tensor) -> Tensor:
        total = branch + trunk
        return total if self.style.skip_scale == 1 else total.mul_(self.style.skip_scale)


class ResamplingConvolution(nn.Module):
    """In the place of a block that resamples: one convolution, of the doubled image or with stride 2."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.in_channels, self.doubles = place.in_channels, place.direction == "up"
        self.conv0 = Convolution(place.in_channels, place.out_channels, 3, stride=2 - self.doubles, padding=1)

    def forward(self, x: Tensor, _embedding: Tensor) -> Tensor:
        return self.conv0(F.interpolate(x, scale_factor=2) if self.doubles else x)
