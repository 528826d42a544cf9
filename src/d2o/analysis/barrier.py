"""What lies on the straight line between a teacher's weights and its student's: losses, and one-step quality."""

from collections.abc import Callable
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


@dataclass(frozen=True, eq=False)
class Barrier:
    """At each share `a` [P] of the student: the denoising loss with its standard error, KID and Frechet of one step."""

    student: str
    shares: np.ndarray
    loss: np.ndarray
    loss_error: np.ndarray
    kid: np.ndarray
    frechet: np.ndarray

    @property
    def height(self) -> float:
        """The largest excess of the denoising loss over the line between its ends; 0 without a barrier."""
        return float((self.loss - self.line).max())

    @property
    def line(self) -> np.ndarray:
        """The straight line [P] between the losses of the ends."""
        return (1 - self.shares) * self.loss[0] + self.shares * self.loss[-1]

    def table(self) -> Table:
        """Return the table of the walk."""
        rows = [
            (float(a), measured(float(loss), float(error)), float(kid), float(frechet))
            for a, loss, error, kid, frechet in zip(
                self.shares, self.loss, self.loss_error, self.kid, self.frechet, strict=True
            )
        ]
        columns = ("share of the student", "denoising loss ± standard error", "one-step KID", "one-step Frechet")
        return Table(f"Weights between teacher and {self.student}", columns, rows)


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
    if points < 3:
        raise ValueError(f"A walk between two networks needs at least 3 points, not {points}.")
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
    per_image = np.stack(losses)
    return Barrier(
        name,
        shares,
        per_image.mean(1),
        per_image.std(1, ddof=1) / np.sqrt(per_image.shape[1]),
        np.array(kids, np.float64),
        np.array(frechets, np.float64),
    )


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
    error = float(np.hypot(barrier.loss_error.max(), barrier.loss_error[[0, -1]].max()))
    top = int((barrier.loss - barrier.line).argmax())
    best = int(barrier.kid.argmin())
    ends = f"{barrier.loss[0]:.3g} at the teacher and {barrier.loss[-1]:.3g} at {barrier.student}"
    words = (
        f"a barrier of {barrier.height:.3g} at share {barrier.shares[top]:.2g}"
        if barrier.height > 2 * error
        else f"no barrier that stands out of its error ({barrier.height:.2g}, error {error:.2g})"
    )
    return [
        f"On the straight line between the weights, the denoising loss is {ends}, with {words}.",
        f"One-step quality along that line is best at share {barrier.shares[best]:.2g} of {barrier.student} (KID "
        f"{barrier.kid[best]:.3g}; {barrier.kid[0]:.3g} at the teacher, {barrier.kid[-1]:.3g} at the end).",
    ]
