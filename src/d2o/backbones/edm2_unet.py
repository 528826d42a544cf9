"""Edm2UNet: the magnitude-preserving ADM network of EDM2 (arXiv 2312.02696, configuration G).

Every operation maps inputs of root mean square 1 to outputs of root mean square 1, so that no norm layers and no biases
are needed. Attribute names are those of the public EDM2 checkpoints, so that their weights load strictly.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbone import Roles
from .conditioning import add_augmentation, normal, one_hot
from .options import check_options
from .unet import Layout, Place, UNet, attend

EPS = 1e-4
SILU_MAGNITUDE = 0.596
"""The root mean square of silu(x) for unit normal x."""


def normalise(x: Tensor, dims: Sequence[int]) -> Tensor:
    """Return x divided by its root mean square over `dims`."""
    size = math.prod(x.shape[dim] for dim in dims)
    norm = torch.linalg.vector_norm(x, dim=tuple(dims), keepdim=True, dtype=torch.float32)
    return x / (norm / math.sqrt(size) + EPS).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """Return silu(x), scaled so that unit normal numbers keep their magnitude."""
    return F.silu(x) / SILU_MAGNITUDE


def mp_sum(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """Return (1 - balance) a + balance b, scaled so that independent inputs of magnitude 1 give magnitude 1."""
    return a.lerp(b.to(a.dtype), balance) / math.hypot(1 - balance, balance)


def mp_cat(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """Return the channels of both [N, A + B, H, W] at magnitude 1; their shares of it do not depend on A and B."""
    first, second = a.shape[1], b.shape[1]
    scale = math.sqrt(first + second) / math.hypot(1 - balance, balance)
    return torch.cat([a * (scale * (1 - balance) / math.sqrt(first)), b * (scale * balance / math.sqrt(second))], dim=1)


class MPFourier(nn.Module):
    """Map noise [N] to cosines [N, channels] of fixed random frequencies and phases."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", normal(channels, deviation=2 * math.pi))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, noise: Tensor) -> Tensor:
        return math.sqrt(2) * (noise.float()[:, None] * self.freqs + self.phases).cos()


