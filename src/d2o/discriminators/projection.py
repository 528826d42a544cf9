"""Fixed random projections: they mix the channels and the scales of a pyramid, so that no single feature is enough.

(Sauer et al., Projected GANs Converge Faster, arXiv 2111.01007, section 3.2.)
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2o.kernels.convolution import Convolution

Mixing = Literal["full", "channel", "none"]
Weights = Literal["kaiming", "released"]
MIXED = (64, 128, 256, 512)  # channels after mixing channels, finest map first
CROSSED = (64, 64, 128, 256)  # channels after mixing scales
REASSEMBLED = (96, 192, 384, 768)  # channels of a transformer's maps at strides 4, 8, 16, 32


class Projection(nn.Module):
    """Map the four tap maps of one pyramid to four projected maps, finest first.

    `full` mixes channels (1x1 convolutions), then scales from the deepest up, which doubles every side; `channel`
    mixes channels only; `none` passes the taps on. Nothing in here is trained.

    With "kaiming" weights (arXiv 1502.01852) a convolution doubles the variance; the "released" ones are those that
    torch makes, which leave a third of it, so that what has passed through fewer of them, the finer maps, dominates.
    """

    def __init__(
        self, channels: Sequence[int], mixing: Mixing = "full", tokens: bool = False, weights: Weights = "kaiming"
    ) -> None:
        super().__init__()
        self.mixing = mixing
        self.reassembly = Reassembly(channels) if tokens else None
        channels = REASSEMBLED if tokens else channels
        self.channel_mixing = nn.ModuleList()
        self.scale_mixing = nn.ModuleList()
        if mixing != "none":
            self.channel_mixing.extend(Convolution(*widths, 1) for widths in zip(channels, MIXED, strict=True))
        if mixing == "full":
            self.scale_mixing.extend(Convolution(*widths, 1) for widths in zip(MIXED, CROSSED, strict=True))
        for module in self.modules():
            if weights == "kaiming" and isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight)
        self.channels = {"full": CROSSED, "channel": MIXED, "none": tuple(channels)}[mixing]
        self.requires_grad_(False)

    def requires_grad_(self, requires_grad: bool = True) -> "Projection":
        return super().requires_grad_(False)

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        maps = list(taps) if self.reassembly is None else self.reassembly(taps)
        if self.mixing == "none":
            return maps
        maps = [mix(tap) for mix, tap in zip(self.channel_mixing, maps, strict=True)]
        if self.mixing == "channel":
            return maps
        deeper: Tensor | None = None
        for level in reversed(range(len(maps))):
            mixed = maps[level] if deeper is None else maps[level] + deeper
            # Twice the side, which is the side of the next finer map (or what it is for sides that are not even).
            size = maps[level - 1].shape[-2:] if level else [2 * side for side in mixed.shape[-2:]]
            # A 1x1 convolution commutes with interpolation and costs a quarter on the smaller map.
            mixed = self.scale_mixing[level](mixed)
            maps[level] = deeper = F.interpolate(mixed, list(size), mode="bilinear", align_corners=True)
        return maps


class Reassembly(nn.ModuleList):
    """Turn the equally sized token maps of a transformer into maps at strides 4, 8, 16 and 32, by random weights."""

    def __init__(self, channels: Sequence[int]) -> None:
        finest, fine, _, coarse = REASSEMBLED
        resize = (
            nn.ConvTranspose2d(finest, finest, 4, stride=4),
            nn.ConvTranspose2d(fine, fine, 2, stride=2),
            nn.Identity(),
            nn.Conv2d(coarse, coarse, 3, stride=2, padding=1),
        )
        layers = zip(channels, REASSEMBLED, resize, strict=True)
        super().__init__(nn.Sequential(Convolution(given, wanted, 1), last) for given, wanted, last in layers)

    def forward(self, taps: Sequence[Tensor]) -> list[Tensor]:
        return [layer(tap) for layer, tap in zip(self, taps, strict=True)]


def sides(projection: Projection, channels: Sequence[int], taps: Sequence[int]) -> tuple[int, ...]:
    with torch.no_grad():
        maps = projection([torch.zeros(1, width, side, side) for width, side in zip(channels, taps, strict=True)])
    return tuple(projected.shape[-1] for projected in maps)
