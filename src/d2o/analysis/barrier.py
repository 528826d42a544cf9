"""What lies on the straight line between a teacher's weights and its student's: losses, and one-step quality."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch

from d2o.diffusion.denoiser import Denoiser
from d2o.metrics.evaluation import Judge
from d2o.objectives.denoising import Denoising
from d2o.objectives.objective import Batch, Networks
from d2o.pixels.datasets import Images
from d2o.training.networks import check_fit

from .findings import Table, measured
from .paths import device
from .weight_change import check_alike

ROUNDING = 1e-6
"""A share of the loss that float32 does not tell."""


@dataclass(frozen=True, eq=False)
class Barrier:
    """At each share `a` [P] of the student: the denoising loss with its standard error, KID and Frechet of one step.

    `excess_error` is the standard error of the loss's excess over the line between its ends. It is taken over images'
    own excesses: the same images, noise and levels are at every point, which leaves most of the loss's spread out.
    """

    student: str
    shares: np.ndarray
    loss: np.ndarray
    loss_error: np.ndarray
    excess_error: np.ndarray
    kid: np.ndarray
    frechet: np.ndarray

    @property
    def height(self) -> float:
        """The largest excess of the denoising loss over the line between its ends; 0 without a barrier."""
        return float(self.excess.max())

    @property
    def excess(self) -> np.ndarray:
        """The loss [P] over the straight line between its ends."""
        return self.loss - self.line

    @property
    def line(self) -> np.ndarray:
        """The straight line [P] between the losses of the ends."""
        return line(self.shares, self.loss)

    def table(self) -> Table:
        """Return the table of the walk."""
        losses, excesses = (
            [measured(*pair) for pair in zip(of.tolist(), error.tolist(), strict=True)]
            for of, error in ((self.loss, self.loss_error), (self.excess, self.excess_error))
        )
        rows = list(zip(self.shares.tolist(), losses, excesses, self.kid.tolist(), self.frechet.tolist(), strict=True))
        columns = (
            "share of the student",
            "denoising loss ± standard error",
            "excess over the line ± standard error",
            "one-step KID",
            "one-step Frechet",
        )
        return Table(f"Weights between teacher and {self.student}", columns, rows)


def line(shares: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the straight line between the first and the last of losses [P, ...] at shares [P]."""
    a = shares.reshape(-1, *(1,) * (losses.ndim - 1))
    return (1 - a) * losses[0] + a * losses[-1]


def along(
    name: str,
    shares: np.ndarray,
    losses: np.ndarray,
    kid: Sequence[float] | np.ndarray,
    frechet: Sequence[float] | np.ndarray,
) -> Barrier:
    """Return the record of a walk with the losses [P, N] of the same N images at each point."""
    loss_error, excess_error = (
        of.std(1, ddof=1) / np.sqrt(of.shape[1]) for of in (losses, losses - line(shares, losses))
    )
    measures = (np.asarray(values, np.float64) for values in (kid, frechet))
    return Barrier(name, shares, losses.mean(1), loss_error, excess_error, *measures)


def interpolated(teacher: Denoiser, student: Denoiser, share: float) -> Denoiser:
    """Return the student with weights (1 - share) teacher + share student; buffers are the student's."""
    between = deepcopy(student)
    with torch.no_grad():
        for mixed, other in zip(between.parameters(), teacher.parameters(), strict=True):
            mixed.lerp_(other.to(mixed), 1 - share)
    return between


def walk(
    teacher: Denoiser,
    student: Denoiser,
    images: Images,
    judge: Judge,
    *,
    name: str = "student",
    points: int = 11,
    count: int = 512,
    batch_size: int = 64,
) -> Barrier:
    """Walk from teacher to student in equal steps; the loss is EDM's over `count` real images, the same at each point.

    The loss is taken in the teacher's preconditioning, one-step images in the student's.
    """
    check_points(points)
    check_alike(teacher, student)
    check_fit(teacher, images)
    shares = np.linspace(0, 1, points)
    losses, kids, frechets = [], [], []
    for share in shares:
        between = interpolated(teacher, student, float(share))
        found = judge(between).distances
        kids.append(found.kid)
        frechets.append(found.frechet)
        between.preconditioning = teacher.preconditioning
        losses.append(denoising_losses(between, images, count, batch_size))
    return along(name, shares, np.stack(losses), kids, frechets)


def check_points(points: int) -> None:
    """Raise a ValueError for so few points that none lies between the ends."""
    if points < 3:
        raise ValueError(f"A walk between two networks needs at least 3 points, not {points}.")


@torch.no_grad()
def denoising_losses(denoiser: Denoiser, images: Images, count: int, batch_size: int) -> np.ndarray:
    """Return EDM's loss [count] of every one of as many real images, each with a noise and a level of its own."""
    objective: Callable = Denoising()
    found: list[np.ndarray] = []
    for real in images.batches(batch_size):
        rest = count - batch_size * len(found)
        if rest <= 0:
            break
        place = device(denoiser)
        label = real.label[:rest].to(place) if real.label is not None and denoiser.num_classes else None
        batch = Batch(real.x0[:rest].to(place), label, real.index[:rest].tolist())
        found.append(objective(Networks(denoiser, denoiser), batch).double().cpu().numpy())
    return np.concatenate(found)


def sentences(barrier: Barrier) -> list[str]:
    """Return what the walk says."""
    top = 1 + int(barrier.excess[1:-1].argmax())
    excess, error = float(barrier.excess[top]), float(barrier.excess_error[top])
    best = int(barrier.kid.argmin())
    ends = f"{barrier.loss[0]:.3g} at the teacher and {barrier.loss[-1]:.3g} at {barrier.student}"
    words = (
        f"a barrier of {excess:.3g} (standard error {error:.2g}) at share {barrier.shares[top]:.2g}"
        if excess > max(2 * error, ROUNDING * barrier.loss.max())
        else f"no barrier that stands out of its error (largest excess {excess:.2g}, standard error {error:.2g})"
    )
    return [
        f"On the straight line between the weights, the denoising loss is {ends}, with {words}.",
        f"One-step quality along that line is best at share {barrier.shares[best]:.2g} of {barrier.student} (KID "
        f"{barrier.kid[best]:.3g}; {barrier.kid[0]:.3g} at the teacher, {barrier.kid[-1]:.3g} at the end).",
    ]
