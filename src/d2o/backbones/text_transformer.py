"""A small transformer over patches of images that attends to the words of a caption, whose encoder it brings along.

Its blocks are DiT's, with attention to the words between the patches' own attention and the MLP (arXiv 2310.00426).
"""

import re
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2o.diffusion.condition import PADDING, Blend
from d2o.kernels.attention import attend

from .backbone import Backbone, Roles
from .conditioning import full_precision, normal
from .dit import Block, FinalLayer, TimeEmbedder, chain, modulate, positions, unpatchify
from .options import check_options

NOTHING = 1
"""The number of the one word that stands for no caption at all."""


class TextTransformer(Backbone):
    """A transformer F(x, noise, words) for whole numbers `words` [N, L], 0 after a caption's last word; L <= `length`.

    `vocabulary` is how many numbers there are, 1 for no caption among them. In training a caption is dropped with
    probability `caption_dropout`.
    """

    kind: ClassVar[str] = "text_transformer"
    reads_words: ClassVar[bool] = True
    blends: ClassVar[bool] = True
    roles: ClassVar[Roles] = (
        (r"^text\.", "text"),
        (r"^x_embedder\.", "input"),
        (r"^final_layer\.", "output"),
        (r"t_embedder\.", "embedding"),
        (r"\.norm\.", "norm"),
        (r"^blocks\..*\.bias$", "bias"),
        (r"\.(qkv|query|key_value)\.", "qkv"),
        (r"\.proj\.", "projection"),
        (r"\.mlp\.", "mlp"),
        (r"\.adaLN_modulation\.", "modulation"),
    )
    pos_embed: Tensor

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
        num_blocks: int = 4,
        num_heads: int = 4,
        mlp_multiplier: int = 4,
        caption_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.config = check_options(locals())
        if resolution % patch_size or channels % num_heads or channels % 4 or num_classes:
            raise ValueError(
                "The backbone text_transformer takes no classes; its patch_size must divide the resolution, and "
                f"num_heads and 4 its channels: {resolution}, {patch_size}, {channels}, {num_heads} do not fit."
            )
        self.patch_size, self.caption_dropout = patch_size, caption_dropout
        self.text = WordEncoder(vocabulary, length, channels, num_heads)
        self.x_embedder = chain(proj=nn.Conv2d(in_channels, channels, patch_size, stride=patch_size))
        self.register_buffer("pos_embed", positions(resolution // patch_size, channels)[None])
        self.t_embedder = TimeEmbedder(channels, endpoint=False)
        self.blocks = nn.ModuleList(TextBlock(channels, num_heads, mlp_multiplier) for _ in range(num_blocks))
        self.final_layer = FinalLayer(channels, patch_size**2 * out_channels)
        for name, parameter in self.named_parameters():  # blocks begin as the identity, and the network as zero
            if re.search(r"adaLN_modulation|final_layer\.linear|cross\.proj", name):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor, noise: Tensor, condition: Any = None, augmentation: Tensor | None = None) -> Tensor:
        with full_precision(x.device):
            text, summary, seen = self.read(x, condition)
            embedding = self.t_embedder(noise) + summary
        tokens = self.x_embedder(x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens, embedding, text, seen)
        with full_precision(x.device):
            return unpatchify(self.final_layer(tokens.float(), embedding), x, self.patch_size)

    def read(self, x: Tensor, condition: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return captions' vectors [N, L, C], their summaries [N, C], and which vectors are seen, [N, 1, 1, L].

        Of blended captions a vector that only one of them has is seen in part: attention adds the logarithm of a share.
        """
        if not isinstance(condition, Blend):
            words = self.drop_captions(x, condition)
            return *self.text(words), (words != PADDING)[:, None, None]
        text, summary, seen = (condition.mix(lambda words, i=i: self.read(x, words)[i].float()) for i in range(3))
        return text, summary, seen.log()

    def drop_captions(self, x: Tensor, words: Tensor | None) -> Tensor:
        """Return the words [N, L] of the images' captions, that of no caption where there is none or it is dropped."""
        nothing = torch.zeros(1, self.text.length, dtype=torch.long, device=x.device)
        nothing[0, 0] = NOTHING
        if words is None:
            return nothing.expand(len(x), -1)
        words = F.pad(check_words(words, x, self.text.length), (0, self.text.length - words.shape[1]))
        empty = (words == PADDING).all(1, keepdim=True)
        if self.training and self.caption_dropout:
            empty = empty | (torch.rand(len(x), 1, device=x.device) < self.caption_dropout)
        return torch.where(empty, nothing, words)


def check_words(words: Tensor, x: Tensor, length: int) -> Tensor:
    """Return the words [N, L] of the captions of N images `x`; ValueError for what is none, or longer."""
    if words.dim() != 2 or words.shape[0] != x.shape[0] or words.shape[1] > length or words.is_floating_point():
        wanted = f"[{len(x)}, up to {length}]"
        raise ValueError(f"Captions must be whole numbers {wanted}, not {words.dtype} {list(words.shape)}.")
    return words


class WordEncoder(nn.Module):
    """Map words [N, length] to vectors [N, length, channels], and to a summary [N, channels] of each caption."""

    def __init__(self, vocabulary: int, length: int, channels: int, num_heads: int) -> None:
        super().__init__()
        self.length = length
        self.words = nn.Embedding.from_pretrained(normal(vocabulary, channels), freeze=False)
        self.places = nn.Parameter(normal(length, channels, deviation=0.02))
        self.layer = nn.TransformerEncoderLayer(
            channels, num_heads, 2 * channels, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(channels)
        self.summary = nn.Linear(channels, channels)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor]:
        padding = words == PADDING
        text = self.norm(self.layer(self.words(words) + self.places, src_key_padding_mask=padding))
        there = (~padding).unsqueeze(2).float()
        return text, self.summary((text * there).sum(1) / there.sum(1))


class TextBlock(Block):
    """A block of DiT that looks at the words between its attention and its MLP."""

    def __init__(self, channels: int, num_heads: int, mlp_multiplier: int) -> None:
        super().__init__(channels, num_heads, mlp_multiplier, mlp_eps=1e-6, qk_norm=False)
        self.cross = WordAttention(channels, num_heads)

    def forward(self, tokens: Tensor, embedding: Tensor, text: Tensor, seen: Tensor) -> Tensor:  # type: ignore[override]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.adaLN_modulation(embedding)[:, None].chunk(6, dim=2)
        tokens = tokens + gate * self.attn(modulate(tokens, shift, scale))
        tokens = tokens + self.cross(tokens, text, seen)
        return tokens + mlp_gate * self.mlp(modulate(tokens, mlp_shift, mlp_scale, self.mlp_eps))


class WordAttention(nn.Module):
    """Every token of the image attends to the words of its caption that are `seen` [N, 1, 1, L]."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(channels)
        self.query, self.key_value = nn.Linear(channels, channels), nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, text: Tensor, seen: Tensor) -> Tensor:
        def split(vectors: Tensor) -> Tensor:
            return vectors.unflatten(2, (self.num_heads, -1)).transpose(1, 2)

        key, value = self.key_value(text).chunk(2, dim=2)
        query = split(self.query(self.norm(tokens)))
        attended = attend(query, split(key), split(value), seen)
        return self.proj(attended.transpose(1, 2).flatten(2))
