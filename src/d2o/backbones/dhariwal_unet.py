"""DhariwalUNet: the ADM network of arXiv 2105.05233 as EDM trains it (arXiv 2206.00364), for ImageNet at 64 x 64."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from d2o.kernels.normalisation import normalise

from .conditioning import PositionalEmbedding, add_augmentation, one_hot
from .layers import Block, Style, group_norm
from .options import check_options
from .unet import Layout, UNet

EPS = 1e-5
ZERO_AT_START = ("conv1", "proj", "out_conv", "map_augment")


class DhariwalUNet(UNet):
    """A U-Net F(x, noise, label) with the levels of a `Layout`; `config` rebuilds it.

    `augmentation_dim` is the length of augmentation labels; dropouts act in training only. Without `adaptive_scale` the
    embedding shifts features and does not scale them, as in consistency models of 256 pixels.
    """

    kind: ClassVar[str] = "dhariwal_unet"

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
        super().__init__()
        self.config = check_options(locals())
        self.num_classes, self.label_dropout = num_classes, label_dropout
        embedding_channels = channels * embedding_multiplier
        style = Style(embedding_channels, dropout, EPS, adaptive_scale=adaptive_scale, head_channels=64)

        self.map_noise = PositionalEmbedding(channels)
        self.map_augment = nn.Linear(augmentation_dim, channels, bias=False) if augmentation_dim else None
        self.map_layer0 = nn.Linear(channels, embedding_channels)
        self.map_layer1 = nn.Linear(embedding_channels, embedding_channels)
        self.map_label = nn.Linear(num_classes, embedding_channels, bias=False) if num_classes else None

        stem = channels * channel_multipliers[0]
        layout = Layout(resolution, channels, channel_multipliers, num_blocks, attention_resolutions, stem)
        self.enc = nn.ModuleDict({f"{resolution}x{resolution}_conv": nn.Conv2d(in_channels, stem, 3, padding=1)})
        for place in layout.encoder():
            self.enc[place.name] = Block(style, place)
        self.dec = nn.ModuleDict({place.name: Block(style, place) for place in layout.decoder()})
        self.out_norm = group_norm(stem, EPS)
        self.out_conv = nn.Conv2d(stem, out_channels, 3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        """Every layer keeps torch's own initialisation (uniform, 1/sqrt(fan in)), except those that start at zero."""
        for name, layer in self.named_modules():
            if name.endswith(ZERO_AT_START):
                for parameter in layer.parameters():
                    nn.init.zeros_(parameter)
        if self.map_label is not None:
            nn.init.normal_(self.map_label.weight)

    def embed(self, x: Tensor, noise: Tensor, label: Tensor | None, augmentation: Tensor | None) -> Tensor:
        embedding = self.map_noise(noise)
        embedding = add_augmentation(embedding, augmentation, self.map_augment, self.config["augmentation_dim"])
        embedding = self.map_layer1(F.silu(self.map_layer0(embedding)))
        classes = one_hot(label, x, self.num_classes, self.label_dropout if self.training else 0.0)
        if self.map_label is not None:
            embedding = embedding + self.map_label(classes)
        return F.silu(embedding)

    def decode(self, x: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        features = super().decode(x, skips, embedding)
        return self.out_conv(normalise(self.out_norm, features, silu=True))
