"""A small U-Net that is asked in words: a SongUNet on squares of pixels, told the sum of its caption's words.

What a caption says of an image as a whole is enough where words name things rather than places; it costs nothing.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from d2o.diffusion.condition import PADDING, Blend

from .backbone import Roles
from .conditioning import normal
from .options import check_options
from .song_unet import SongUNet
from .text_transformer import check_words


class TextUNet(SongUNet):
    """A DDPM++ U-Net F(x, noise, words) for whole numbers `words` [N, L], 0 after a caption's last word; L <= `length`.

    `vocabulary` is how many numbers there are; in training a caption is dropped with probability `caption_dropout`.
    """

    kind: ClassVar[str] = "text_unet"
    reads_words: ClassVar[bool] = True
    blends: ClassVar[bool] = True
    roles: ClassVar[Roles] = ((r"^words\.", "text"), *SongUNet.roles)

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        out_channels: int,
        vocabulary: int,
        length: int,
        num_classes: int = 0,
        patch_size: int = 2,
        channels: int = 64,
        channel_multipliers: tuple[int, ...] = (1, 2),
        num_blocks: int = 2,
        attention_resolutions: tuple[int, ...] = (8,),
        dropout: float = 0.0,
        caption_dropout: float = 0.1,
    ) -> None:
        config = check_options(locals())
        if num_classes:
            raise ValueError("The backbone text_unet takes no classes: its num_classes must be 0.")
        super().__init__(
            resolution, in_channels, out_channels, channels=channels, channel_multipliers=channel_multipliers,
            num_blocks=num_blocks, attention_resolutions=attention_resolutions, dropout=dropout, patch_size=patch_size,
        )  # fmt: skip
        self.config, self.length, self.caption_dropout = config, length, caption_dropout
        self.words = nn.Embedding.from_pretrained(normal(vocabulary, channels), freeze=False)

    def embed_condition(self, x: Tensor, condition: Any) -> Any:
        """Return the sum of a caption's words over the root of their number, as if they had nothing in common."""
        if condition is None:
            return None
        if isinstance(condition, Blend):
            return condition.mix(lambda words: self.embed_condition(x, words))
        words = check_words(condition, x, self.length)
        there = (words != PADDING)[..., None].float()
        if self.training and self.caption_dropout:
            there = there * (torch.rand(len(x), 1, 1, device=x.device) >= self.caption_dropout)
        return (self.words(words) * there).sum(1) / there.sum(1).clamp(min=1).sqrt() * math.sqrt(2)
