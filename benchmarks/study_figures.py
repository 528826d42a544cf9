"""The figures of the CIFAR-10 study's report: KID against seconds, and images of every row."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from report_tables import names, word
from study_claims import SPACES

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#000000", "#56B4E9", "#B8A800")
MARKERS = "osD^vPX*"
"""Colours that most eyes tell apart (Okabe and Ito), and markers: together a pair for every row."""


def methods(results: Any) -> list[str]:
    """Return the rows that were trained on all images, as they stand in tables."""
    trained = {row["row"] for row in results.rows if row["images"] and row.get("real") is None}
    return [name for name in names(results) if name in trained and not name.removeprefix("cd-").isdigit()]


def draw_figure(results: Any, path: Path) -> None:
    """Draw a panel a feature space: a row's KID and seconds at its marks, and every seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    panels = figure.subplots(1, len(SPACES))
    for panel, (space, title) in zip(panels, SPACES.items(), strict=True):
        for index, name in enumerate(methods(results)):
            style = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[(index + index // 8) % len(MARKERS)]}
            sides = [list(results.runs(name, space, mark).values()) for mark in results.marks]
            found = [side for side in sides if side]
            each = [(run["seconds"] / 60, max(run["kid"], 1e-4)) for side in found for run in side]
            panel.scatter(*zip(*each, strict=True), s=12, alpha=0.4, **style)
            means = [[np.mean([run[what] for run in side]) for side in found] for what in ("seconds", "kid")]
            panel.plot(np.asarray(means[0]) / 60, means[1], markersize=6, linewidth=1.2, label=word(name), **style)
        for name, line in {"teacher-18": "--", "untuned": ":", "blurred": "-."}.items():
            level = results.value(name, space)
            if level is not None and level > 0:
                panel.axhline(level, color="grey", linestyle=line, linewidth=1, label=word(name))
        panel.set_title(f"KID by {title}", fontsize=10)
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.set_xlabel("minutes of one core")
        for axis in (panel.xaxis, panel.yaxis):
            label_plainly(axis)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=6, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def label_plainly(axis: Any) -> None:
    """Label a logarithmic axis by plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def draw_gallery(results: Any, folder: Path, path: Path) -> None:
    """Put the first images of every row below each other, all from the same seeds, with their names."""
    from matplotlib.figure import Figure

    files = {name: folder / f"{name}.png" for name in names(results)}
    pictures = [(word(name), Image.open(file).convert("RGB")) for name, file in files.items() if file.exists()]
    if not pictures:
        return
    columns = 3
    lines = -(-len(pictures) // columns)
    wide, high = pictures[0][1].size
    figure = Figure(figsize=(4.2 * columns, (4.2 * high / wide + 0.35) * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    for panel in panels:
        panel.set_axis_off()
    for panel, (name, picture) in zip(panels, pictures, strict=False):
        panel.imshow(np.asarray(picture), interpolation="nearest")
        panel.set_title(name, fontsize=11)
    figure.savefig(path, dpi=90)
