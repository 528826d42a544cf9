"""The parts of every U-Net here: noise and class embeddings, resampling, and the residual block with attention.

Attribute names are those of the public EDM checkpoints, so that their weights load strictly.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2o.kernels.convolution import Convolution, Geometry, convolve
from d2o.kernels.normalisation import GroupNorm, normalised_silu

Direction = Literal["up", "down"]


class PositionalEmbedding(nn.Module):
    """Map noise [N] to cosines and sines [N, channels] of frequencies that fall from 1 to 1/10000."""

    def __init__(self, channels: int, endpoint: bool = False) -> None:
        super().__init__()
        self.count = channels // 2
        self.last = max(self.count - endpoint, 1)  # the lowest frequency is among them only with `endpoint`

    def forward(self, noise: Tensor) -> Tensor:
        position = torch.arange(self.count, device=noise.device, dtype=torch.float32)
        frequencies = 10_000 ** (-position / self.last)
        return waves(noise.float()[:, None] * frequencies)


class FourierEmbedding(nn.Module):
    """Map noise [N] to cosines and sines [N, channels] of fixed random frequencies."""

    freqs: Tensor

    def __init__(self, channels: int, deviation: float = 16.0) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.randn(channels // 2) * deviation)

    def forward(self, noise: Tensor) -> Tensor:
        return waves(noise.float()[:, None] * (2 * math.pi * self.freqs.float()))


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Suspend autocast: neighbouring noise levels differ by less than bfloat16 can tell."""
    active = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if active else nullcontext()


def waves(phase: Tensor) -> Tensor:
    """Return the cosines and then the sines [N, 2K] of phases [N, K]."""
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def one_hot(label: Tensor | None, x: Tensor, num_classes: int, dropout: float = 0.0) -> Tensor:
    """Return float32 rows [N, num_classes] for N images `x`: zero for no class (None, a negative entry, dropout)."""
    if label is None:
        return x.new_zeros(x.shape[0], num_classes, dtype=torch.float32)
    label = checked_label(label, x, num_classes)
    rows = (label[:, None] == torch.arange(num_classes, device=label.device)).float()
    if dropout:
        rows = rows * (torch.rand(len(rows), 1, device=rows.device) >= dropout)
    return rows


def checked_label(label: Tensor, x: Tensor, num_classes: int) -> Tensor:
    """Return the classes [N] of N images `x`; those that are not integers, one an image, are a ValueError.

    So is a class that does not exist, on the CPU; elsewhere looking would stall.
    """
    if label.shape != x.shape[:1] or label.is_floating_point():
        raise ValueError(
            f"Labels must be {len(x)} integers, one an image, not {tuple(label.shape)} numbers of type {label.dtype}."
        )
    if label.device.type == "cpu" and not torch.compiler.is_compiling() and bool((label >= num_classes).any()):
        limit = f"classes are 0 to {num_classes - 1}" if num_classes else "this network has no classes"
        raise ValueError(f"The label {int(label.max())} does not exist: {limit}.")
    return label


def checked_augmentation(augmentation: Tensor, x: Tensor, size: int) -> Tensor:
    """Return augmentation labels [N, size] as float32, or raise ValueError for another shape."""
    if augmentation.shape != (len(x), size):
        raise ValueError(f"Augmentation labels must be [{len(x)}, {size}], not {list(augmentation.shape)}.")
    return augmentation.float()


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
        if not self.filter_last:
            return convolve(self.resample(x), self.weight, self.bias, Geometry(padding=(margin, margin)))
        if self.box:
            return self.resample(convolve(x, self.weight, self.bias, Geometry(padding=(margin, margin))))
        if self.direction == "up":
            return self.resample(convolve(x, self.weight), self.bias)
        # The convolution sees the image's surroundings, so the filter finds values there instead of zeros.
        margin += (self.resample_filter.shape[-1] - 1) // 2
        return self.resample(convolve(x, self.weight, None, Geometry(padding=(margin, margin))), self.bias, padding=0)


