"""SongUNet: the DDPM++ and NCSN++ networks of score_sde (arXiv 2011.13456) as EDM trains them (arXiv 2206.00364).

DDPM++: positional embedding, standard encoder, filter (1, 1).
NCSN++: Fourier embedding twice as wide, residual encoder (the image also enters every level), filter (1, 3, 3, 1).
"""

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2o.kernels.normalisation import GroupNorm, normalise

from .conditioning import FourierEmbedding, PositionalEmbedding, add_augmentation, one_hot
from .layers import Block, Resample, ResampledConv2d, Style, group_norm
from .options import check_options
from .unet import Layout, UNet

EPS = 1e-6
# Xavier gains of the layers that start small: branches begin near zero, so that a fresh block is nearly its shortcut.
GAINS = {"conv1": 1e-5, "proj": 1e-5, "aux_conv": 1e-5, "qkv": math.sqrt(0.2)}


class SongUNet(UNet):
    """A U-Net F(x, noise, condition) with the levels of a `Layout`; `config` rebuilds it.

    It works on squares of `patch_size` pixels, whose channels it puts side by side. `augmentation_dim` is the length of
    augmentation labels; dropouts act in training only.
    """

    kind: ClassVar[str] = "song_unet"

    def __init__(
        self,
        resolution: int,
        in_channels: int,
        out_channels: int,
        num_classes: int = 0,
        augmentation_dim: int = 0,
        channels: int = 128,
        channel_multipliers: tuple[int, ...] = (1, 2, 2, 2),
        embedding_multiplier: int = 4,
        num_blocks: int = 4,
        attention_resolutions: tuple[int, ...] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        embedding: str = "positional",
        noise_embedding_multiplier: int = 1,
        encoder: str = "standard",
        decoder: str = "standard",
        resample_filter: tuple[int, ...] = (1, 1),
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        self.config = check_options(locals())
        if len(resample_filter) % 2:
            raise ValueError("The backbone option resample_filter must have an even number of taps.")
        if resolution % patch_size:
            raise ValueError(f"The backbone option patch_size must divide the resolution: {patch_size}, {resolution}.")
        self.patch_size, area = patch_size, patch_size**2
        resolution, in_channels, out_channels = resolution // patch_size, in_channels * area, out_channels * area
        self.num_classes, self.label_dropout = num_classes, label_dropout
        embedding_channels, noise_channels = channels * embedding_multiplier, channels * noise_embedding_multiplier
        style = Style(
            embedding_channels, dropout, EPS, skip_scale=math.sqrt(0.5), adaptive_scale=False, shortcut=True,
            resample_filter=resample_filter,
        )  # fmt: skip

        fourier = embedding == "fourier"
        self.map_noise = FourierEmbedding(noise_channels) if fourier else PositionalEmbedding(noise_channels, True)
        self.map_label = nn.Linear(num_classes, noise_channels) if num_classes else None
        self.map_augment = nn.Linear(augmentation_dim, noise_channels, bias=False) if augmentation_dim else None
        self.map_layer0 = nn.Linear(noise_channels, embedding_channels)
        self.map_layer1 = nn.Linear(embedding_channels, embedding_channels)

        sizes = resolution, channels, channel_multipliers, num_blocks, attention_resolutions
        layout = Layout(*sizes, stem=channels, decoder_attention="last")
        image_width, coarsest = in_channels, layout.levels[-1][0]
        self.enc = nn.ModuleDict({f"{resolution}x{resolution}_conv": nn.Conv2d(in_channels, channels, 3, padding=1)})
        for place in layout.encoder():
            self.enc[place.name] = Block(style, place)
            name, width = f"{place.side}x{place.side}", place.out_channels
            if place.direction == "down" and encoder == "skip":
                self.enc[f"{name}_aux_down"] = Resample("down", resample_filter)
                self.enc[f"{name}_aux_skip"] = nn.Conv2d(image_width, width, 1)
            if place.direction == "down" and encoder == "residual":
                self.enc[f"{name}_aux_residual"] = ResampledConv2d(
                    image_width, width, 3, "down", resample_filter, filter_last=True
                )
                image_width = width

        self.dec = nn.ModuleDict()
        for place in layout.decoder():
            self.dec[place.name] = Block(style, place)
            name, width = f"{place.side}x{place.side}", place.out_channels
            if place.ends_level and decoder == "skip" and place.side != coarsest:
                self.dec[f"{name}_aux_up"] = Resample("up", resample_filter)
            if place.ends_level and (decoder == "skip" or place.side == resolution):
                self.dec[f"{name}_aux_norm"] = group_norm(width, EPS)
                self.dec[f"{name}_aux_conv"] = nn.Conv2d(width, out_channels, 3, padding=1)
        self._initialise()

    def _initialise(self) -> None:
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear | ResampledConv2d):
                gain = next((gain for ending, gain in GAINS.items() if name.endswith(ending)), 1.0)
                nn.init.xavier_uniform_(layer.weight, gain)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, noise: Tensor, condition: Any = None, augmentation: Tensor | None = None) -> Tensor:
        if self.patch_size == 1:
            return super().forward(x, noise, condition, augmentation)
        # pixel_unshuffle leaves a batch of no images as it is
        (count, channels, height, width), side = x.shape, self.patch_size
        squares = x.reshape(count, channels, height // side, side, width // side, side).permute(0, 1, 3, 5, 2, 4)
        out = super().forward(squares.flatten(1, 3), noise, condition, augmentation).unflatten(1, (-1, side, side))
        return out.permute(0, 1, 4, 2, 5, 3).flatten(4).flatten(2, 3)

    def embed(self, x: Tensor, noise: Tensor, condition: Tensor | None, augmentation: Tensor | None) -> Tensor:
        cosines, sines = self.map_noise(noise).chunk(2, dim=1)
        embedding = torch.cat([sines, cosines], dim=1)
        told = self.embed_condition(x, condition)
        embedding = embedding if told is None else embedding + told
        embedding = add_augmentation(embedding, augmentation, self.map_augment, self.config.get("augmentation_dim", 0))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(embedding))))

    def embed_condition(self, x: Tensor, condition: Tensor | None) -> Tensor | None:
        """Return the vectors [N, C] of the images' classes, None in a network without."""
        classes = one_hot(condition, x, self.num_classes, self.label_dropout if self.training else 0.0)
        return None if self.map_label is None else self.map_label(classes * math.sqrt(self.num_classes))

    def encode(self, x: Tensor, embedding: Tensor) -> tuple[Tensor, list[Tensor]]:
        image, skips = x, []
        for name, layer in self.enc.items():
            if name.endswith("aux_down"):
                image = layer(image)
            elif name.endswith("aux_skip"):
                x = skips[-1] = x + layer(image)
            elif name.endswith("aux_residual"):
                x = skips[-1] = image = (x + layer(image)) * math.sqrt(0.5)
            else:
                x = layer(x, embedding) if isinstance(layer, Block) else layer(x)
                skips.append(x)
        return x, skips

    def decode(self, x: Tensor, skips: list[Tensor], embedding: Tensor) -> Tensor:
        """Return the output image: the sum over the levels' images, or that of the finest level."""
        image, features = None, x
        for name, layer in self.dec.items():
            if name.endswith("aux_up"):
                image = layer(image)
            elif isinstance(layer, GroupNorm):
                features = normalise(layer, x, silu=True)
            elif name.endswith("aux_conv"):
                image = layer(features) if image is None else layer(features) + image
            else:
                x = layer(self.join(x, skips, layer), embedding)
        assert image is not None
        return image
