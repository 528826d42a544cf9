"""DiT: a transformer over patches of (latent) images, conditioned by adaptive norms (arXiv 2212.09748).

Attribute names are those of the public checkpoints of facebookresearch/DiT, so that their weights load strictly.
"""

import math
from collections import OrderedDict
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2o.kernels.attention import attend

from .backbone import Backbone, Roles
from .conditioning import check_label, full_precision, waves
from .options import check_options

EPS = 1e-6
MOST_NUMBERS = 1 << 26
"""Of all tokens of an image."""
WAVES = 256
"""Cosines and sines of the time."""


class DiT(Backbone):
    """A transformer F(x, noise, condition), where `noise` is the time 0 to 999; `config` rebuilds it.

    `channels` is the width of its tokens. The role "modulation" makes the adaptive norms; biases of blocks have a role
    of their own, to train them alone. The class table has one more row, for no class. With `embedders` "per block"
    every block has its own embedders of time and class, and the last layer uses the first block's. `time_endpoint` and
    `mlp_eps` are where diffusers departs from the original, which are the defaults. With `qk_norm` queries and keys are
    normalised.
    """

    kind: ClassVar[str] = "dit"
    roles: ClassVar[Roles] = (
        (r"^x_embedder\.", "input"),
        (r"^final_layer\.", "output"),
        (r"[ty]_embedder\.", "embedding"),
        (r"^blocks\..*\.bias$", "bias"),
        (r"\.attn\.qkv\.", "qkv"),
        (r"\.attn\.proj\.", "projection"),
        (r"\.attn\.[qk]_norm\.", "norm"),
        (r"\.mlp\.", "mlp"),
        (r"\.adaLN_modulation\.", "modulation"),
    )
    pos_embed: Tensor

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        out_channels: int,
        num_classes: int = 0,
        patch_size: int = 2,
        channels: int = 1152,
        num_blocks: int = 28,
        num_heads: int = 16,
        mlp_multiplier: int = 4,
        embedders: str = "shared",
        time_endpoint: bool = False,
        mlp_eps: float = EPS,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.config = check_options(locals())
        for whole, part, name in ((resolution, patch_size, "patch_size"), (channels, num_heads, "num_heads")):
            if whole % part:
                raise ValueError(f"The backbone option {name} = {part} must divide {whole} without remainder.")
        if channels % 4:
            raise ValueError(f"The backbone option channels must be a multiple of 4, not {channels}.")
        if (resolution // patch_size) ** 2 * channels > MOST_NUMBERS:
            raise ValueError(f"The backbone option resolution = {resolution} needs more than {MOST_NUMBERS:,} numbers.")
        self.num_classes, self.patch_size = num_classes, patch_size

        self.x_embedder = chain(proj=nn.Conv2d(in_channels, channels, patch_size, stride=patch_size))
        self.register_buffer("pos_embed", positions(resolution // patch_size, channels)[None])
        self.blocks = nn.ModuleList(
            Block(channels, num_heads, mlp_multiplier, mlp_eps, qk_norm) for _ in range(num_blocks)
        )
        self.t_embedder = self.y_embedder = None
        for holder in [self] if embedders == "shared" else self.blocks:
            holder.t_embedder = TimeEmbedder(channels, time_endpoint)
            holder.y_embedder = chain(embedding_table=nn.Embedding(num_classes + 1, channels))
        self.final_layer = FinalLayer(channels, patch_size**2 * out_channels)
        self._initialise()

    def _initialise(self) -> None:
        """Blocks begin as the identity, and the network as zero (adaLN-Zero)."""
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight.view(len(layer.weight), -1))
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
            if isinstance(layer, nn.Embedding) or ("t_embedder.mlp." in name and isinstance(layer, nn.Linear)):
                nn.init.normal_(layer.weight, std=0.02)
            if isinstance(layer, nn.Linear) and name.endswith(("adaLN_modulation.1", "final_layer.linear")):
                nn.init.zeros_(layer.weight)

    def forward(
        self, x: Tensor, noise: Tensor, condition: Tensor | None = None, augmentation: Tensor | None = None
    ) -> Tensor:
        with full_precision(x.device):
            embeddings = self.embed(x, noise, condition)
        tokens = self.x_embedder(x).flatten(2).transpose(1, 2) + self.pos_embed
        for block, embedding in zip(self.blocks, embeddings, strict=True):
            tokens = block(tokens, embedding)
        with full_precision(x.device):  # denoisers multiply the output by sigma, and with it what was rounded off
            return unpatchify(self.final_layer(tokens.float(), embeddings[0]), x, self.patch_size)

    def embed(self, x: Tensor, noise: Tensor, condition: Tensor | None) -> list[Tensor]:
        """Return for each block the embeddings [N, channels] of time and class."""
        none = torch.full((x.shape[0],), self.num_classes, device=x.device)
        label = none if condition is None else check_label(condition, x, self.num_classes)
        label = torch.where(label < 0, none, label)
        holders: list[Any] = [self] if self.t_embedder is not None else list(self.blocks)
        embeddings = [holder.t_embedder(noise) + holder.y_embedder(label) for holder in holders]
        return embeddings * (len(self.blocks) // len(holders))


class TimeEmbedder(nn.Module):
    """Map times [N] to vectors [N, channels]; with `endpoint` the slowest wave is at exactly 1/10000."""

    def __init__(self, channels: int, endpoint: bool) -> None:
        super().__init__()
        self.last = WAVES // 2 - endpoint
        self.mlp = nn.Sequential(nn.Linear(WAVES, channels), nn.SiLU(), nn.Linear(channels, channels))

    def forward(self, time: Tensor) -> Tensor:
        return self.mlp(self.waves(time))

    def waves(self, time: Tensor) -> Tensor:
        index = torch.arange(WAVES // 2, device=time.device, dtype=torch.float32)
        return waves(time.float()[:, None] * (-math.log(10_000) * index / self.last).exp())


class Block(nn.Module):
    """Attention and an MLP over the tokens, each scaled, shifted and gated by the embedding."""

    def __init__(self, channels: int, num_heads: int, mlp_multiplier: int, mlp_eps: float, qk_norm: bool) -> None:
        super().__init__()
        self.mlp_eps = mlp_eps
        self.attn = Attention(channels, num_heads, qk_norm)
        hidden = mlp_multiplier * channels
        gelu = nn.GELU(approximate="tanh")
        self.mlp = chain(fc1=nn.Linear(channels, hidden), gelu=gelu, fc2=nn.Linear(hidden, channels))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, 6 * channels))

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.adaLN_modulation(embedding)[:, None].chunk(6, dim=2)
        tokens = tokens + gate * self.attn(modulate(tokens, shift, scale))
        return tokens + mlp_gate * self.mlp(modulate(tokens, mlp_shift, mlp_scale, self.mlp_eps))


class Attention(nn.Module):
    """Every token attends to every token; the rows of `qkv` are ordered (which of the three, head, channel)."""

    def __init__(self, channels: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_norm, self.k_norm = (nn.LayerNorm(channels // num_heads) if qk_norm else nn.Identity() for _ in range(2))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        count, length, channels = tokens.shape
        split = (count, length, 3, self.num_heads, channels // self.num_heads)
        query, key, value = self.qkv(tokens).view(split).permute(2, 0, 3, 1, 4)
        attended = attend(self.q_norm(query), self.k_norm(key), value)
        return self.proj(attended.transpose(1, 2).reshape(tokens.shape))


class FinalLayer(nn.Module):
    """Turn tokens into the pixels of their patches."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, out_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(channels, 2 * channels))

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(embedding)[:, None].chunk(2, dim=2)
        return self.linear(modulate(tokens, shift, scale))


def chain(**layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def unpatchify(tokens: Tensor, x: Tensor, side: int) -> Tensor:
    """Lay patches [N, patches, side * side * out_channels] out as images of the size of `x`."""
    count, _, height, width = x.shape
    patches = tokens.view(count, height // side, width // side, side, side, -1)
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(count, -1, height, width)


def modulate(tokens: Tensor, shift: Tensor, scale: Tensor, eps: float = EPS) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(tokens, tokens.shape[-1:], eps=eps), 1 + scale)


def positions(side: int, channels: int) -> Tensor:
    """Return fixed vectors [side * side, channels] for the places of a grid, row by row.

    The first half encodes the column, the second the row: sines, then cosines, of frequencies from 1 to 1/10000.
    """
    empty = torch.empty(side * side, channels)
    if empty.is_meta:  # for whose numbers torch would import its compiler
        return empty
    frequencies = 10_000 ** -(torch.arange(channels // 4, dtype=torch.float64) / (channels // 4))
    phase = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([phase.sin(), phase.cos()], dim=1).float()
    return torch.cat([line.repeat(side, 1), line.repeat_interleave(side, 0)], dim=1)
