"""Remove one frequency band, or keep only that band: which bands does one-step quality need, and where?

Output: an octave is removed from one block's output (or only that octave is kept) while the student makes its images
in one call; no training. Such a filter acts on everything accumulated up to a block: it shows which blocks transmit a
band, not which block generates it. "image" filters the finished image. Gradient: the discriminator's gradient on the
student's image is filtered in this way at every step of the fine-tuning.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from filters import bands_of, filter_gradient, filter_output
from trials import TuningOptions, cell, find_overlap, fine_tune, kid, kids, main, measure, trial_directory, write

from d2o.analysis.blocks import block_spectra
from d2o.analysis.figures import CYCLE, MARKERS, SMALLEST, draw_panels, error_bars
from d2o.analysis.frequency import Band, octaves, rings
from d2o.analysis.intervals import (
    FEWEST,
    Interval,
    Numbers,
    effective_size,
    fisher_error,
    fisher_interval,
    half_step,
    spearman,
)
from d2o.analysis.measurement import Score
from d2o.analysis.network import places
from d2o.analysis.paths import Sampling
from d2o.analysis.progression import mean
from d2o.analysis.report import Table
from d2o.training.recipe import Recipe

Mode = Literal["remove", "keep"]


@dataclass(frozen=True, kw_only=True)
class Options(TuningOptions):
    """The options of `python research/bands.py`."""

    teacher: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEACHER")]
    """A checkpoint or a run directory."""
    student: str | None = None
    """The one-step student whose blocks are filtered; by default the one that the recipe makes."""
    modes: tuple[Mode, ...] = ("remove", "keep")
    """Filters of the blocks' outputs."""
    gradient_modes: tuple[Mode, ...] = ("remove", "keep")
    """Filters of the gradient."""
    seeds: int = 32
    """Number of images to record the teacher's blocks on."""
    steps: int = 18
    """Number of noise levels to record them at."""


@dataclass(frozen=True)
class Found:
    """Scores, one a repetition: of filtered outputs, of filtered gradients, and of both without a filter.

    `full`, training without a filter, is None where neither gradients nor a student asked for it; `energies` are the
    shares of the bands in the change of each block of the teacher.
    """

    bands: list[Band]
    places: dict[str, str]
    energies: dict[tuple[str, Band], float]
    plain: list[Score]
    outputs: dict[tuple[str, str, Band], list[Score]]
    full: list[Score] | None
    gradients: dict[tuple[str, Band], list[Score]]


def study(options: Options) -> None:
    """Filter a student's blocks, and the gradient of its fine-tuning, band by band."""
    if not options.modes and not options.gradient_modes:
        raise ValueError("Nothing is filtered: name --modes, --gradient-modes, or both (remove, keep).")
    recipe, measurement, every = options.tuning(), options.measurement("bands"), range(options.repetitions)
    teacher = options.load(options.teacher)

    def train(name: str, **changes: Any) -> list[Score]:
        return [fine_tune(measurement, name, recipe, teacher, i, **changes) for i in every]

    full = train("gradient-full") if options.gradient_modes or options.student is None else None
    student = options.load(options.student or str(trial_directory(measurement, "gradient-full", 0) / "ema.safetensors"))

    def quality(name: str, change: AbstractContextManager) -> list[Score]:
        with change:
            return [measure(measurement, f"output-{name}", student, i) for i in every]

    plain = quality("unchanged", nullcontext())
    filters = [
        (mode, place, band) for place, held in bands_of(student).items() for band in held for mode in options.modes
    ]
    outputs = {
        (mode, place, band): quality(f"{mode}-{place}-{band}", filter_output(student, place, band, mode == "keep"))
        for mode, place, band in measurement.counted(filters, len(filters), "outputs of blocks", "filters")
    }
    bands = octaves(int(rings(*teacher.image_shape[1:]).max()) + 1)
    limits = list(product(options.gradient_modes, bands))
    gradients = {}
    for mode, band in measurement.counted(limits, len(limits), "the gradient", "trials"):
        limit, origin = partial(filter_gradient, band=band, keep=mode == "keep"), {"gradient": f"{mode} {band}"}
        gradients[mode, band] = train(f"gradient-{mode}-{band}", origin=origin, prepare=limit)
    sampling = Sampling(range(options.seeds), options.steps, counted=measurement.counted)
    energies = {
        (block.name, band): share
        for block in (block_spectra(teacher, sampling) if options.modes else ())
        for band, share in zip(block.change.bands, mean(mean(block.change.energies)).tolist(), strict=True)
    }
    report(options, recipe, Found(bands, places(student.backbone), energies, plain, outputs, full, gradients))


