"""What lies on the straight line between a teacher's weights and its student's: losses, and one-step quality.

Weights (1 - a) teacher + a student. The denoising loss is taken in the teacher's preconditioning over the same real
images, noise and levels at each point; images in one step in the student's, from the same seeds at each point. A
barrier is an excess of the loss over the straight line between its ends (arXiv 1912.05671).
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from trials import Options as Common
from trials import cell, kids, main, measure, write

from d2o.analysis.figures import draw_panels, error_bars
from d2o.analysis.intervals import mean_interval
from d2o.analysis.measurement import remember
from d2o.analysis.report import Table, show_mean
from d2o.analysis.weight_change import check_alike
from d2o.checkpoints.delta import weights_sha256
from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser, evaluation_mode
from d2o.objectives.batch import read_batch
from d2o.objectives.denoising import Denoising
from d2o.objectives.objective import Networks
from d2o.training.networks import check_fit


@dataclass(frozen=True, kw_only=True)
class Options(Common):
    """The options of `python research/interpolation.py`."""

    teacher: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEACHER")]
    """A checkpoint or a run directory."""
    student: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STUDENT")]
    """A one-step student of it."""
    repetitions: int = 4
    """Repetitions of the quality measurement, with other seeds; fewer than 4 give no intervals."""
    points: int = 11
    """Points on the line, including its ends."""
    loss_images: int = 512
    """Real images to compute the loss on, at most as many as there are."""


def interpolate(teacher: Denoiser, student: Denoiser, share: float) -> Denoiser:
    """Return the student with weights (1 - share) teacher + share student; buffers are the student's."""
    between = deepcopy(student)
    with torch.no_grad():
        for weight, other in zip(between.parameters(), teacher.parameters(), strict=True):
            weight.lerp_(other.to(weight), 1 - share)
    return between


@torch.no_grad()
def denoising_losses(denoiser: Denoiser, images: Images, count: int, batch_size: int) -> list[float]:
    """Return EDM's loss of every one of `count` real images, each with a noise and a level of its own."""
    found: list[float] = []
    for real in images.batches(batch_size):
        if len(found) >= count:
            break
        with evaluation_mode(denoiser):
            found += Denoising()(Networks(denoiser, denoiser), read_batch(real, denoiser)).double().tolist()
    return found[:count]


def study(options: Options) -> None:
    """Go from teacher to student in equal steps."""
    if options.points < 3:
        raise ValueError(f"A line between two networks needs at least 3 --points, not {options.points}.")
    teacher, student = options.load(options.teacher), options.load(options.student)
    measurement = options.measurement("interpolation")
    check_alike(teacher, student)
    check_fit(teacher, measurement.images)
    count = min(options.loss_images, len(measurement.images))
    settings = {"sha256": [weights_sha256(teacher), weights_sha256(student)], "loss_images": count}
    shares = np.linspace(0, 1, options.points)
    losses, scores = [], []
    for share in measurement.counted(shares.tolist(), options.points, "between the weights", "points"):
        between = interpolate(teacher, student, share)
        judged = between.replace(preconditioning=teacher.preconditioning)
        file = measurement.directory / f"{share:.6g}-loss.json"
        found = remember(
            file,
            {**measurement.settings(), **settings},
            lambda judged=judged: {"losses": denoising_losses(judged, measurement.images, count, options.batch)},
        )
        losses.append(found["losses"])
        scores.append([measure(measurement, f"{share:.6g}", between, i) for i in range(options.repetitions)])
    values = np.array(losses)  # [points, images]
    line = (1 - shares[:, None]) * values[0] + shares[:, None] * values[-1]
    loss, excess = ((of.mean(1), of.std(1, ddof=1) / np.sqrt(count)) for of in (values, values - line))
    qualities = np.array([kids(row) for row in scores])
    best = int(qualities.mean(1).argmin())
    ends = {
        f"KID at {shares[best]:.2g}, the best point, minus that of the {end}": mean_interval(qualities[best] - at)
        for end, at in (("teacher", qualities[0]), ("student", qualities[-1]))
    }
    columns = ("share of the student", "denoising loss ± standard error", "excess ± standard error", "KID ± sd")
    rows = [
        (share, show_mean(*map(float, one)), show_mean(*map(float, over)), cell(row))
        for share, one, over, row in zip(
            shares.tolist(), zip(*loss, strict=True), zip(*excess, strict=True), scores, strict=True
        )
    ]
    numbers = {
        "share": shares,
        "loss": loss[0],
        "loss_error": loss[1],
        "excess": excess[0],
        "excess_error": excess[1],
        "scores": scores,
        "best": {name: interval._asdict() for name, interval in ends.items()},
    }
    tables = [
        Table(f"Between the weights: loss over {count:,} real images", columns, rows),
        Table("Best point (95 % interval over repetitions)", ("", "difference"), list(ends.items())),
    ]
    write(options, "interpolation", numbers, tables, {"line": draw(shares, values.mean(1), loss[1], qualities)})


def draw(shares: np.ndarray, losses: np.ndarray, errors: np.ndarray, qualities: np.ndarray) -> Any:
    """Draw loss, with its standard error, and KID, with one standard deviation over repetitions, along the line."""

    def draw(loss: Any, quality: Any) -> None:
        loss.errorbar(shares, losses, errors, color="#0072B2", marker="o", elinewidth=0.8)
        loss.plot(shares[[0, -1]], losses[[0, -1]], "k:", linewidth=0.8, label="straight line")
        loss.set(ylabel="denoising loss", ylim=(0, None))
        loss.legend()
        error_bars(quality, shares, qualities, color="#D55E00", marker="s")
        quality.set(xlabel="share of the student's weights", ylabel="KID in one call (± sd)")

    return draw_panels(3.4, draw, count=2)


if __name__ == "__main__":
    main(Options, study, __doc__)
