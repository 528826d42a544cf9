"""Tables and figures of `d2o analyze spectrum`."""

from collections.abc import Mapping, Sequence
from typing import Any

from .figures import COLORS, CYCLE, MARKERS, draw_panels
from .progression import Progression, deviation, mean
from .report import Cell, Report, Table, show_mean, show_percent


def report(found: Mapping[str, Progression]) -> Report:
    by_step = [one for one in found.values() if one.power.shape[1] > 1]
    at_once = [one for one in found.values() if one.power.shape[1] == 1]
    bands, flat = by_step[0].bands, float(by_step[0].frequencies.mean())
    rows: list[tuple[Cell, ...]] = [
        *((*describe(one), one.rise()) for one in by_step),
        *((*describe(one), None) for one in at_once),
        ("white noise", None, flat, *[None] * len(bands), None),
    ]
    columns = ("outputs", "N", "centroid", *(f"{band} c/img" for band in bands), "rank correlation")
    title = "Mean centroid (cycles per image, ± standard deviation over images) and band energies"
    return Report(
        kind="spectrum",
        tables=(Table(title, columns, rows),),
        figures={"centroid": draw_centroids(by_step)},
        numbers={"progressions": [one.as_dict() for one in by_step], "at_once": [one.as_dict() for one in at_once]},
    )


def describe(found: Progression) -> tuple[Cell, ...]:
    """Return name, number of images, centroid and band energies of a progression, mean over its steps."""
    per_image = found.centroids.mean(1)
    centroid = show_mean(float(mean(per_image)), float(deviation(per_image)))
    return (found.name, len(found.power), centroid, *map(show_percent, mean(mean(found.energies)).tolist()))


def draw_centroids(progressions: Sequence[Progression]) -> Any:
    def draw(axes: Any) -> None:
        for index, found in enumerate(progressions):
            middle, sd = mean(found.centroids), deviation(found.centroids)
            color = COLORS.get(found.name, CYCLE[index % len(CYCLE)])
            axes.plot(found.sigmas, middle, color=color, marker=MARKERS[index % len(MARKERS)], label=found.name)
            axes.fill_between(found.sigmas, middle - sd, middle + sd, color=color, alpha=0.15, linewidth=0)
        axes.axhline(progressions[0].frequencies.mean(), color="black", linestyle=":", linewidth=0.8)
        axes.set(xlabel="noise level σ (image units)", ylabel="centroid (cycles per image)")
        axes.set(xscale="log", ylim=(0, None))
        axes.invert_xaxis()
        axes.legend(loc="upper left")

    return draw_panels(2.4, draw)
