"""The projected discriminator: frozen pyramids, fixed random projections, and heads, which alone are trained.

(Sauer et al., arXiv 2111.01007; used by D2O, arXiv 2506.09376, section 4.)
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Self

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from d2o.diffusion.condition import Vocabulary
from d2o.features.cache import IN_MEMORY, Cached
from d2o.features.pyramid import Pyramid
from d2o.features.weights import fix_seed
from d2o.records import RECORD

from .conditions import check_condition
from .discriminator import UNKNOWN, About, Discriminator, Positive, check_channels
from .head import Head
from .projection import Mixing, Projection, Weights, sides

SMALLEST, LARGEST = 32, 224  # default sizes of the networks' input


@dataclass(frozen=True, config=RECORD)
class Projected:
    """The projected discriminator as plain numbers and names; `build` makes the network."""

    kind: Literal["projected"] = "projected"

    networks: tuple[str, ...] = ("tf_efficientnet_lite0",)
    """Frozen networks, by their timm names."""

    size: int | None = None
    """Side in pixels, at least 32, to which the networks' input is resized: smaller is faster and coarser.

    The paper's is 224; by default four times the side of the images, but from 32 to 224."""

    weights: str | tuple[str, ...] = "auto"
    """Where the networks' weights come from, once for all or one each: auto, package, hub, random or a file."""

    width: Positive | None = None
    """Most channels of a layer of a head. The paper's is 512; by default twice `size`, but from 64 to 512."""

    projection: Mixing = "full"
    """Fixed random mixing of channels and scales (full), of channels alone (channel), or none."""

    projection_weights: Weights = "kaiming"
    """Of the fixed mixing: "kaiming", as the paper says, or "released", as its code has them (see `Projection`)."""

    synchronise: bool = False
    """Normalise the heads by the batch of all processes together, rather than each by its own."""

    conditional: bool = True
    """Tell the heads the class or the caption of every image; without, they see the image alone."""

    def build(self, image_shape: Sequence[int], num_classes: Vocabulary = 0, seed: int = 0) -> "ProjectedDiscriminator":
        """Return a new discriminator for images [C, H, W]; `seed` fixes its projections and the heads' first weights.

        `num_classes` counts the classes, or the words, that it is told with each image; 0 judges without. Raises
        ValueError when the fields cannot work together.
        """
        check_channels(self.kind, image_shape[0])
        if not self.networks:
            raise ValueError("The projected discriminator needs networks: name at least one, as in TAPS.")
        size = min(max(4 * max(image_shape[1:]), SMALLEST), LARGEST) if self.size is None else self.size
        if size < SMALLEST:
            raise ValueError(f"size={size} leaves no features to judge: use at least {SMALLEST} pixels.")
        width = min(max(2 * size, 64), 512) if self.width is None else self.width
        weights = (self.weights,) * len(self.networks) if isinstance(self.weights, str) else tuple(self.weights)
        if len(weights) != len(self.networks):
            raise ValueError(f"{len(self.networks)} networks have {len(weights)} weights: give one, or one each.")
        pyramids = [Pyramid(name, size, source) for name, source in zip(self.networks, weights, strict=True)]
        with fix_seed(seed):
            told = num_classes if self.conditional else 0
            return ProjectedDiscriminator(pyramids, replace(self, size=size, width=width), told)


class ProjectedDiscriminator(Discriminator):
    """Judge images: `forward(images, condition)` is `judge(features(images), condition)`.

    Images [N, C, H, W] in [-1, 1] give a list of logits [N, K], one for each network: all places of the finest map
    first, then of the coarser ones.
    """

    def __init__(self, pyramids: Sequence[Pyramid], spec: Projected, num_classes: Vocabulary = 0) -> None:
        super().__init__()
        assert spec.width is not None
        self.num_classes = num_classes
        self.pyramids: Any = nn.ModuleList(Cached(pyramid, IN_MEMORY // len(pyramids)) for pyramid in pyramids)
        self.projections = nn.ModuleList()
        self.heads = nn.ModuleList()
        for pyramid in pyramids:
            projection = Projection(pyramid.channels, spec.projection, pyramid.tokens, spec.projection_weights)
            maps = zip(projection.channels, sides(projection, pyramid.channels, pyramid.sides), strict=True)
            self.projections.append(projection)
            self.heads.append(
                nn.ModuleList(
                    Head(channels, side, level, spec.width, num_classes, spec.synchronise)
                    for level, (channels, side) in enumerate(maps)
                )
            )

    @property
    def caches(self) -> Sequence[Cached]:
        return self.pyramids

    def features(self, images: Tensor, about: About = UNKNOWN) -> list[list[Tensor]]:
        """Return for each network its four projected maps; gradients reach the images unless they have a `number`."""
        pairs = zip(self.pyramids, self.projections, strict=True)
        return [projection(pyramid(images, about.number)) for pyramid, projection in pairs]

    def judge(self, features: Sequence[Sequence[Tensor]], condition: Tensor | None = None) -> list[Tensor]:
        told = check_condition(condition, self.num_classes)
        return [
            torch.cat([head(level, told) for head, level in zip(heads.children(), maps, strict=True)], dim=1).float()
            for heads, maps in zip(self.heads, features, strict=True)
        ]

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        self.heads.requires_grad_(requires_grad)
        return self
