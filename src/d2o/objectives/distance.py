"""How far a student's image is from its target: a choice of records, each of which returns one number an image."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o.features.perceptual import LPIPS
from d2o.records import RECORD, Real, Whole

from .objective import Networks


class ImageDistance:
    """A distance: calling one returns a number [N] for images [N,C,H,W] and their targets."""

    needs: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, config=RECORD)
class PseudoHuber(ImageDistance):
    """sqrt(|a - b|^2 + c^2) - c: squared near 0, Euclidean far away (arXiv 2310.14189, section 3.3).

    `c` is by default 0.00054 times the square root of an image's count of numbers.
    """

    kind: Literal["pseudo-huber"] = "pseudo-huber"
    c: Annotated[Real, Field(gt=0)] | None = None

    def __call__(self, networks: Networks, images: Tensor, target: Tensor) -> Tensor:
        c = 0.00054 * images[0].numel() ** 0.5 if self.c is None else self.c
        return ((images - target).square().sum((1, 2, 3)) + c**2).sqrt() - c


@dataclass(frozen=True, config=RECORD)
class Squared(ImageDistance):
    """The mean squared difference of the pixels."""

    kind: Literal["squared"] = "squared"

    def __call__(self, networks: Networks, images: Tensor, target: Tensor) -> Tensor:
        return (images - target).square().mean((1, 2, 3))


@dataclass(frozen=True, config=RECORD)
class Lpips(ImageDistance):
    """LPIPS on VGG-16 (arXiv 1801.03924), of decoded images at `size` pixels; None leaves them as they are.

    `weights` is where VGG-16's come from (auto, hub, random or a file), `linear` where LPIPS' own (auto, mean, a file).
    """

    kind: Literal["lpips"] = "lpips"
    weights: str = "auto"
    linear: str = "auto"
    size: Annotated[Whole, Field(ge=16)] | None = 224

    needs = ("perceptual",)

    def build(self) -> LPIPS:
        return LPIPS(self.size, self.weights, self.linear)

    def __call__(self, networks: Networks, images: Tensor, target: Tensor) -> Tensor:
        return networks["perceptual"](networks.student.decode(images), networks.student.decode(target))


def by_name(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else value


DISTANCES = {"pseudo-huber": PseudoHuber, "squared": Squared, "lpips": Lpips}
Distance = Annotated[PseudoHuber | Squared | Lpips, Field(discriminator="kind"), BeforeValidator(by_name)]