def report(options: Options, recipe: Recipe, found: Found) -> None:
    """Write numbers, tables and figures."""
    link = relate(found)
    numbers = {
        "rank_correlation_of_energy_with_need": link._asdict(),
        "band_energies_of_blocks": [
            {"block": block, "band": str(band), "share": share} for (block, band), share in found.energies.items()
        ],
        "student": found.plain,
        "outputs": [
            {"mode": mode, "block": place, "band": str(band), "repetitions": scores}
            for (mode, place, band), scores in found.outputs.items()
        ],
        "full_gradient": found.full,
        "gradients": [
            {"mode": mode, "band": str(band), "repetitions": scores} for (mode, band), scores in found.gradients.items()
        ],
        "notes": find_overlap(options, recipe.judged_by),
    }
    figures = {f"output-{mode}": draw_outputs(found, mode) for mode in options.modes}
    if found.full is not None and found.gradients:
        figures["gradient"] = draw_gradients(found, kid(found.full))
    limits = list(product(options.modes, found.bands))
    by_block = []
    for place in dict.fromkeys(place for _, place, _ in found.outputs):
        scores = [found.outputs.get((mode, place, band)) for mode, band in limits]
        by_block.append((place, *(cell(one) if one else None for one in scores)))
    by_band = [
        (str(band), *(cell(found.gradients[mode, band]) for mode in options.gradient_modes)) for band in found.bands
    ]
    full = cell(found.full) if found.full else "-"
    tables = [
        Table(
            f"KID in one call with a filter on one block's output ({cell(found.plain)} without)",
            ("block", *(f"{mode} {band}" for mode, band in limits)),
            by_block,
        ),
        Table("Rank correlation of a band's energy with the KID without it", ("95 % interval",), [(link,)]),
        Table(
            f"KID after {recipe.duration:,} images with a filtered gradient ({full} without)",
            ("band", *options.gradient_modes),
            by_band,
        ),
    ]
    write(options, "bands", numbers, tables, figures)


def relate(found: Found) -> Interval:
    """Return the rank correlation, over blocks and bands from 1 on, of a band's energy with the KID without it.

    The output block is left out, as its output is the image.
    """
    groups: dict[str, list[tuple[float, float]]] = {}
    for (mode, place, band), scores in found.outputs.items():
        energy, inside = found.energies.get((place, band), math.nan), found.places.get(place, "output") != "output"
        if mode == "remove" and inside and band.low > 0 and math.isfinite(energy):
            groups.setdefault(place, []).append((energy, kid(scores)))
    return grouped_rank_correlation([([e for e, _ in rows], [k for _, k in rows]) for rows in groups.values()])


