"""How a network becomes a denoiser: D(x, sigma) = skip * x + output * network(input * x, noise).

A family of diffusion models is one row of four coefficients. `sigma` is a float tensor of any shape; so are the rows.
"""

from dataclasses import asdict, dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

from .noise import SIGMA_MIN


class Coefficients(NamedTuple):
    """The four functions of sigma that wrap a network (arXiv 2206.00364, equation 7)."""

    skip: Tensor
    output: Tensor
    input: Tensor
    noise: Tensor


class Preconditioning(Protocol):
    """A frozen record of numbers that gives the coefficients at a noise level."""

    kind: ClassVar[str]

    def __call__(self, sigma: Tensor) -> Coefficients: ...


@dataclass(frozen=True)
class EDM:
    """The preconditioning of EDM teachers (arXiv 2206.00364, table 1)."""

    kind: ClassVar[str] = "edm"
    sigma_data: float = 0.5

    def __call__(self, sigma: Tensor) -> Coefficients:
        norm = (sigma**2 + self.sigma_data**2).sqrt()
        return Coefficients(self.sigma_data**2 / norm**2, sigma * self.sigma_data / norm, 1 / norm, sigma.log() / 4)


@dataclass(frozen=True)
class Boundary:
    """The boundary form of consistency models, used by D2O students: D(x, sigma_min) = x (arXiv 2303.01469, C)."""

    kind: ClassVar[str] = "boundary"
    sigma_data: float = 0.5
    sigma_min: float = SIGMA_MIN

    def __call__(self, sigma: Tensor) -> Coefficients:
        above = sigma - self.sigma_min
        norm = (sigma**2 + self.sigma_data**2).sqrt()
        skip = self.sigma_data**2 / (above**2 + self.sigma_data**2)
        return Coefficients(skip, above * self.sigma_data / norm, 1 / norm, sigma.log() / 4)


@dataclass(frozen=True)
class VP:
    """Variance preserving, continuous time: the network predicts the noise (arXiv 2206.00364, table 1)."""

    kind: ClassVar[str] = "vp"
    beta_range: float = 19.9
    beta_min: float = 0.1
    time_scale: float = 999.0

    def __call__(self, sigma: Tensor) -> Coefficients:
        variance = (1 + sigma**2).log()
        time = ((self.beta_min**2 + 2 * self.beta_range * variance).sqrt() - self.beta_min) / self.beta_range
        return Coefficients(torch.ones_like(sigma), -sigma, (1 + sigma**2).rsqrt(), self.time_scale * time)


@dataclass(frozen=True)
class VE:
    """Variance exploding: the network predicts the negated noise (arXiv 2206.00364, table 1)."""

    kind: ClassVar[str] = "ve"

    def __call__(self, sigma: Tensor) -> Coefficients:
        one = torch.ones_like(sigma)
        return Coefficients(one, sigma, one, (sigma / 2).log())


PRECONDITIONINGS: dict[str, type] = {family.kind: family for family in (EDM, Boundary, VP, VE)}
LARGEST = 1e9
"""Above every sensible number of a preconditioning, and small enough for float32."""


def to_spec(preconditioning: Preconditioning) -> dict:
    """Return the JSON form of a preconditioning, `{"kind": ..., numbers}`."""
    return {"kind": preconditioning.kind, **asdict(preconditioning)}  # type: ignore[arg-type]


def from_spec(spec: dict) -> Preconditioning:
    """Return the preconditioning that `to_spec` described; an unknown kind or number is a ValueError."""
    numbers = dict(spec)
    kind = numbers.pop("kind", None)
    if not isinstance(kind, str) or kind not in PRECONDITIONINGS:
        raise ValueError(f"Unknown preconditioning {kind!r}; there are {', '.join(PRECONDITIONINGS)}.")
    if not all(type(value) in (int, float) and 0 < value < LARGEST for value in numbers.values()):
        raise ValueError(f"The preconditioning {kind!r} takes positive numbers below {LARGEST:.0e} only, not {spec}.")
    try:
        return PRECONDITIONINGS[kind](**numbers)
    except TypeError as error:
        raise ValueError(f"The preconditioning {kind!r} does not take {sorted(numbers)}.") from error
