"""Figures of the studies that measure quality: minima, parts, bands, pre-training."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .bands import BandsStudy
from .barrier import Barrier
from .correlation import spread
from .figures import COLORS, CYCLE, MARKERS, drawn
from .minima import DATA, MinimaStudy, series
from .page import Drawing
from .parts import OUTCOMES, PREDICTORS, PartsStudy, predictions
from .pretraining import PretrainingStudy
from .ticks import SMALLEST, around_zero, extremes_named, logarithmic, loosened, only, plain
from .trials import Scores


def of_minima(study: MinimaStudy) -> list[Drawing]:
    """Return the figures of `d2o analyze minima`."""
    names = [d.generator for d in study.distances if d.reference == DATA and d.generator != "teacher"]
    drawings = [
        Drawing(
            "distances",
            "Distance of the teacher's images to the data and to each student's, from other seeds (dots) and from the "
            "same (triangles), against its network calls; flat lines: the student to the data, and two samples of it. "
            "Bars: one sd over repetitions.",
            distances(study, names),
        ),
    ]
    if all(one.unpaired_pixels for one in study.distances if one.same_seeds):
        caption = (
            "How far apart the two images of one seed are, relative to two seeds of the same class: 1 is unrelated, 0 "
            "the same."
        )
        drawings.append(Drawing("pairs", caption, pairs(study, names)))
    return drawings + [
        Drawing(
            f"interpolation-{index}" if index else "interpolation",
            f"Between the weights of the teacher (0) and {barrier.student} (1): denoising loss with its standard "
            "error, and KID of images in one call, with one standard deviation over repetitions.",
            interpolation(barrier),
        )
        for index, barrier in enumerate(study.barriers)
    ]


def bars(
    axes: Any, x: Sequence[float] | np.ndarray, values: Sequence[Sequence[float]] | np.ndarray, **style: Any
) -> None:
    """Draw means with one standard deviation over repetitions."""
    found = [spread(row) for row in values]
    style = {"elinewidth": 0.8, "capsize": 1.5, **style}
    axes.errorbar(x, [mean for mean, _ in found], [sd or 0 for _, sd in found], **style)


def distances(study: MinimaStudy, names: Sequence[str]) -> Any:
    """Draw Frechet distance and KID of the teacher against its calls."""

    def draw(panels: Any) -> None:
        for axes, what, title in zip(panels, ("frechet", "kid"), ("Frechet distance", "KID"), strict=True):
            calls, values = series(study, DATA, what)
            bars(axes, calls, values, color=COLORS["real data"], marker="s", label="teacher to data")
            for index, name in enumerate(names):
                color = CYCLE[(index + 1) % len(CYCLE)]
                calls, values = series(study, name, what)
                bars(axes, calls, values, color=color, marker="o", label=f"teacher to {name}")
                flat = spread(getattr(study.find(name, 1, DATA), what))[0]
                axes.axhline(flat, color=color, linestyle="--", linewidth=0.9, label=f"{name} to data")
                calls, values = series(study, name, what, same_seeds=True)
                style = {"marker": "^", "markersize": 3, "linewidth": 0.8, "alpha": 0.7}
                bars(axes, calls, values, color=color, label="the same, from the same seeds", **style)
                again = spread(getattr(study.find(name, 1, name), what))[0]
                axes.axhline(again, color=color, linestyle=":", linewidth=0.9, label=f"{name}, other seeds")
            axes.set(xscale="log", ylabel=title)
            if what == "kid":
                around_zero(axes, 0.1)
            else:
                logarithmic(axes)
            only(axes.xaxis, calls, [str(call) for call in calls])
        panels[-1].set_xlabel("teacher's network calls an image")
        panels[0].legend(fontsize=SMALLEST, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    return drawn(3.8, draw, count=2)


def pairs(study: MinimaStudy, names: Sequence[str]) -> Any:
    """Draw paired distances as shares of unpaired ones."""

    def draw(axes: Any) -> None:
        calls = np.array([])
        for index, name in enumerate(names):
            for what, marker, line in (("pixels", "o", "-"), ("features", "s", "--")):
                calls, paired = series(study, name, what, same_seeds=True)
                _, other = series(study, name, f"unpaired_{what}", same_seeds=True)
                label = f"{what}, {name}" if len(names) > 1 else what
                bars(axes, calls, paired / other, color=CYCLE[index], marker=marker, linestyle=line, label=label)
        axes.axhline(1, color="black", linestyle=":", linewidth=0.8)
        axes.set(xscale="log", xlabel="teacher's network calls an image", ylim=(0, 1.1))
        axes.set_ylabel("distance of one seed's two images\n(share of that of two seeds)")
        only(axes.xaxis, calls, [str(call) for call in calls])
        axes.legend(loc="lower left")

    return drawn(2.4, draw)


def interpolation(barrier: Barrier) -> Any:
    """Draw loss and KID along the line between two networks; KID with one standard deviation over repetitions."""

    def draw(panels: Any) -> None:
        loss, quality = panels
        loss.errorbar(barrier.shares, barrier.loss, barrier.loss_error, color="#0072B2", marker="o", elinewidth=0.8)
        loss.plot(barrier.shares, barrier.line, "k:", linewidth=0.8, label="straight line")
        loss.set(ylabel="denoising loss", ylim=(0, None))
        loss.legend()
        bars(quality, barrier.shares, barrier.kid, color="#D55E00", marker="s")
        quality.set(xlabel=f"share of the weights of {barrier.student}", ylabel="KID in one call (± sd)")
        quality.set_ylim(None if barrier.kid.min() < 0 else 0, None)

    return drawn(3.4, draw, count=2)


def of_parts(study: PartsStudy) -> list[Drawing]:
    """Return the figures of `d2o analyze parts`."""
    drawings = []
    for mode, kind in dict.fromkeys((mode, kind) for mode, kind, _ in study.results):
        found = [(name, scores) for (m, k, name), scores in study.results.items() if (m, k) == (mode, kind)]
        words = "it alone trained" if mode == "train" else "it alone frozen"
        lines = {"everything trained": study.everything, "D2O-F": study.d2o_f}
        drawings.append(
            Drawing(
                f"{mode}-{kind}",
                f"KID after {study.images:,} images, each of the {kind} with {words}; lower is better. Bars: one sd "
                "over repetitions.",
                ranking(found, lines, f"KID, {words}"),
            )
        )
    links = predictions(study)
    for mode in dict.fromkeys(mode for _, mode in links):
        drawings.append(
            Drawing(
                f"prediction-{mode}",
                f"Does a block's frequency predict {OUTCOMES[mode]}? Each point is a block; bars: one sd over "
                "repetitions.",
                prediction(study, mode),
            )
        )
    return drawings


def ranking(found: Sequence[tuple[str, Scores]], lines: dict[str, Scores], title: str) -> Any:
    """Draw the KID of named trials as horizontal bars' ends."""

    def draw(axes: Any) -> None:
        places = np.arange(len(found))[::-1]
        means, deviations = zip(*(spread(scores.values()) for _, scores in found), strict=True)
        errors = [sd or 0 for sd in deviations]
        axes.errorbar(means, places, xerr=errors, fmt="o", color="#0072B2", elinewidth=0.8, capsize=1.5)
        for (name, scores), style in zip(lines.items(), ("--", ":"), strict=True):
            axes.axvline(scores.kid, color="#D55E00", linestyle=style, linewidth=0.9, label=name)
        axes.set_yticks(places, [name for name, _ in found], fontsize=SMALLEST)
        axes.set(xlabel=title, ylim=(-0.6, len(found) - 0.4))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    return drawn(0.7 + 0.16 * len(found), draw)