def group_norm(channels: int, eps: float) -> GroupNorm:
    """Return a normalisation over at most 32 groups of at least 4 channels."""
    groups = max(min(32, channels // 4), 1)
    if channels % groups:
        raise ValueError(
            f"{channels} channels do not split into {groups} groups: take multiples of 4, above 128 of 32."
        )
    return GroupNorm(groups, channels, eps)


@dataclass(frozen=True)
class Style:
    """What all blocks of one network share.

    `adaptive_scale`: the embedding scales and shifts instead of shifting only. `skip_scale` multiplies every sum of two
    branches. `head_channels`: channels of an attention head, None for a single head. `shortcut`: resampling blocks
    have a 1x1 convolution on their shortcut even where the width stays.
    """

    embedding_channels: int
    dropout: float
    eps: float
    skip_scale: float = 1.0
    adaptive_scale: bool = True
    head_channels: int | None = None
    resample_filter: Sequence[int] = (1, 1)
    shortcut: bool = False


class Block(nn.Module):
    """Two convolutions told the noise level, a shortcut around them, and self-attention where asked for."""

    def __init__(
        self,
        style: Style,
        in_channels: int,
        out_channels: int,
        resample: Direction | None = None,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.style = style
        self.in_channels, self.out_channels = in_channels, out_channels
        taps = style.resample_filter
        self.norm0 = group_norm(in_channels, style.eps)
        self.conv0 = (
            ResampledConv2d(in_channels, out_channels, 3, resample, taps)
            if resample
            else Convolution(in_channels, out_channels, 3, padding=1)
        )
        self.affine = nn.Linear(style.embedding_channels, out_channels * (1 + style.adaptive_scale))
        self.norm1 = group_norm(out_channels, style.eps)
        self.conv1 = Convolution(out_channels, out_channels, 3, padding=1)
        self.skip = self._shortcut(resample)
        self.num_heads = 0
        if attention:
            self.num_heads = max(out_channels // (style.head_channels or out_channels), 1)
            if out_channels % self.num_heads:
                raise ValueError(f"{out_channels} channels do not split into {self.num_heads} attention heads.")
            self.norm2 = group_norm(out_channels, style.eps)
            self.qkv = Convolution(out_channels, 3 * out_channels, 1)
            self.proj = Convolution(out_channels, out_channels, 1)

    def _shortcut(self, resample: Direction | None) -> nn.Module | None:
        widens = self.in_channels != self.out_channels
        if resample and (widens or self.style.shortcut):
            return ResampledConv2d(self.in_channels, self.out_channels, 1, resample, self.style.resample_filter)
        if resample:
            return Resample(resample, self.style.resample_filter)
        return Convolution(self.in_channels, self.out_channels, 1) if widens else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return [N, out_channels, H', W'] for x [N, in_channels, H, W] and embedding [N, embedding_channels]."""
        hidden = self.conv0(normalised_silu(self.norm0, x))
        shift = self.affine(embedding)[:, :, None, None]
        if self.style.adaptive_scale:
            scale, shift = shift.chunk(2, dim=1)
            hidden = F.silu(torch.addcmul(shift, self.norm1(hidden), scale + 1))
        else:
            hidden = normalised_silu(self.norm1, hidden + shift)
        hidden = self.conv1(F.dropout(hidden, self.style.dropout, self.training))
        x = self._joined(hidden, x if self.skip is None else self.skip(x))
        return self._joined(self._attention(x), x) if self.num_heads else x

    def _joined(self, branch: Tensor, trunk: Tensor) -> Tensor:
        total = branch + trunk
        return total if self.style.skip_scale == 1 else total.mul_(self.style.skip_scale)

    def _attention(self, x: Tensor) -> Tensor:
        """Every pixel looks at every pixel; the channels of `qkv` are ordered (head, channel, which of the three)."""
        count, channels, height, width = x.shape
        split = (count, self.num_heads, channels // self.num_heads, 3, height * width)
        # The fused attention kernels want every head's channels side by side in memory.
        query, key, value = self.qkv(self.norm2(x)).reshape(split).permute(3, 0, 1, 4, 2).contiguous()
        seen = F.scaled_dot_product_attention(query, key, value)
        return self.proj(seen.transpose(2, 3).reshape(x.shape))
