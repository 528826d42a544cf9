"""StyleGAN2's discriminator: residual blocks on the pixels, and a map of how much the images of a batch differ.

(Karras et al., arXiv 1912.04958; minibatch deviation from arXiv 1710.10196; classes by projection, arXiv 1802.05637.)
It has no features but what it learns: D2O's ablation in which modes are lost.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from d2o.diffusion.condition import Vocabulary
from d2o.features.weights import fix_seed
from d2o.records import RECORD

from .conditions import ConditionVectors, check_condition
from .discriminator import Discriminator, Positive

SMALLEST = 4
"""The side of the map that is judged at last."""


@dataclass(frozen=True, config=RECORD)
class StyleGAN2:
    """StyleGAN2's discriminator as plain numbers; `build` makes the network."""

    kind: Literal["stylegan2"] = "stylegan2"

    channels: Positive = 16_384
    """Channels of a map times its side, up to `width`: 32 at 512 pixels, 512 at 32."""

    width: Positive = 512
    """Most channels of a map."""

    group: Positive = 4
    """Images, side by side in the batch, whose deviation is shown to the last layers; 1 hides it."""

    networks: tuple[()] = ()
    """It has no frozen network."""

    def build(self, image_shape: Sequence[int], num_classes: Vocabulary = 0, seed: int = 0) -> "StyleGAN2Discriminator":
        """Return a new discriminator for images [C, H, W]; `seed` fixes its first weights.

        Raises ValueError for sides that are not equal powers of two from 4 on.
        """
        channels, height, width = image_shape
        if height != width or height < SMALLEST or height & (height - 1):
            remedy = "use squares whose side is a power of two, or the discriminator projected"
            raise ValueError(f"The discriminator stylegan2 cannot take {height}x{width} pixels: {remedy}.")
        with fix_seed(seed):
            return StyleGAN2Discriminator(self, channels, height, num_classes)


class StyleGAN2Discriminator(Discriminator):
    """Judge images [N, C, S, S] in [-1, 1]: one logit each, [N, 1].

    With `group` above 1 a logit also depends on the images beside it in the batch.
    """

    def __init__(self, spec: StyleGAN2, channels: int, side: int, num_classes: Vocabulary = 0) -> None:
        super().__init__()
        self.group, self.num_classes = spec.group, num_classes
        sides = [side >> level for level in range(side.bit_length()) if side >> level >= SMALLEST]
        widths = [max(min(spec.channels // size, spec.width), 1) for size in sides]
        self.first = Convolution(channels, widths[0], 1)
        self.blocks = nn.Sequential(*(Block(*pair) for pair in pairwise(widths)))
        self.last = Convolution(widths[-1] + 1, widths[-1], 3)
        self.hidden = Convolution(widths[-1] * SMALLEST**2, widths[-1], 1)
        self.classes = ConditionVectors(num_classes) if num_classes else None
        self.out = Convolution(widths[-1], ConditionVectors.width if num_classes else 1, 1)

    def judge(self, features: Sequence[Sequence[Tensor]], condition: Tensor | None = None) -> list[Tensor]:
        condition = check_condition(condition, self.num_classes)
        x = self.blocks(activation(self.first(features[0][0])))
        x = activation(self.last(torch.cat([x, self.deviation(x)], 1)))
        x = self.out(activation(self.hidden(x.flatten(1)[:, :, None, None]))).flatten(1)
        if self.classes is not None and condition is not None:
            x = (x * self.classes(condition)).sum(1, keepdim=True) / ConditionVectors.width**0.5
        return [x]

    def deviation(self, x: Tensor) -> Tensor:
        """Return a map [N, 1, H, W] of how much features [N, C, H, W] deviate within each image's group, on average."""
        count = len(x)
        size = next(size for size in range(min(self.group, count), 0, -1) if count % size == 0)
        groups = x.unflatten(0, (-1, size))
        deviation = (groups.var(1, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
        return deviation.repeat_interleave(size).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])


class Convolution(nn.Module):
    """A convolution whose weights are stored with deviation 1, so that Adam moves all layers at one pace."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, bias: bool = True, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.gain = (in_channels * kernel**2) ** -0.5
        self.stride, self.padding = stride, kernel // 2 if stride == 1 else 0

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.gain, self.bias, self.stride, self.padding)


class Block(nn.Module):
    """Two convolutions that halve a map, beside a plain 1x1 shortcut; a low-pass filter before each halving."""

    kernel: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv0 = Convolution(in_channels, in_channels, 3)
        self.conv1 = Convolution(in_channels, out_channels, 3, stride=2)
        self.skip = Convolution(in_channels, out_channels, 1, bias=False)
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
        self.register_buffer("kernel", line.outer(line)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        branch = activation(self.conv1(self.blur(activation(self.conv0(x)), padding=2)))
        return (branch + self.skip(self.blur(x, padding=1, stride=2))) * 0.5**0.5

    def blur(self, x: Tensor, padding: int, stride: int = 1) -> Tensor:
        kernel = self.kernel.expand(x.shape[1], -1, -1, -1)
        return F.conv2d(x, kernel, stride=stride, padding=padding, groups=x.shape[1])


def activation(x: Tensor) -> Tensor:
    """Return a leaky ReLU that keeps the variance."""
    return F.leaky_relu(x, 0.2) * 2**0.5