def prediction(study: PartsStudy, mode: str) -> Any:
    """Draw the outcome of every block against each predictor that it has."""
    links = predictions(study)

    def draw(panels: Any) -> None:
        for axes, (predictor, value) in zip(panels, PREDICTORS.items(), strict=True):
            names = [name for name in study.watched(mode) if np.isfinite(value(study, name))]
            outcomes = [study.results[mode, "blocks", name].values() for name in names]
            outcomes = [
                [study.untuned.kid - v if mode == "train" else v - study.everything.kid for v in o] for o in outcomes
            ]
            places, gains = [value(study, name) for name in names], [study.gain(mode, "blocks", n) for n in names]
            axes.axhline(0, color="#999999", linewidth=0.6, zorder=0.5)
            bars(axes, places, outcomes, fmt="o", color="#0072B2")
            if "number" in predictor:
                axes.set_xscale("log")
            if "place" in predictor:
                axes.xaxis.get_major_locator().set_params(integer=True)
            loosened(axes, gains)
            extremes_named(axes, places, gains, names)
            link = str(links[predictor, mode]).replace(", N = ", ",\nN = ").replace(" (N = ", "\n(N = ")
            axes.set_title(f"rank correlation {link}", fontsize=SMALLEST)
            axes.set(ylabel="gain (KID)" if mode == "train" else "need (KID)")
            axes.set_xlabel(predictor + (" (cycles per image)" if "centroid" in predictor else ""))

    return drawn(7.4, draw, count=len(PREDICTORS))


