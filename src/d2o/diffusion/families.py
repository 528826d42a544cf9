"""How a network becomes a denoiser: D(x, sigma) = skip * x + output * network(input * x, noise).

A family of diffusion models is one row of four coefficients. `sigma` is a float tensor of any shape; so are the rows.
Every family has `sigma_max`, the noise level that sampling starts from, and levels of its own to sample and train at.
They are of images in [-1, 1]: only here and in the denoiser is it known that a network may see others (`image_range`).
"""

import math
from dataclasses import asdict, field, replace
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from d2o.devices import widen
from d2o.records import RECORD, REGISTER, Range, find, validate

from .noise import PURE_NOISE, SIGMA_MAX, SIGMA_MIN, flow_sigmas, sampler_sigmas

Number = Annotated[float, Field(strict=True, gt=0, lt=1e9)]  # above every sensible one, and small enough for float32
IMAGES = (-1.0, 1.0)  # the range of images in d2o, and of most networks'
LONGEST = 100_000  # times of a schedule; real ones have a thousand
Schedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"]


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
        return sampler_sigmas(steps, self.sigma_max)

    @property
    def solved_in_time(self) -> bool:
        """Whether solvers step in t = sigma / (1 + sigma), in which its paths are nearly straight, and not in sigma."""
        return self.sigma_max == PURE_NOISE

    def weight(self, sigma: Tensor) -> Tensor:
        """Return the weight of |D - x0|^2 that makes it the squared error of the network's own output."""
        return self(sigma).output ** -2


