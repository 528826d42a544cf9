"""DhariwalUNet: the ADM network of arXiv 2105.05233, by default as EDM trains it (arXiv 2206.00364) for ImageNet-64."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from d2o.kernels.normalisation import normalise

from .conditioning import PositionalEmbedding, add_augmentation, full_precision, one_hot
from .layers import Block, ResamplingConvolution, Style, group_norm
from .options import OPTIONS as COMMON
from .options import check_options, optional
from .unet import Layout, Place, UNet

EPS = 1e-5
OPTIONS = COMMON | {name: optional(COMMON[name]) for name in ("num_heads", "groups")}
ZERO_AT_START = ("conv1", "proj", "out_conv", "map_augment")


class DhariwalUNet(UNet):
    """A U-Net F(x, noise, condition) with the levels of a `Layout`; `config` rebuilds it.

    `augmentation_dim` is the length of augmentation labels; dropouts act in training only. Without `adaptive_scale` the
    embedding shifts features and does not scale them, as in consistency models of 256 pixels. Attention heads have
    `head_channels`, or there are `num_heads` at every width; norms have `groups`, by default at most 32 of at least 4
    channels. With `resampling` "convolution" one convolution stands for each block that resamples.
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
        noise_embedding_multiplier: int = 1,
        head_channels: int = 64,
        num_heads: int | None = None,
        groups: int | None = None,
        resampling: str = "block",
    ) -> None:
        super().__init__()
        self.config = check_options(locals(), OPTIONS)
        self.num_classes, self.label_dropout = num_classes, label_dropout
        embedding_channels = channels * embedding_multiplier
        style = Style(
            embedding_channels, dropout, EPS, adaptive_scale=adaptive_scale, head_channels=head_channels,
            num_heads=num_heads, groups=groups,
        )  # fmt: skip

        noise_channels = channels * noise_embedding_multiplier
        self.map_noise = PositionalEmbedding(noise_channels)
        self.map_augment = nn.Linear(augmentation_dim, noise_channels, bias=False) if augmentation_dim else None
        self.map_layer0 = nn.Linear(noise_channels, embedding_channels)
        self.map_layer1 = nn.Linear(embedding_channels, embedding_channels)
        self.map_label = nn.Linear(num_classes, embedding_channels, bias=False) if num_classes else None

        stem = channels * channel_multipliers[0]
        layout = Layout(resolution, channels, channel_multipliers, num_blocks, attention_resolutions, stem)
        self.enc = nn.ModuleDict({f"{resolution}x{resolution}_conv": nn.Conv2d(in_channels, stem, 3, padding=1)})

        def make(place: Place) -> nn.Module:
            by_convolution = place.direction and resampling == "convolution"
            return ResamplingConvolution(place) if by_convolution else Block(style, place)

        self.enc.update({place.name: make(place) for place in layout.encoder()})
        self.dec = nn.ModuleDict({place.name: make(place) for place in layout.decoder()})
        self.out_norm = group_norm(stem, EPS, groups)
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

    def embed(self, x: Tensor, noise: Tensor, condition: Tensor | None, augmentation: Tensor | None) -> Tensor:
        embedding = self.map_noise(noise)
        embedding = add_augmentation(embedding, augmentation, self.map_augment, self.config["augmentation_dim"])
        embedding = self.map_layer1(F.silu(self.map_layer0(embedding)))
        classes = one_hot(condition, x, self.num_classes, self.label_dropout if self.training else 0.0)
        if self.map_label is not None:
            embedding = embedding + self.map_label(classes)
        return F.silu(embedding)

    def decode(self, x: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        features = super().decode(x, skips, embedding)
        with full_precision(x.device):  # noise predictors' errors are multiplied by sigma
            return self.out_conv(normalise(self.out_norm, features.float(), silu=True))