def of_bands(study: BandsStudy) -> list[Drawing]:
    """Return the figures of `d2o analyze bands`."""
    drawings = [
        Drawing(
            f"output-{mode}",
            "KID in one call when one band of one block's output is "
            f"{'taken away' if mode == 'remove' else 'all that is left'}  ({study.student.cell()} without filter; "
            f"logarithmic colours, the same for all below {DARKEST}). White: the map has no such band.",
            heat(study, mode),
        )
        for mode in dict.fromkeys(mode for mode, _, _ in study.outputs)
    ]
    if study.gradients:
        drawings.append(
            Drawing(
                "gradient",
                f"KID after {study.images:,} images when the gradient of the student's images lacks a band, or has no "
                "other. Bars: one sd over repetitions.",
                gradient(study),
            )
        )
    return drawings


DARKEST = 1e-3
"""KIDs below it, which may even be negative, share the colour of this one."""


def heat(study: BandsStudy, mode: str) -> Any:
    """Draw KID over blocks and bands."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator

    names = list(dict.fromkeys(place for m, place, _ in study.outputs if m == mode))
    table = np.full((len(names), len(study.bands)), np.nan)
    for (m, place, band), scores in study.outputs.items():
        if m == mode:
            table[names.index(place), study.bands.index(band)] = scores.kid
    colors, narrow = np.maximum(table, DARKEST), len(study.bands) > 5

    def draw(axes: Any) -> None:
        low, high = np.nanmin(colors), np.nanmax(colors)
        norm = LogNorm(low, high)
        mesh = axes.imshow(colors, aspect="auto", cmap="cividis", norm=norm, interpolation="nearest")
        bar = axes.figure.colorbar(mesh, ax=axes, label="KID", location="top", pad=0.02, aspect=40)
        bar.ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        plain(bar.ax.xaxis)
        for row, column in np.argwhere(np.isfinite(table)):
            ink = "black" if norm(colors[row, column]) > 0.55 else "white"
            text = f"{table[row, column]:.0f}" if table[row, column] >= 10 else f"{table[row, column]:.2g}"
            text = text.replace("0.", ".", 1) if narrow else text
            axes.text(column, row, text, ha="center", va="center", fontsize=SMALLEST, color=ink)
        axes.set_xticks(range(len(study.bands)), [str(band) for band in study.bands], rotation=40 * narrow)
        axes.set_yticks(range(len(names)), names, fontsize=SMALLEST)
        axes.set(xlabel=f"band (cycles per image), {'removed' if mode == 'remove' else 'kept alone'}")

    return drawn(1.1 + 0.17 * len(names), draw)


def gradient(study: BandsStudy) -> Any:
    """Draw KID after training with filtered gradients."""

    def draw(axes: Any) -> None:
        for index, mode in enumerate(dict.fromkeys(mode for mode, _ in study.gradients)):
            found = [study.gradients[mode, band].values() for band in study.bands]
            places = np.arange(len(study.bands)) + 0.1 * (2 * index - 1)
            label = "band removed" if mode == "remove" else "band alone kept"
            bars(axes, places, found, fmt=MARKERS[index], color=CYCLE[index], label=label)
        assert study.full is not None
        axes.axhline(study.full.kid, color="black", linestyle=":", linewidth=0.8, label="all of the gradient")
        axes.set_xticks(range(len(study.bands)), [str(band) for band in study.bands])
        axes.set(xlabel="band of the gradient (cycles per image)", ylabel="KID in one call", ylim=(0, None))
        axes.legend()

    return drawn(2.4, draw)


def of_pretraining(study: PretrainingStudy) -> list[Drawing]:
    """Return the figure of `d2o analyze pretraining`."""

    def draw(axes: Any) -> None:
        calls = 2 * study.steps - 1
        for name, scores, color, marker in (
            (f"teacher, {calls} calls", study.teachers, "#0072B2", "o"),
            ("teacher, 1 call", study.untuned, "#666666", "^"),
            ("student, 1 call", study.students, "#D55E00", "s"),
        ):
            bars(axes, study.lengths, [one.values() for one in scores], color=color, marker=marker, label=name)
        thresholds = [length for length in study.lengths if length]
        axes.set_xscale("symlog", linthresh=min(thresholds))
        only(axes.xaxis, study.lengths, [f"{length / 1000:g}k" if length else "0" for length in study.lengths])
        found = [
            value
            for scores in (study.teachers, study.untuned, study.students)
            for one in scores
            for value in one.values()
        ]
        axes.set(xlabel="images of pre-training", ylabel="KID")
        if min(found) > 0:
            logarithmic(axes)
        axes.legend()

    caption = (
        f"Quality against the length of pre-training, students after {study.images:,} images of the same fine-tuning."
    )
    return [Drawing("quality", f"{caption} Bars: one sd over repetitions.", drawn(2.5, draw))]
