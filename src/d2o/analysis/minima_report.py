"""Tables and figures of `d2o analyze minima`."""

from typing import Any

import numpy as np

from d2o.metrics.spaces import frechet_name

from .figures import COLORS, CYCLE, SMALLEST, draw_panels, error_bars, set_log_scale, set_symlog_scale, set_ticks
from .minima import DATA, MEASURES, TEACHER, MinimaStudy, Pair, comparisons
from .report import Report, Table, show_repetitions


def report(study: MinimaStudy) -> Report:
    found = {name: comparisons(study, name) for name in study.students}
    rows = [(name, what, value) for name, values in found.items() for what, value in values.items()]
    return Report(
        kind="minima",
        tables=(Table("Comparisons (95 % interval)", ("student", "comparison", "value"), rows), distance_table(study)),
        figures={"distances": draw_distances(study)},
        numbers={
            "features": study.space,
            "images": study.images,
            "repetitions": study.repetitions,
            "comparisons": [{"student": name, "of": what, **value._asdict()} for name, what, value in rows],
            "distances": [{**p._asdict(), "calls": p.calls, **values} for p, values in study.distances.items()],
        },
        notes=study.notes,
    )


def distance_table(study: MinimaStudy) -> Table:
    columns = (frechet_name(study.space), "KID", "pixels, paired", "features, paired", "pixels, unpaired")
    rows = []
    for pair, values in study.distances.items():
        seeds = "" if pair.reference == DATA else ", same seeds" if pair.same_seeds else ", other seeds"
        numbers = (show_repetitions(values[what]) for what in MEASURES)
        rows.append((pair.generator, pair.calls, pair.reference + seeds, *numbers))
    rows.sort(key=lambda row: (row[0] != TEACHER, row[1], row[2]))
    title = f"Distances in {study.space}, N = {study.images:,}, {study.repetitions} repetitions"
    return Table(title, ("images of", "calls", "against", *columns, "features, unpaired"), rows)


def draw_distances(study: MinimaStudy) -> Any:
    """Draw Frechet distance and KID of the teacher against its calls."""
    calls = [Pair(TEACHER, count, DATA).calls for count in study.steps]

    def draw(*panels: Any) -> None:
        for axes, what, title in zip(panels, ("frechet", "kid"), ("Frechet distance", "KID"), strict=True):
            values = {pair: numbers[what] for pair, numbers in study.distances.items()}
            rows = [values[Pair(TEACHER, count, DATA)] for count in study.steps]
            error_bars(axes, calls, rows, color=COLORS[DATA], marker="s", label="teacher to data")
            for index, name in enumerate(study.students):
                color = CYCLE[(index + 1) % len(CYCLE)]
                other = [values[Pair(TEACHER, count, name)] for count in study.steps]
                same = [values[Pair(TEACHER, count, name, True)] for count in study.steps]
                floor, to_data = (np.mean(values[Pair(name, 1, reference)]) for reference in (name, DATA))
                light = {"marker": "^", "markersize": 3, "linewidth": 0.8, "alpha": 0.7}
                error_bars(axes, calls, other, color=color, marker="o", label=f"teacher to {name}")
                axes.axhline(to_data, color=color, linestyle="--", linewidth=0.9, label=f"{name} to data")
                error_bars(axes, calls, same, color=color, label="the same, from the same seeds", **light)
                axes.axhline(floor, color=color, linestyle=":", linewidth=0.9, label=f"{name}, other seeds")
            axes.set(xscale="log", ylabel=title)
            set_symlog_scale(axes, 0.1) if what == "kid" else set_log_scale(axes)
            set_ticks(axes.xaxis, calls, [str(call) for call in calls])
        panels[-1].set_xlabel("teacher's network calls an image")
        panels[0].legend(fontsize=SMALLEST, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    return draw_panels(3.8, draw, count=2)
