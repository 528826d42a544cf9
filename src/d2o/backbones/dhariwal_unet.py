"""DhariwalUNet: the ADM network of arXiv 2105.05233 as EDM trains it (arXiv 2206.00364), for ImageNet at 64 x 64."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2o.kernels.normalisation import normalised_silu

from .backbone import Backbone
from .layers import Block, PositionalEmbedding, Style, checked_augmentation, full_precision, group_norm, one_hot
from .options import checked
from .roles import unet_role

EPS = 1e-5
ZERO_AT_START = ("conv1", "proj", "out_conv", "map_augment")


class DhariwalUNet(Backbone):
    """A U-Net F(x, noise, label); `config` rebuilds it.

    `channels` times `channel_multipliers` are the widths of the levels, each half the resolution of the one before.
    `augmentation_dim` is the length of augmentation labels; dropouts act in training only. Without `adaptive_scale` the
    embedding shifts features and does not scale them, as in consistency models of 256 pixels.
    """

    kind: ClassVar[str] = "dhariwal_unet"
    role = staticmethod(unet_role)

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        out_channels: int,
        num_classes: int = 0,
        augmentation_dim: int = 0,
        channels: int = 192,
        channel_multipliers: tuple[int, ...] = (1, 2, 3, 4),
        embedding_multiplier: int = 4,
        num_blocks: int = 3,
        attention_resolutions: tuple[int, ...] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        adaptive_scale: bool = True,
    ) -> None:
        config = checked(locals())
        super().__init__()
        self.config = config
        self.num_classes, self.label_dropout = num_classes, label_dropout
        embedding_channels = channels * embedding_multiplier
        style = Style(embedding_channels, dropout, EPS, adaptive_scale=adaptive_scale, head_channels=64)

        self.map_noise = PositionalEmbedding(channels)
        self.map_augment = nn.Linear(augmentation_dim, channels, bias=False) if augmentation_dim else None
        self.map_layer0 = nn.Linear(channels, embedding_channels)
        self.map_layer1 = nn.Linear(embedding_channels, embedding_channels)
        self.map_label = nn.Linear(num_classes, embedding_channels, bias=False) if num_classes else None

        levels = [(resolution >> level, channels * times) for level, times in enumerate(channel_multipliers)]
        width = levels[0][1]
        skips = [width]
        self.enc = nn.ModuleDict()
        for level, (size, level_width) in enumerate(levels):
            name = f"{size}x{size}"
            if level == 0:
                self.enc[f"{name}_conv"] = nn.Conv2d(in_channels, width, 3, padding=1)
            else:
                self.enc[f"{name}_down"] = Block(style, width, width, "down")
                skips.append(width)
            for index in range(num_blocks):
                attention = size in attention_resolutions
                self.enc[f"{name}_block{index}"] = Block(style, width, level_width, attention=attention)
                width = level_width
                skips.append(width)

        self.dec = nn.ModuleDict()
        for level, (size, level_width) in reversed(list(enumerate(levels))):
            name = f"{size}x{size}"
            if level == len(levels) - 1:
                self.dec[f"{name}_in0"] = Block(style, width, width, attention=True)
                self.dec[f"{name}_in1"] = Block(style, width, width)
            else:
                self.dec[f"{name}_up"] = Block(style, width, width, "up")
            for index in range(num_blocks + 1):
                attention = size in attention_resolutions
                self.dec[f"{name}_block{index}"] = Block(style, width + skips.pop(), level_width, attention=attention)
                width = level_width
        self.out_norm = group_norm(width, EPS)
        self.out_conv = nn.Conv2d(width, out_channels, 3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        """Every layer keeps torch's own start (uniform, 1/sqrt(fan in)), except those that begin as nothing."""
        for name, layer in self.named_modules():
            if name.endswith(ZERO_AT_START):
                for parameter in layer.parameters():
                    nn.init.zeros_(parameter)
        if self.map_label is not None:
            nn.init.normal_(self.map_label.weight)

    def forward(
        self, x: Tensor, noise: Tensor, label: Tensor | None = None, augmentation: Tensor | None = None
    ) -> Tensor:
        with full_precision(x.device):
            embedding = self.embed(x, noise, label, augmentation)
        skips = []
        for layer in self.enc.values():
            x = layer(x, embedding) if isinstance(layer, Block) else layer(x)
            skips.append(x)
        for layer in self.dec.values():
            if x.shape[1] != layer.in_channels:
                x = torch.cat([x, skips.pop()], dim=1)
            x = layer(x, embedding)
        return self.out_conv(normalised_silu(self.out_norm, x))

    def embed(self, x: Tensor, noise: Tensor, label: Tensor | None, augmentation: Tensor | None) -> Tensor:
        """Return the vectors [N, embedding_channels] that tell every block about noise, class and augmentation."""
        embedding = self.map_noise(noise)
        if augmentation is not None:
            augmentation = checked_augmentation(augmentation, x, self.config["augmentation_dim"])
            if self.map_augment is not None:
                embedding = embedding + self.map_augment(augmentation)
        embedding = self.map_layer1(F.silu(self.map_layer0(embedding)))
        classes = one_hot(label, x, self.num_classes, self.label_dropout if self.training else 0.0)
        if self.map_label is not None:
            embedding = embedding + self.map_label(classes)
        return F.silu(embedding)
