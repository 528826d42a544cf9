"""How one-step quality grows with pre-training: teachers of different length, then the same short fine-tuning.

Every teacher is trained from the same start with a schedule of its own length; length 0 is the untrained network. Each
is then fine-tuned by the same recipe on the same images. A repetition has a seed of its own for both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from trials import TuningOptions, cell, find_overlap, fine_tune, kids, main, measure, one_recipe, trial_directory, write

from d2o.analysis.figures import draw_panels, error_bars, set_log_scale, set_ticks
from d2o.analysis.intervals import rank_correlation
from d2o.analysis.report import Table, show_repetitions
from d2o.training.networks import new_denoiser


@dataclass(frozen=True, kw_only=True)
class Options(TuningOptions):
    """The options of `python research/pretraining.py`."""

    recipe: str = "digits-d2o-f"
    """How every teacher is fine-tuned: a name (see `d2o recipes`) or a .json or .yaml file."""
    pretrain: str = "digits-pretrain"
    """How teachers are trained: a recipe that names a backbone."""
    lengths: tuple[int, ...] = (0, 3_000, 12_000, 46_000)
    """Pre-training images of each teacher."""
    steps: int = 18
    """Sampling steps of the teachers in their own evaluation."""


def study(options: Options) -> None:
    """Pre-train teachers for so many images each, and fine-tune each by one recipe."""
    pretrain, tuning = one_recipe(options.pretrain, {}, ()), options.tuning()
    lengths = sorted(set(options.lengths))
    if pretrain.backbone is None:
        raise ValueError(
            f"--pretrain {options.pretrain} names no backbone: use digits-pretrain, or one with `backbone`."
        )
    if len(lengths) < 2 or lengths[0] < 0:
        raise ValueError(f"Give at least two --lengths of pre-training, in images, from 0 on; not {lengths}.")
    if options.steps < 1:
        raise ValueError(f"Teachers make their images in at least 1 of --steps, not {options.steps}.")
    measurement = options.measurement("pretraining")
    images = measurement.images
    scores: dict[str, dict[int, list[dict]]] = {
        name: {length: [] for length in lengths} for name in ("teachers", "untuned", "students")
    }
    pairs = list(product(lengths, range(options.repetitions)))
    for length, i in measurement.counted(pairs, len(pairs), "pre-training and fine-tuning", "teachers"):
        teacher = new_denoiser(pretrain.backbone, images.shape, images.num_classes, seed=pretrain.seed + i).eval()
        name = f"teacher-{length}"
        if length:
            recipe = replace(pretrain, duration=length)
            score = fine_tune(measurement, name, recipe, teacher, i, steps=options.steps)
            teacher = options.load(str(trial_directory(measurement, name, i) / "ema.safetensors"))
        else:
            teacher = teacher.to(options.device)
            score = measure(measurement, name, teacher, i, options.steps)
        scores["teachers"][length].append(score)
        scores["untuned"][length].append(measure(measurement, f"untuned-{length}", teacher, i))
        origin = {"pretrained for": length}
        scores["students"][length].append(
            fine_tune(measurement, f"student-{length}", tuning, teacher, i, origin=origin)
        )
    values = {name: np.array([kids(rows) for rows in found.values()]) for name, found in scores.items()}
    gains = values["untuned"] - values["students"]
    repeated_lengths = np.repeat(lengths, options.repetitions)
    links = {
        "quality of the student (negated KID)": rank_correlation(repeated_lengths, -values["students"].ravel()),
        "quality of the teacher (negated KID)": rank_correlation(repeated_lengths, -values["teachers"].ravel()),
        "gain of fine-tuning in one call": rank_correlation(repeated_lengths, gains.ravel()),
    }
    calls = 2 * options.steps - 1
    columns = (
        *("images of pre-training", f"KID, teacher, {calls} calls", "KID, teacher, 1 call", "KID, student, 1 call"),
        *("gain of fine-tuning", "recall, student"),
    )
    rows = [
        (
            length,
            *(cell(scores[name][length]) for name in scores),
            show_repetitions(gain),
            cell(scores["students"][length], "recall"),
        )
        for length, gain in zip(lengths, gains, strict=True)
    ]
    tables = [
        Table(f"Quality after {tuning.duration:,} images of fine-tuning", columns, rows),
        Table("Rank correlation with the length of pre-training", ("of", "95 % interval"), list(links.items())),
    ]
    numbers = {
        "lengths": lengths,
        **{name: list(found.values()) for name, found in scores.items()},
        "rank_correlations": {name: link._asdict() for name, link in links.items()},
        "notes": find_overlap(options, tuning.judged_by),
    }
    write(options, "pretraining", numbers, tables, {"quality": draw(values, lengths, calls)})


def draw(values: dict[str, np.ndarray], lengths: Sequence[int], calls: int) -> Any:
    """Draw KID against the length of pre-training."""

    def draw(axes: Any) -> None:
        for name, color, marker, label in (
            ("teachers", "#0072B2", "o", f"teacher, {calls} calls"),
            ("untuned", "#666666", "^", "teacher, 1 call"),
            ("students", "#D55E00", "s", "student, 1 call"),
        ):
            error_bars(axes, lengths, values[name], color=color, marker=marker, label=label)
        axes.set_xscale("symlog", linthresh=min(length for length in lengths if length))
        set_ticks(axes.xaxis, lengths, [f"{length / 1000:g}k" if length else "0" for length in lengths])
        axes.set(xlabel="images of pre-training", ylabel="KID")
        if min(rows.min() for rows in values.values()) > 0:
            set_log_scale(axes)
        axes.legend()

    return draw_panels(2.5, draw)


if __name__ == "__main__":
    main(Options, study, __doc__)
