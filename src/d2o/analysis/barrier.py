"""What lies on the straight line between a teacher's weights and its student's: losses, and one-step quality."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from urllib.parse import quote

import numpy as np
import torch

from d2o.checkpoints.delta import weights_sha256
from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser
from d2o.objectives.denoising import Denoising
from d2o.objectives.objective import Batch, Networks
from d2o.training.networks import check_fit
from d2o.training.run import summary

from .correlation import FEWEST, mean_interval, spread
from .findings import Table, measured
from .paths import device, evaluating
from .trials import Bench, Score, remembered
from .weight_change import check_alike

ROUNDING = 1e-6
"""A share of the loss that float32 does not tell."""


@dataclass(frozen=True, eq=False)
class Barrier:
    """At each share `a` [P] of the student: the denoising loss with its standard error over `images` real images.

    `excess_error` is the standard error of the loss's excess over the line between its ends. It is taken over images'
    own excesses: the same images, noise and levels are at every point, which leaves most of the loss's spread out.
    `kid` and `frechet` [P, repetitions] are those of images in one step, from the same seeds at every point.
    """

    student: str
    images: int
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
        qualities = [[measured(*spread(row)) for row in of] for of in (self.kid, self.frechet)]
        rows = list(zip(self.shares.tolist(), losses, excesses, *qualities, strict=True))
        columns = (
            "share of the student",
            "denoising loss ± standard error",
            "excess over the line ± standard error",
            "one-step KID ± sd",
            "one-step Frechet ± sd",
        )
        title = (
            f"Weights between teacher and {self.student}: loss over N = {self.images:,} real images, quality in "
            f"{self.kid.shape[1]} repetition{'s' * (self.kid.shape[1] > 1)}"
        )
        return Table(title, columns, rows)


def line(shares: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Return the straight line between the first and the last of losses [P, ...] at shares [P]."""
    a = shares.reshape(-1, *(1,) * (losses.ndim - 1))
    return (1 - a) * losses[0] + a * losses[-1]


def along(
    name: str,
    shares: np.ndarray,
    losses: np.ndarray,
    kid: Sequence[Sequence[float]] | np.ndarray,
    frechet: Sequence[Sequence[float]] | np.ndarray,
) -> Barrier:
    """Return the record of a walk: losses [P, N] of the same N images at each point, distances [P, repetitions]."""
    loss_error, excess_error = (
        of.std(1, ddof=1) / np.sqrt(of.shape[1]) for of in (losses, losses - line(shares, losses))
    )
    measures = (np.asarray(values, np.float64) for values in (kid, frechet))
    return Barrier(name, losses.shape[1], shares, losses.mean(1), loss_error, excess_error, *measures)


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
    bench: Bench,
    *,
    name: str = "student",
    points: int = 11,
    count: int = 512,
    repetitions: int = FEWEST,
) -> Barrier:
    """Walk from teacher to student in equal steps; the loss is EDM's over `count` real images, the same at each point.

    The loss is taken in the teacher's preconditioning, one-step images in the student's. Where there are fewer real
    images, all of them are taken. Every point is remembered in the bench's directory.
    """
    check_points(points)
    check_alike(teacher, student)
    check_fit(teacher, bench.images)
    count = min(count, len(bench.images))
    settings = {
        **bench.settings(),
        "teacher_sha256": weights_sha256(teacher),
        "student_sha256": weights_sha256(student),
    }
    shares = np.linspace(0, 1, points)

    def loss(share: float) -> Score:
        between = interpolated(teacher, student, share)
        between.preconditioning = teacher.preconditioning
        return {"losses": denoising_losses(between, bench.images, count, bench.batch_size)}

    def quality(share: float, repetition: int) -> Score:
        return summary(bench.judge(repetition)(interpolated(teacher, student, share)))

    losses, scores = [], []
    for share in bench.counted(shares.tolist(), points, f"between teacher and {name}", "points"):
        known = {**settings, "share": share}
        start = f"{quote(name, safe='')}-{share:.6g}"
        file = bench.directory / "walk" / f"{start}-loss.json"
        losses.append(remembered(file, {**known, "loss_images": count}, partial(loss, share))["losses"])
        rows = [
            remembered(bench.directory / "walk" / f"{start}-{i}.json", known, partial(quality, share, i))
            for i in range(repetitions)
        ]
        scores.append(rows)
    kid, frechet = ([[row[what] for row in rows] for rows in scores] for what in ("kid", "frechet"))
    return along(name, shares, np.array(losses, np.float64), kid, frechet)


def check_points(points: int) -> None:
    """Raise a ValueError for so few points that none lies between the ends."""
    if points < 3:
        raise ValueError(f"A walk between two networks needs at least 3 points, not {points}.")


@torch.no_grad()
def denoising_losses(denoiser: Denoiser, images: Images, count: int, batch_size: int) -> np.ndarray:
    """Return EDM's loss [count] of every one of as many real images, each with a noise and a level of its own.

    There must be so many: the stream of images would begin anew.
    """
    assert count <= len(images), (count, len(images))
    objective: Callable = Denoising()
    found: list[np.ndarray] = []
    for real in images.batches(batch_size):
        rest = count - batch_size * len(found)
        if rest <= 0:
            break
        place = device(denoiser)
        label = real.label[:rest].to(place) if real.label is not None and denoiser.num_classes else None
        batch = Batch(real.x0[:rest].to(place), label, real.index[:rest].tolist())
        with evaluating(denoiser):
            found.append(objective(Networks(denoiser, denoiser), batch).double().cpu().numpy())
    return np.concatenate(found)


def sentences(barrier: Barrier) -> list[str]:
    """Return what the walk says."""
    top = 1 + int(barrier.excess[1:-1].argmax())
    excess, error = float(barrier.excess[top]), float(barrier.excess_error[top])
    ends = f"{barrier.loss[0]:.3g} at the teacher and {barrier.loss[-1]:.3g} at {barrier.student}"
    words = (
        f"a barrier of {excess:.3g} (standard error {error:.2g}) at share {barrier.shares[top]:.2g}"
        if excess > max(2 * error, ROUNDING * barrier.loss.max())
        else f"no barrier that stands out of its error (largest excess {excess:.2g}, standard error {error:.2g})"
    )
    return [
        f"On the straight line between the weights, the denoising loss is {ends}, with {words}.",
        best_point(barrier),
    ]


def best_point(barrier: Barrier) -> str:
    """Return whether one-step quality between the ends is better than at both of them, as a sentence."""
    means = barrier.kid.mean(1)
    best, end = int(means.argmin()), 0 if means[0] < means[-1] else -1
    excesses = [mean_interval(barrier.kid[best] - barrier.kid[one]) for one in (0, -1)]
    first, last, lowest = (measured(*spread(barrier.kid[one])) for one in (0, -1, best))
    ends = f"{first} at the teacher, {last} at the end"
    if all(one.known and one.high < 0 for one in excesses):
        return (
            f"One-step quality along that line is best at share {barrier.shares[best]:.2g} of {barrier.student} (KID "
            f"{lowest}; {ends})."
        )
    where = "at that end, too" if best in (0, len(means) - 1) else f"{lowest} at share {barrier.shares[best]:.2g}"
    return (
        f"One-step quality along that line: no point is told apart from the better end, share "
        f"{barrier.shares[end]:.2g} of {barrier.student} (KID {ends}; the lowest is {where}); N = "
        f"{barrier.kid.shape[1]} repetitions."
    )
