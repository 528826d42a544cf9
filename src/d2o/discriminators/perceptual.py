"""The perceptual discriminator: heads on the features that LPIPS compares, without any projection.

One of D2O's ablations (arXiv 2506.09376, section 4): every depth of VGG-16 is judged as it is.
"""

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from d2o.diffusion.condition import Vocabulary
from d2o.features.perceptual import CHANNELS, SMALLEST, VGG
from d2o.features.weights import fix_seed
from d2o.records import RECORD

from .conditions import check_condition
from .discriminator import UNKNOWN, About, Discriminator, Positive, check_channels
from .head import Head


@dataclass(frozen=True, config=RECORD)
class Perceptual:
    """The perceptual discriminator as plain numbers and names; `build` makes the network."""

    kind: Literal["perceptual"] = "perceptual"

    size: int | None = None
    """Side in pixels to which VGG-16's input is resized; by default that of the images, but at least 32."""

    weights: str = "auto"
    """Where VGG-16's weights come from: auto, hub, random or a file."""

    width: Positive = 256
    """Most channels of a layer of a head."""

    synchronise: bool = False
    """Normalise the heads by the batch of all processes together, rather than each by its own."""

    networks: tuple[Literal["vgg16"]] = ("vgg16",)
    """Its frozen network."""

    def build(
        self, image_shape: Sequence[int], num_classes: Vocabulary = 0, seed: int = 0
    ) -> "PerceptualDiscriminator":
        check_channels(self.kind, image_shape[0])
        size = max(*image_shape[1:], 2 * SMALLEST) if self.size is None else self.size
        if size < SMALLEST:
            raise ValueError(f"The discriminator perceptual cannot take {size} pixels: use size={2 * SMALLEST}.")
        network = VGG(size, self.weights)
        with fix_seed(seed):
            heads = [
                Head(channels, size >> depth, depth, self.width, num_classes, self.synchronise)
                for depth, channels in enumerate(CHANNELS)
            ]
            return PerceptualDiscriminator(network, heads, num_classes)


class PerceptualDiscriminator(Discriminator):
    """Judge images [N, C, H, W] in [-1, 1]: logits [N, K], all places of the finest map first, then of coarser ones."""

    def __init__(self, network: VGG, heads: Sequence[Head], num_classes: Vocabulary = 0) -> None:
        super().__init__()
        self.network, self.num_classes = network, num_classes
        self.heads = nn.ModuleList(heads)

    def features(self, images: Tensor, about: About = UNKNOWN) -> list[list[Tensor]]:
        return [self.network(images)]

    def judge(self, features: Sequence[Sequence[Tensor]], condition: Tensor | None = None) -> list[Tensor]:
        condition = check_condition(condition, self.num_classes)
        return [torch.cat([head(row, condition) for head, row in zip(self.heads, features[0], strict=True)], 1).float()]

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        self.heads.requires_grad_(requires_grad)
        return self
