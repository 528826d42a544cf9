"""The skeleton of every U-Net here: the order of its blocks, and the forward pass through them.

The names of blocks and parameters are those of the public EDM and EDM2 checkpoints.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import Backbone, Roles
from .conditioning import full_precision

Direction = Literal["up", "down"]


class Place(NamedTuple):
    """A block of a U-Net: its name, the side of its output, its widths, and what it does besides convolving.

    `ends_level`: it is the last one in the decoder at its resolution.
    """

    name: str
    side: int
    in_channels: int
    out_channels: int
    direction: Direction | None = None
    attention: bool = False
    ends_level: bool = False


@dataclass(frozen=True)
class Layout:
    """The levels of a U-Net, each half the resolution of the one before.

    `channels` times `channel_multipliers` are the levels' widths and `stem` is that of the first convolution. Blocks
    attend at `attention_resolutions`: in the encoder every one, in the decoder every one or the last of its level.
    """

    resolution: int
    channels: int
    channel_multipliers: Sequence[int]
    num_blocks: int
    attention_resolutions: Sequence[int]
    stem: int
    decoder_attention: Literal["every", "last"] = "every"

    def __post_init__(self) -> None:
        check_halvings(self.resolution, len(self.channel_multipliers), "channel_multipliers")

    @property
    def levels(self) -> list[tuple[int, int]]:
        """Side and width of every level, the finest first."""
        return [(self.resolution >> level, self.channels * m) for level, m in enumerate(self.channel_multipliers)]

    def encoder(self) -> Iterator[Place]:
        """Yield the blocks after the first convolution; the decoder is given the output of each."""
        width = self.stem
        for side, level_width in self.levels:
            if side < self.resolution:
                yield Place(f"{side}x{side}_down", side, width, width, "down")
            attention = side in self.attention_resolutions
            for index in range(self.num_blocks):
                yield Place(f"{side}x{side}_block{index}", side, width, level_width, attention=attention)
                width = level_width

    def decoder(self) -> Iterator[Place]:
        """Yield the blocks from the coarsest level to the finest; `block` ones also take an output of the encoder."""
        skips = [self.stem, *(place.out_channels for place in self.encoder())]
        width = skips[-1]
        for side, level_width in reversed(self.levels):
            if side == self.levels[-1][0]:
                yield Place(f"{side}x{side}_in0", side, width, width, attention=True)
                yield Place(f"{side}x{side}_in1", side, width, width)
            else:
                yield Place(f"{side}x{side}_up", side, width, width, "up")
            for index in range(self.num_blocks + 1):
                last = index == self.num_blocks
                attention = side in self.attention_resolutions and (last or self.decoder_attention == "every")
                name = f"{side}x{side}_block{index}"
                yield Place(name, side, width + skips.pop(), level_width, attention=attention, ends_level=last)
                width = level_width


def check_halvings(resolution: int, levels: int, option: str) -> None:
    """Raise ValueError where images of this side cannot be halved between so many levels, given by `option`."""
    if resolution % (least := 2 ** (levels - 1)):
        raise ValueError(f"The backbone's resolution {resolution} must be a multiple of {least}, or {option} shorter.")


def attend(qkv: Tensor, num_heads: int, normalise: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Return [N,C,H,W] in which every pixel has attended to every pixel.

    The channels of `qkv` [N,3C,H,W] are ordered (head, channel, which of the three); `normalise` acts on the vectors
    [N, heads, channels, 3, pixels].
    """
    count, channels, height, width = qkv.shape
    vectors = qkv.reshape(count, num_heads, channels // 3 // num_heads, 3, height * width)
    vectors = vectors if normalise is None else normalise(vectors)
    # The fused attention kernels want every head's channels side by side in memory.
    query, key, value = vectors.permute(3, 0, 1, 4, 2).contiguous()
    attended = F.scaled_dot_product_attention(query, key, value)
    return attended.transpose(2, 3).reshape(count, channels // 3, height, width)


class UNet(Backbone):
    """A network of two ways: `enc` begins with a convolution, and `dec` takes the outputs of `enc` from its end.

    "convolution" is conv0 and conv1 of every block, those that resample included; "residual" brings the input image
    into deeper levels; "skip" is a block's own 1x1 shortcut.
    """

    roles: ClassVar[Roles] = (
        (r"^map_", "embedding"),
        (r"^enc\.\d+x\d+_conv\.", "input"),
        (r"^dec\.\d+x\d+_aux_(norm|conv)\.|^out_(norm|conv)\.", "output"),
        (r"^enc\.\d+x\d+_aux_(residual|skip)\.", "residual"),
        (r"\.norm[012]\.", "norm"),
        (r"\.affine\.", "affine"),
        (r"\.skip\.", "skip"),
        (r"\.qkv\.", "qkv"),
        (r"\.proj\.", "projection"),
        (r"\.conv[01]\.", "convolution"),
    )
    enc: nn.ModuleDict
    dec: nn.ModuleDict

    def forward(
        self, x: Tensor, noise: Tensor, condition: Tensor | None = None, augmentation: Tensor | None = None
    ) -> Tensor:
        with full_precision(x.device):
            embedding = self.embed(x, noise, condition, augmentation)
        return self.decode(*self.encode(x, embedding), embedding)

    def embed(self, x: Tensor, noise: Tensor, condition: Tensor | None, augmentation: Tensor | None) -> Tensor:
        """Return the vectors [N, embedding_channels] that condition every block on noise, class and augmentation."""
        raise NotImplementedError

    def encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the deepest features and what every layer passes to the decoder."""
        first, *blocks = self.enc.values()
        x = first(x)
        skips = [x]
        for block in blocks:
            x = block(x, embedding)
            skips.append(x)
        return x, skips

    def decode(self, x: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        """Return the finest features; `skips` is used up from its end."""
        for block in self.dec.values():
            x = block(self.join(x, skips, block), embedding)
        return x

    def join(self, x: Tensor, skips: list[Tensor], block: nn.Module) -> Tensor:
        """Return the input of a block of the decoder: x, with the next of `skips` where the block is wide enough."""
        return x if x.shape[1] == block.in_channels else self.concatenate(x, skips.pop())

    def concatenate(self, x: Tensor, skip: Tensor) -> Tensor:
        return torch.cat([x, skip], dim=1)