@dataclass(frozen=True, config=RECORD)
class EDM(Preconditioning):
    """The preconditioning of EDM teachers (arXiv 2206.00364, table 1).

    The network's input is `time_scale` times ln(sigma): a quarter, or 250 for OpenAI's teachers of consistency models.
    """

    kind: ClassVar[str] = "edm"
    sigma_data: Number = 0.5
    time_scale: Number = 0.25

    def coefficients(self, sigma: Tensor) -> Coefficients:
        norm = (sigma**2 + self.sigma_data**2).sqrt()
        time = self.time_scale * sigma.log()
        return Coefficients(self.sigma_data**2 / norm**2, sigma * self.sigma_data / norm, 1 / norm, time)

    def weight(self, sigma: Tensor) -> Tensor:
        sigma, sigma_data = self.scale * sigma, self.sigma_data
        return self.scale**2 * ((sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2)  # without the root of `output`


@dataclass(frozen=True, config=RECORD)
class Boundary(Preconditioning):
    """The boundary form of consistency models, used by D2O students: D(x, sigma_min) = x (arXiv 2303.01469, C).

    The network's input is `time_scale` times ln(sigma), as its teacher's was (see `EDM`).
    """

    kind: ClassVar[str] = "boundary"
    sigma_data: Number = 0.5
    sigma_min: Number = SIGMA_MIN
    time_scale: Number = 0.25

    def coefficients(self, sigma: Tensor) -> Coefficients:
        above = sigma - self.sigma_min
        norm = (sigma**2 + self.sigma_data**2).sqrt()
        skip = self.sigma_data**2 / (above**2 + self.sigma_data**2)
        return Coefficients(skip, above * self.sigma_data / norm, 1 / norm, self.time_scale * sigma.log())


@dataclass(frozen=True, config=RECORD)
class VP(Preconditioning):
    """Variance preserving, continuous time: the network predicts the noise (arXiv 2206.00364, table 1)."""

    kind: ClassVar[str] = "vp"
    beta_range: Number = 19.9
    beta_min: Number = 0.1
    time_scale: Number = 999.0

    def coefficients(self, sigma: Tensor) -> Coefficients:
        square = self.beta_min**2 + 2 * self.beta_range * (1 + sigma**2).log()
        root = widen(square).sqrt().to(square)  # a float32 root may miss the last bit, and Fourier features tell
        time = (root - self.beta_min) / self.beta_range
        return Coefficients(torch.ones_like(sigma), -sigma, (1 + sigma**2).rsqrt(), self.time_scale * time)


@dataclass(frozen=True, config=RECORD)
class VE(Preconditioning):
    """Variance exploding: the network predicts the negated noise (arXiv 2206.00364, table 1)."""

    kind: ClassVar[str] = "ve"

    def coefficients(self, sigma: Tensor) -> Coefficients:
        one = torch.ones_like(sigma)
        return Coefficients(one, sigma, one, (sigma / 2).log())


@dataclass(frozen=True, config=RECORD)
class Discrete(Preconditioning):
    """Variance preserving, discrete times 0 to steps - 1: the schedule's name and range, or `betas` themselves.

    At time t the noise level is sqrt((1 - a) / a), where a is the product of 1 - beta up to t; the network's input is
    `time_scale` times the time whose level is nearest, by `nearest` "ratio" (in ln(sigma)) or "difference" (as EDM does
    for iDDPM). `sigma_max` is at most the schedule's own. With `zero_snr` it ends in pure noise (see `noise_levels`).
    """

    log_sigma_in_training: ClassVar[tuple[float, float]] = (1.35, 1.94)  # of the times of DDPM's own schedule
    schedule: Schedule = "linear"
    beta_start: Number = 1e-4
    beta_end: Number = 0.02
    steps: Annotated[int, Field(strict=True, ge=1, le=LONGEST)] = 1000
    betas: Annotated[tuple[Annotated[Number, Field(lt=1)], ...], Field(max_length=LONGEST)] = ()
    nearest: Literal["ratio", "difference"] = "ratio"
    zero_snr: bool = False
    time_scale: Number = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sigma_max", min(self.sigma_max, self.levels[-1].item() / self.scale))

    @property
    def levels(self) -> Tensor:
        """The noise level [steps] of every time, float64."""
        from .schedules import noise_levels

        return noise_levels(self.schedule, self.beta_start, self.beta_end, self.steps, self.betas, self.zero_snr)

    def sigmas(self, steps: int) -> tuple[float, ...]:
        """Return Karras' levels, or those of even times down from the last where that is pure noise."""
        if not self.zero_snr:
            return super().sigmas(steps)
        levels = self.levels / self.scale
        places = torch.linspace(len(levels), 0, steps + 1, dtype=torch.float64).round().long()[1:-1] - 1
        inner = [level for level in levels[places].tolist() if level < self.sigma_max]
        return (self.sigma_max, *inner, 0.0)

    def time(self, sigma: Tensor) -> Tensor:
        """Return what the network is told: `time_scale` times the whole number whose noise level is nearest."""
        upper, lower = self.levels[1:], self.levels[:-1]
        between = ((upper * lower).sqrt() if self.nearest == "ratio" else (upper + lower) / 2).to(sigma)
        return self.time_scale * (sigma[..., None] > between).sum(-1).to(sigma)


@dataclass(frozen=True, config=RECORD)
class Epsilon(Discrete):
    """DDPM: the network predicts the noise (arXiv 2006.11239). Its errors are multiplied by sigma."""

    kind: ClassVar[str] = "epsilon"

    def __post_init__(self) -> None:
        if self.zero_snr:
            raise ValueError("a network that predicts the noise cannot start where there is nothing else (zero_snr)")
        super().__post_init__()

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return Coefficients(torch.ones_like(sigma), -sigma, (1 + sigma**2).rsqrt(), self.time(sigma))


@dataclass(frozen=True, config=RECORD)
class Velocity(Discrete):
    """The network predicts v = sqrt(a) noise - sqrt(1 - a) x0, where a = 1 / (1 + sigma^2) (arXiv 2202.00512, D)."""

    kind: ClassVar[str] = "velocity"

    def coefficients(self, sigma: Tensor) -> Coefficients:
        scale = (1 + sigma**2).rsqrt()
        return Coefficients(scale**2, -sigma * scale, scale, self.time(sigma))


@dataclass(frozen=True, config=RECORD)
class Sample(Discrete):
    """The network predicts the image itself."""

    kind: ClassVar[str] = "sample"

    def coefficients(self, sigma: Tensor) -> Coefficients:
        one = torch.ones_like(sigma)
        return Coefficients(0 * one, one, (1 + sigma**2).rsqrt(), self.time(sigma))


@dataclass(frozen=True, config=RECORD)
class Flow(Preconditioning):
    """The network predicts the velocity of a path from image to noise, at times from 0 to 1 (arXiv 2210.02747).

    The path "linear" is (1 - t) x0 + t noise, "trigonometric" cos(pi t / 2) x0 + sin(pi t / 2) noise, and the velocity
    its derivative. Where time runs `towards` the "image", the network is told 1 - t and predicts the negated velocity.
    It is told `time_scale` times the time, or the angle pi t / 2 in place of t with `angular` (TrigFlow, arXiv
    2410.11081), whose velocity is the derivative by the angle. `shift` and `last_time` are `flow_sigmas`'s.
    """

    kind: ClassVar[str] = "flow"
    log_sigma_in_training: ClassVar[tuple[float, float]] = (0.0, 1.0)  # logit-normal times (arXiv 2403.03206, 3.1)
    path: Literal["linear", "trigonometric"] = "linear"
    towards: Literal["noise", "image"] = "noise"
    time_scale: Number = 1.0
    angular: bool = False
    shift: Number = 1.0
    last_time: Annotated[Number, Field(lt=1)] | None = None
    sigma_max: Number = field(default=PURE_NOISE, kw_only=True)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        if self.path == "linear":
            scale = 1 / (1 + sigma)
            skip, output, time, left = scale, -sigma * scale, sigma * scale, scale
        else:
            unit = 1.0 if self.angular else 2 / math.pi
            scale = (1 + sigma**2).rsqrt()
            skip, output = scale**2, -unit * sigma * scale
            time, left = unit * sigma.atan(), unit * torch.atan2(torch.ones_like(sigma), sigma)
        if self.towards == "image":
            output, time = -output, left
        return Coefficients(skip, output, scale, self.time_scale * time)

    def sigmas(self, steps: int) -> tuple[float, ...]:
        return flow_sigmas(steps, self.shift / self.scale, self.sigma_max, self.last_time)

    @property
    def solved_in_time(self) -> bool:
        return True


def boundary_form(family: Preconditioning) -> Preconditioning:
    """Return the form in which a one-step student of this family is trained: EDM's becomes the boundary form."""
    return Boundary(**asdict(family)) if isinstance(family, EDM) else family


def start_at(family: Preconditioning, sigma: float | None) -> Preconditioning:
    """Return the family that starts from `sigma`, at most its schedule's largest; None leaves the start as it is."""
    return family if sigma is None else replace(family, sigma_max=sigma)


def amplification(family: Preconditioning) -> float:
    """Return |output| at the start, by which one call multiplies errors: sigma for noise predictors, else 1 or less."""
    return abs(family(torch.tensor(family.sigma_max, dtype=torch.float64, device="cpu")).output.item())


PRECONDITIONINGS: dict[str, type] = {f.kind: f for f in (EDM, Boundary, VP, VE, Epsilon, Velocity, Sample, Flow)}


def to_spec(preconditioning: Preconditioning) -> dict:
    """Return the JSON form of a preconditioning, `{"kind": ..., numbers}`; of images in [-1, 1] no range is said."""
    spec = {"kind": preconditioning.kind, **asdict(preconditioning)}
    return {name: value for name, value in spec.items() if (name, value) != ("image_range", IMAGES)}


def from_spec(spec: dict) -> Preconditioning:
    """Return the preconditioning that `to_spec` described; an unknown kind or number is a ValueError."""
    settings = dict(spec)
    kind = settings.pop("kind", None)
    record = find(kind, PRECONDITIONINGS, "preconditioning", REGISTER)
    return validate(record, settings, f"The preconditioning {kind!r}")
