"""The Frechet objective: the student's features should have the mean and the covariance of the data's (2604.28190).

No network is trained against the student, and the distance is the measure that papers report: judge such a student in a
space that it has not seen.
"""

from typing import Annotated, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from d2o.diffusion.denoiser import Denoiser
from d2o.features.embedding import embedding, find_space
from d2o.records import RECORD, Real, Whole

from .batch import Batch
from .objective import Networks, Passes
from .one_step import OneStep

TINY = 1e-14
"""Share of the largest eigenvalue below which others are rounding errors of float64."""


@dataclass(frozen=True, config=RECORD)
class Frechet(OneStep):
    """The Frechet distance of the student's images to the data in feature `spaces`, each divided by its own variance.

    A batch says too little about a covariance. The student's is that of a population: running moments, of which a batch
    of n renews the share n / `size`, or a queue of the `size` newest images' features. The gradient flows through the
    batch alone, and is a mean over its images, whatever the size. As long as older images are in the population the
    student makes up for them, and overshoots: a run should renew it many times. With micro-batches, each of them joins
    the population in its turn.

    The data's moments are those of `references` images at most, from one pass before training; another makes the first
    population. `axes` compares along so many principal axes of the data, all by default: fewer cost less, and make do
    with a smaller population, which should have more images than there are axes. `weights` go to `embedding`.
    """

    kind: Literal["frechet"] = "frechet"
    weight: Real = 1.0
    spaces: Annotated[tuple[str, ...], Field(min_length=1)] = ("lite0",)
    population: Literal["moments", "queue"] = "moments"
    size: Annotated[Whole, Field(ge=2)] = 10_000
    axes: Annotated[Whole, Field(ge=1)] | None = None
    references: Annotated[Whole, Field(ge=2)] = 50_000
    weights: str = "auto"

    needs = ("frechet",)
    keeps = ("frechet",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for space in self.spaces:
            if find_space(space, "random")[1].mean_std is None:
                raise ValueError(f"no gradient reaches images through {space}, which takes whole numbers: name another")

    @property
    def judged_by(self) -> tuple[str, ...]:
        return tuple(find_space(space, "random")[1].network for space in self.spaces)

    def build(self, name: str, teacher: Denoiser, student: Denoiser) -> nn.Module:
        """Return the populations, one for each space."""
        if name != "frechet":
            return super().build(name, teacher, student)
        kind = POPULATIONS[self.population]
        return nn.ModuleList(
            kind(space, self.weights, self.axes, self.size, student.pixel_shape) for space in self.spaces
        )

    @torch.no_grad()
    def begin(self, networks: Networks, passes: Passes) -> None:
        """Measure the data, then the student's first images."""
        student, populations = networks.student, networks["frechet"]
        measured = [Sums() for _ in populations]
        for batch in passes(self.references, "real images"):
            for population, sums in zip(populations, measured, strict=True):
                sums.add(population.features(batch.pixels_for(student)))
        for population, sums in zip(populations, measured, strict=True):
            population.refer_to(*sums.moments())
        made: list[list[Tensor]] = [[] for _ in populations]
        for batch in passes(self.size, "first images"):
            images = student.decode(self.generate(student, batch, "frechet"))
            for population, rows in zip(populations, made, strict=True):
                rows.append(gather(population.coordinates(images)))
        for population, rows in zip(populations, made, strict=True):
            population.fill(torch.cat(rows))

    def __call__(self, networks: Networks, batch: Batch) -> Tensor:
        """Return the distance [N], whose gradient is for each image what it alone can do about it."""
        images = networks.student.decode(self.make(networks.student, batch))
        return torch.stack([population(images) for population in networks["frechet"]]).sum(0)


class Population(nn.Module):
    """Features of the student's images in one space, as coordinates along the principal axes of the data's features.

    The data's own coordinates have the mean 0, the variances `variances` [k], and no covariances.
    """

    mean: Tensor
    axes: Tensor
    variances: Tensor
    kept: Tensor

    def __init__(self, space: str, weights: str, axes: int | None, size: int, image_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.embedding, self.size = embedding(space, weights), size
        dim = self.features(torch.zeros(1, *image_shape)).shape[1]
        self.dim = min(axes or dim, dim)
        for name, shape in (("mean", (dim,)), ("axes", (dim, self.dim)), ("variances", (self.dim,))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("kept", self.empty())

    def empty(self) -> Tensor:
        """Return room for what is kept of the population."""
        raise NotImplementedError

    def features(self, images: Tensor) -> Tensor:
        """Return features [N,D] in float64 of images [N,C,H,W] in [-1, 1]."""
        return self.embedding.features(images.float() / 2 + 0.5).double()

    def coordinates(self, images: Tensor) -> Tensor:
        return (self.features(images) - self.mean) @ self.axes

    def refer_to(self, mean: Tensor, covariance: Tensor) -> None:
        """Take the data's moments."""
        variances, axes = torch.linalg.eigh(covariance)
        self.mean.copy_(mean)
        self.axes.copy_(axes.flip(1)[:, : self.dim])
        self.variances.copy_(variances.flip(0)[: self.dim].clamp(min=0))

    def fill(self, rows: Tensor) -> None:
        """Start from the coordinates [N,k] of the student's first images."""
        raise NotImplementedError

    def renew(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Take those of a batch in place of the oldest ones, and return mean and covariance of the population."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Return the distance of the population with these images [N,C,H,W] in it to the data, once an image [N]."""
        scale = self.variances.sum()
        if scale == 0:
            raise ValueError("The Frechet objective has not seen the data yet: call d2o.training.loop.begin first.")
        rows = self.coordinates(images)
        fixed, new = rows.detach(), gather(rows.detach())
        if not_finite(new):
            return rows.sum(1).float()  # the loop leaves out a step whose loss is not finite
        mean, covariance = self.renew(new)
        distance, slope = frechet(mean, covariance, self.variances)
        # N d(distance) / d(row) in a population of N, be it a queue or moments: by the mean, and by the covariance.
        pull = 2 * (mean + (fixed - mean) @ slope)
        return ((distance + ((rows - fixed) * pull).sum(1)) / scale).float()


class Queue(Population):
    """Keeps the rows [size,k] of the newest images, the oldest one first."""

    def empty(self) -> Tensor:
        return torch.zeros(self.size, self.dim)

    def fill(self, rows: Tensor) -> None:
        self.kept.copy_(rows.repeat(-(-self.size // len(rows)), 1)[-self.size :])

    def renew(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        rows = torch.cat([self.kept[len(rows) :], rows])
        self.kept.copy_(rows[-self.size :])
        centred = rows - rows.mean(0)
        return rows.mean(0), centred.T @ centred / len(rows)


class Moments(Population):
    """Keeps the mean product [k+1,k+1] of rows that end with a 1: second moments, the first ones in the last row."""

    def empty(self) -> Tensor:
        return torch.zeros(self.dim + 1, self.dim + 1, dtype=torch.float64)

    def fill(self, rows: Tensor) -> None:
        self.kept.copy_(products(rows) / len(rows))

    def renew(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        self.kept.lerp_(products(rows) / len(rows), min(len(rows) / self.size, 1.0))
        mean = self.kept[-1, :-1].clone()
        return mean, self.kept[:-1, :-1] - mean.outer(mean)


POPULATIONS = {"queue": Queue, "moments": Moments}


class Sums:
    """Sums over the images of all processes."""

    def __init__(self) -> None:
        self.total: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        found = products(rows)
        self.total = found if self.total is None else self.total + found

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return mean [D] and covariance [D,D], divided by the count - 1, of what was added."""
        assert self.total is not None
        if dist.is_initialized():
            dist.all_reduce(self.total)
        count = self.total[-1, -1]
        mean = self.total[-1, :-1] / count
        return mean, (self.total[:-1, :-1] - count * mean.outer(mean)) / (count - 1)


def products(rows: Tensor) -> Tensor:
    """Return the sum of products [D+1,D+1] of rows [N,D] that end with a 1."""
    rows = nn.functional.pad(rows, (0, 1), value=1.0)
    return rows.T @ rows


def gather(rows: Tensor) -> Tensor:
    """Return the rows of all processes."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def not_finite(rows: Tensor) -> bool:
    return bool((~rows.isfinite()).any())


def frechet(mean: Tensor, covariance: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Frechet distance to a Gaussian with mean 0 and these independent variances, and its slope [k,k].

    d^2 = |m|^2 + tr S + tr V - 2 tr (V^1/2 S V^1/2)^1/2; the slope is its derivative by S, 1 - V^1/2 (...)^-1/2 V^1/2,
    where directions without variance count as fixed.
    """
    root = variances.sqrt()
    found, vectors = torch.linalg.eigh(root[:, None] * covariance * root)
    found = torch.where(found > TINY * found[-1], found, 0.0).clamp(min=0)
    distance = mean @ mean + covariance.trace() + variances.sum() - 2 * found.sqrt().sum()
    inverse = torch.where(found > 0, found.rsqrt(), 0.0)
    half = root[:, None] * vectors
    slope = torch.eye(len(root), dtype=root.dtype, device=root.device) - (half * inverse) @ half.T
    return distance, slope
