"""The figures of the CIFAR-10 study's report: curves over images seen, and images of every row."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

STYLES = tuple(zip(
    ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#000000", "#56B4E9", "#F0E442"), "osD^vPX*", strict=True
))  # fmt: skip
"""Colours that most eyes tell apart (Okabe and Ito), and a marker for each."""


def draw_curves(results: Any, path: Path) -> None:
    """Draw KID and recall against images seen, a column a feature space."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    panels = figure.subplots(2, len(results.spaces), sharex=True, squeeze=False)
    names = [
        name for name in results.names() if any(results.values(name, "lite2", mark) for mark in results.marks[-1:])
    ]
    for panel_row, what in zip(panels, ("kid", "recall"), strict=True):
        for panel, space in zip(panel_row, results.spaces, strict=True):
            for name, (color, marker) in zip(names, STYLES, strict=False):
                means = [results.mean(name, space, mark, what) for mark in results.marks]
                panel.plot(results.marks, means, color=color, marker=marker, markersize=4, label=results.word(name))
            level = results.mean("teacher-18", space, 0, what)
            if level is not None:
                panel.axhline(level, color="grey", linestyle="--", linewidth=1, label=results.word("teacher-18"))
            panel.set_title(f"{what.upper() if what == 'kid' else what} by {results.spaces[space]}", fontsize=10)
            panel.set_xscale("log")
            panel.set_xticks(results.marks, [f"{mark:,}" for mark in results.marks])
            panel.minorticks_off()
            heights = [value for line in panel.lines for value in np.asarray(line.get_ydata(), float)]
            if what == "kid" and min(heights, default=0) > 0:
                panel.set_yscale("log")
    for panel in panels[-1]:
        panel.set_xlabel("images seen")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def draw_gallery(results: Any, path: Path) -> None:
    """Put the first images of every row below each other, all from the same seeds, with their names."""
    from matplotlib.figure import Figure

    pictures = []
    for name in results.names():
        last = max((row["images"] for row in results.against_data if row["row"] == name), default=0)
        file = results.folder / f"{name}-seed0-{last:08d}.png"
        if file.exists():
            pictures.append((results.word(name), Image.open(file).convert("RGB")))
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
    figure.savefig(path, dpi=100)