def grouped_rank_correlation(groups: Sequence[tuple[Numbers, Numbers]]) -> Interval:
    """Return Spearman's correlation over all pairs (a, b) of groups in sequence, of which whole ones are resampled.

    The interval is Student's in Fisher's z; its standard error is that of a bootstrap over whole groups, and never less
    than that of as many independent pairs. Groups resemble their neighbours: they count as fewer, by the
    autocorrelation of what each adds to the correlation. `size` counts groups.
    """
    from scipy import stats

    nothing = Interval(math.nan, math.nan, math.nan, len(groups))
    if not groups:
        return nothing
    a, b = (np.concatenate([np.asarray(group[side], np.float64) for group in groups]) for side in (0, 1))
    pairs, value = len(a), spearman(a, b)
    members = np.split(np.arange(pairs), np.cumsum([len(group[0]) for group in groups])[:-1])
    added = (stats.rankdata(a) - (pairs + 1) / 2) * (stats.rankdata(b) - (pairs + 1) / 2)
    effective = effective_size(np.array([added[group].sum() for group in members]))
    if effective < FEWEST or math.isnan(value):
        return nothing._replace(value=value, effective=effective)
    limit = 1 - half_step(pairs)

    def fisher(*chosen: int) -> float:
        rows = np.concatenate([members[group] for group in np.ravel(chosen)])
        return math.atanh(np.clip(spearman(a[rows], b[rows]), -limit, limit))

    options: Any = {"n_resamples": 2000, "vectorized": False, "method": "percentile", "random_state": 0}
    found: Any = stats.bootstrap((np.arange(len(groups)),), fisher, **options)
    error = max(float(np.nanstd(found.bootstrap_distribution, ddof=1)), fisher_error(value, pairs))
    reach = float(stats.t.ppf(0.975, effective - 1)) * error * math.sqrt(len(groups) / effective)
    return Interval(value, *fisher_interval(value, reach, pairs), len(groups), effective)


def draw_outputs(found: Found, mode: str) -> Any:
    """Draw KID over blocks and bands; KIDs below 0.001, which may even be negative, share one colour."""
    from matplotlib.colors import LogNorm

    names, bands = list(dict.fromkeys(place for _, place, _ in found.outputs)), found.bands
    table = np.full((len(names), len(bands)), np.nan)
    for (m, place, band), scores in found.outputs.items():
        if m == mode:
            table[names.index(place), bands.index(band)] = kid(scores)
    colors = np.maximum(table, 1e-3)

    def draw(axes: Any) -> None:
        norm = LogNorm(np.nanmin(colors), np.nanmax(colors))
        mesh = axes.imshow(colors, aspect="auto", cmap="cividis", norm=norm, interpolation="nearest")
        axes.figure.colorbar(mesh, ax=axes, label="KID", location="top", pad=0.02, aspect=40)
        for row, column in np.argwhere(np.isfinite(table)):
            ink = "black" if norm(colors[row, column]) > 0.55 else "white"
            text = f"{table[row, column]:.0f}" if table[row, column] >= 10 else f"{table[row, column]:.2g}"
            axes.text(column, row, text, ha="center", va="center", fontsize=SMALLEST, color=ink)
        axes.set_xticks(range(len(bands)), [str(band) for band in bands])
        axes.set_yticks(range(len(names)), names, fontsize=SMALLEST)
        axes.set(xlabel=f"band (cycles per image), {'removed' if mode == 'remove' else 'kept alone'}")

    return draw_panels(1.1 + 0.17 * len(names), draw)


def draw_gradients(found: Found, full: float) -> Any:
    """Draw KID after training with filtered gradients."""
    bands = found.bands

    def draw(axes: Any) -> None:
        for index, mode in enumerate(dict.fromkeys(mode for mode, _ in found.gradients)):
            values = [kids(found.gradients[mode, band]) for band in bands]
            label = "band removed" if mode == "remove" else "band alone kept"
            middles = np.arange(len(bands)) + 0.1 * (2 * index - 1)
            error_bars(axes, middles, values, fmt=MARKERS[index], color=CYCLE[index], label=label)
        axes.axhline(full, color="black", linestyle=":", linewidth=0.8, label="all of the gradient")
        axes.set_xticks(range(len(bands)), [str(band) for band in bands])
        axes.set(xlabel="band of the gradient (cycles per image)", ylabel="KID in one call", ylim=(0, None))
        axes.legend()

    return draw_panels(2.4, draw)


if __name__ == "__main__":
    main(Options, study, __doc__)
