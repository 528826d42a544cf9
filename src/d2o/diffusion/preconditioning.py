"""How a network becomes a denoiser: D(x, sigma) = skip * x + output * network(input * x, noise).

`sigma` is a float tensor of any shape; so are the four coefficients, which make a family of diffusion models. Every
family has `sigma_max`, the noise level that sampling starts from, and levels of its own to sample and train at. They
are of images in [-1, 1]: only here and in the denoiser is it known that a network may have been trained on others.
"""

from typing import Annotated, ClassVar, NamedTuple

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o.records import RECORD

from .noise import PURE_NOISE, SIGMA_MAX, karras_sigmas

Number = Annotated[float, Field(strict=True, gt=0, lt=1e9)]
"""Of a preconditioning: above every sensible one, and small enough for float32."""
IMAGES = (-1.0, 1.0)
"""The range of images in d2o, and of most networks'."""


def rising(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] + 1e-3 <= ends[1]:
        raise ValueError("it is the network's black, and its white, which is larger")
    return ends


End = Annotated[float, Field(strict=True, ge=-1e5, le=1e5)]
Range = Annotated[tuple[End, End], AfterValidator(rising)]


class Coefficients(NamedTuple):
    """The four functions of sigma that wrap a network (arXiv 2206.00364, equation 7)."""

    skip: Tensor
    output: Tensor
    input: Tensor
    noise: Tensor


@dataclass(frozen=True, config=RECORD, kw_only=True)
class Preconditioning:
    """A frozen record of numbers that gives the coefficients at a noise level.

    `image_range` is black and white in the images that the network was trained on: (0, 1) in many tutorials. A row's
    `coefficients` and its numbers, but for `sigma_max`, are of those images, which are `scale` (ours + `offset`).
    """

    kind: ClassVar[str]
    sigma_max: Number = SIGMA_MAX
    image_range: Range = IMAGES
    log_sigma_in_training: ClassVar[tuple[float, float]] = (-1.2, 1.2)
    """Mean and deviation (arXiv 2206.00364, table 1)."""

    def coefficients(self, sigma: Tensor) -> Coefficients:
        raise NotImplementedError

    def __call__(self, sigma: Tensor) -> Coefficients:
        """Return the coefficients for images in [-1, 1] + `offset`, which `scale` makes the network's."""
        skip, output, times, noise = self.coefficients(self.scale * sigma)
        return Coefficients(skip, output / self.scale, self.scale * times, noise)

    @property
    def scale(self) -> float:
        return (self.image_range[1] - self.image_range[0]) / 2

    @property
    def offset(self) -> float:
        return sum(self.image_range) / 2 / self.scale

    def sigmas(self, steps: int) -> tuple[float, ...]:
        """Return the noise levels [steps + 1] of a sampler, from `sigma_max` to 0."""
        return karras_sigmas(steps, sigma_max=self.sigma_max)

    @property
    def solved_in_time(self) -> bool:
        """Whether solvers step in t = sigma / (1 + sigma), in which its paths are nearly straight, and not in sigma."""
        return self.sigma_max == PURE_NOISE

    def weight(self, sigma: Tensor) -> Tensor:
        """Return the weight of |D - x0|^2 that makes it the squared error of the network's own output."""
        return self(sigma).output ** -2