class MPConv(nn.Module):
    """A convolution, or with kernel 0 a linear layer, that depends on the direction of each output's weights only."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal(out_channels, in_channels, *([kernel, kernel] if kernel else [])))

    def forward(self, x: Tensor, gain: Tensor | float = 1.0) -> Tensor:
        dims = range(1, self.weight.dim())
        weight = normalise(self.weight, dims) * (gain / math.sqrt(self.weight[0].numel()))
        return F.linear(x, weight) if len(dims) == 1 else F.conv2d(x, weight, padding=weight.shape[-1] // 2)


@dataclass(frozen=True)
class MPStyle:
    """What all blocks of one network share.

    A balance is the share of the branch in a sum with its trunk; features are clipped to +-`clip`.
    """

    embedding_channels: int
    head_channels: int
    dropout: float
    residual_balance: float
    attention_balance: float
    clip: float | None


class MPBlock(nn.Module):
    """A residual block with optional self-attention; the embedding scales the features between two convolutions.

    An encoder block widens its trunk and normalises every pixel before the branch leaves it; a decoder block only
    widens the trunk, beside the branch.
    """

    def __init__(self, style: MPStyle, place: Place, flavour: Literal["encoder", "decoder"]) -> None:
        super().__init__()
        self.style, self.direction, self.encodes = style, place.direction, flavour == "encoder"
        self.in_channels, self.out_channels = in_channels, out_channels = place.in_channels, place.out_channels
        self.num_heads = out_channels // style.head_channels if place.attention else 0  # none in narrow networks
        if self.num_heads and out_channels % self.num_heads:
            raise ValueError(f"{out_channels} channels do not split into {self.num_heads} attention heads.")
        self.emb_gain = nn.Parameter(torch.zeros([]))
        self.conv_res0 = MPConv(out_channels if self.encodes else in_channels, out_channels, 3)
        self.emb_linear = MPConv(style.embedding_channels, out_channels, 0)
        self.conv_res1 = MPConv(out_channels, out_channels, 3)
        self.conv_skip = MPConv(in_channels, out_channels, 1) if in_channels != out_channels else None
        self.attn_qkv = MPConv(out_channels, 3 * out_channels, 1) if self.num_heads else None
        self.attn_proj = MPConv(out_channels, out_channels, 1) if self.num_heads else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        if self.direction is not None:
            x = F.interpolate(x, scale_factor=2) if self.direction == "up" else F.avg_pool2d(x, 2)
        if self.encodes:
            x = normalise(self._widen(x), [1])
        scale = self.emb_linear(embedding, self.emb_gain)[:, :, None, None] + 1
        hidden = mp_silu(self.conv_res0(mp_silu(x)) * scale)
        hidden = self.conv_res1(F.dropout(hidden, self.style.dropout, self.training))
        x = mp_sum(x if self.encodes else self._widen(x), hidden, self.style.residual_balance)
        if self.attn_qkv is not None and self.attn_proj is not None:
            attended = attend(self.attn_qkv(x), self.num_heads, lambda vectors: normalise(vectors, [2]))
            x = mp_sum(x, self.attn_proj(attended), self.style.attention_balance)
        return x if self.style.clip is None else x.clamp(-self.style.clip, self.style.clip)

    def _widen(self, x: Tensor) -> Tensor:
        return x if self.conv_skip is None else self.conv_skip(x)


class Edm2UNet(UNet):
    """A U-Net F(x, noise, condition) with the levels of a `Layout`; `config` rebuilds it.

    A balance is the share of the second of two inputs that are joined: classes beside noise, skips beside the trunk,
    residual branch, attention. Features are clipped to +-`clip`; dropout acts in training only.
    """

    kind: ClassVar[str] = "edm2_unet"
    roles: ClassVar[Roles] = (
        (r"^emb_", "embedding"),
        (r"^enc\.\d+x\d+_conv\.", "input"),
        (r"^out_(conv|gain)", "output"),
        (r"\.conv_res[01]\.", "convolution"),
        (r"\.attn_proj\.", "projection"),
        (r"\.attn_qkv\.", "qkv"),
        (r"\.conv_skip\.", "skip"),
        (r"\.emb_linear\.", "affine"),
        (r"\.emb_gain$", "gain"),
    )

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        out_channels: int,
        num_classes: int = 0,
        channels: int = 192,
        channel_multipliers: tuple[int, ...] = (1, 2, 3, 4),
        noise_embedding_multiplier: int = 1,
        embedding_multiplier: int = 4,
        num_blocks: int = 3,
        attention_resolutions: tuple[int, ...] = (16, 8),
        head_channels: int = 64,
        dropout: float = 0.0,
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        residual_balance: float = 0.3,
        attention_balance: float = 0.3,
        clip: float | None = 256.0,
    ) -> None:
        super().__init__()
        self.config = check_options(locals())
        self.num_classes, self.label_balance, self.concat_balance = num_classes, label_balance, concat_balance
        noise_channels, embedding_channels = channels * noise_embedding_multiplier, channels * embedding_multiplier
        style = MPStyle(embedding_channels, head_channels, dropout, residual_balance, attention_balance, clip)

        self.emb_fourier = MPFourier(noise_channels)
        self.emb_noise = MPConv(noise_channels, embedding_channels, 0)
        self.emb_label = MPConv(num_classes, embedding_channels, 0) if num_classes else None

        stem = channels * channel_multipliers[0]
        layout = Layout(resolution, channels, channel_multipliers, num_blocks, attention_resolutions, stem)
        # A channel of ones beside the image takes the place of biases.
        self.enc = nn.ModuleDict({f"{resolution}x{resolution}_conv": MPConv(in_channels + 1, stem, 3)})
        for place in layout.encoder():
            self.enc[place.name] = MPBlock(style, place, "encoder")
        self.dec = nn.ModuleDict({place.name: MPBlock(style, place, "decoder") for place in layout.decoder()})
        self.out_conv = MPConv(stem, out_channels, 3)
        self.out_gain = nn.Parameter(torch.zeros([]))

    @torch.no_grad()
    def constrain_weights(self) -> None:
        """Normalise the stored weights: otherwise they would grow, and slow learning down, unseen."""
        for layer in self.modules():
            if isinstance(layer, MPConv) and layer.weight.requires_grad:
                layer.weight.copy_(normalise(layer.weight, range(1, layer.weight.dim())))

    def embed(self, x: Tensor, noise: Tensor, condition: Tensor | None, augmentation: Tensor | None) -> Tensor:
        embedding = add_augmentation(self.emb_noise(self.emb_fourier(noise)), augmentation)
        classes = one_hot(condition, x, self.num_classes)
        if self.emb_label is not None:
            by_class = self.emb_label(classes * math.sqrt(self.num_classes))
            embedding = mp_sum(embedding, by_class, self.label_balance)
        return mp_silu(embedding)

    def encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        return super().encode(torch.cat([x, torch.ones_like(x[:, :1])], dim=1), embedding)

    def decode(self, x: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        return self.out_conv(super().decode(x, skips, embedding), self.out_gain)

    def concatenate(self, x: Tensor, skip: Tensor) -> Tensor:
        return mp_cat(x, skip, self.concat_balance)
