"""Figures of `d2o analyze blocks`: the network coloured by band, its blocks at every noise level, and what moved."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .blocks import BlockSpectra, BlocksStudy, used
from .figures import LEVEL, drawn, level
from .frequency import Band, centroid
from .page import Drawing
from .progression import mean
from .ticks import SMALLEST

NONE = "#dddddd"
"""The colour of a block whose output does not change."""
FEW = 16
"""Blocks whose names can be read along an axis."""


def of_blocks(study: BlocksStudy) -> list[Drawing]:
    """Return the figures of `d2o analyze blocks`."""
    panels = [("before fine-tuning" if study.after else "", study.before)]
    if study.after:
        panels.append(("after fine-tuning", study.after))
    drawings = [
        Drawing(
            "network",
            "The network, block by block in the order of their calls, at the height of their resolution, coloured by "
            "the octave (cycles per image) in which their output changes most; the number is the centroid.",
            network(panels),
        ),
        Drawing(
            "change",
            "Centroid of the change of every block's output at each noise level, in cycles per image.",
            by_level(panels, "change"),
        ),
        Drawing(
            "response",
            "Centroid of every block's response (power out over power in) at each noise level, in cycles per image.",
            by_level(panels, "response"),
        ),
    ]
    if study.after:
        drawings.append(
            Drawing(
                "centroids",
                "Centroid of each block's change before and after; bars: one sd over images.",
                shifts(study),
            )
        )
        drawings.append(
            Drawing(
                "weights", "Relative change of the weights by block and role; white: no such weights.", weights(study)
            )
        )
    return drawings


def palette(bands: Sequence[Band]) -> dict[Band, Any]:
    """Return a colour a band, dark for low frequencies and light for high ones."""
    import matplotlib as mpl

    colors = mpl.colormaps["viridis"](np.linspace(0.05, 0.95, max(len(bands), 2)))
    return dict(zip(bands, colors, strict=False))


def network(panels: Sequence[tuple[str, Sequence[BlockSpectra]]]) -> Any:
    """Draw the blocks as boxes, coloured by dominant band."""
    from matplotlib.patches import Patch, Rectangle

    bands = panels[0][1][0].change.bands
    for _, found in panels:
        bands = max(bands, *(block.change.bands for block in found), key=len)
    colors = palette(bands[1:])

    def draw(axes: Any) -> None:
        for one, (title, found) in zip(np.atleast_1d(axes), panels, strict=True):
            sides = sorted({min(block.size) for block in found})
            heights = [sides.index(min(block.size)) for block in found]
            one.plot(range(len(found)), heights, color="#999999", linewidth=0.8, zorder=1)
            for place, (block, height) in enumerate(zip(found, heights, strict=True)):
                band, middle = block.change_band, block.change_centroid[0]
                color = NONE if band is None else colors[band]
                box = (place - 0.42, height - 0.32)
                one.add_patch(Rectangle(box, 0.84, 0.64, facecolor=color, edgecolor="white", linewidth=0.5, zorder=2))
                if len(found) <= FEW and np.isfinite(middle):
                    light = np.dot(np.asarray(color)[:3], (0.3, 0.6, 0.1)) > 0.5
                    ink = "black" if light else "white"
                    text = f"{middle:.1f}" if middle < 9.95 else f"{middle:.0f}"
                    one.text(place, height, text, ha="center", va="center", fontsize=SMALLEST, color=ink, zorder=3)
            one.set_yticks(range(len(sides)), [f"{side}x{side}" for side in sides])
            one.set(xlim=(-0.7, len(found) - 0.3), ylim=(-0.6, len(sides) - 0.4), title=title, ylabel="map")
            one.set_xticks([])
        named(np.atleast_1d(axes)[-1], panels[-1][1])
        shown = sorted({band for _, found in panels for band in used(found)})
        handles = [Patch(color=colors[band], label=str(band)) for band in shown]
        if any(block.change_band is None for _, found in panels for block in found):
            handles.append(Patch(color=NONE, label="does not change"))
        last = np.atleast_1d(axes)[-1]
        last.figure.legend(
            handles=handles,
            title="octave with most energy (cycles per image); written: centroid",
            ncols=len(handles),
            loc="outside lower center",
        )

    return drawn(1.45 + 0.95 * len(panels), draw, count=len(panels))


def by_level(panels: Sequence[tuple[str, Sequence[BlockSpectra]]], what: str) -> Any:
    """Draw the centroids of all blocks (vertical) at all noise levels (horizontal)."""

    def values(found: Sequence[BlockSpectra]) -> np.ndarray:
        per_level = [mean(b.change.centroids) if what == "change" else centroid(b.response) for b in found]
        return np.stack(per_level)

    tables = [values(found) for _, found in panels]
    known = np.concatenate([table[np.isfinite(table)] for table in tables])
    low, high = (known.min(), known.max()) if len(known) else (0, 1)

    def draw(axes: Any) -> None:
        mesh = None
        for one, table, (title, found) in zip(np.atleast_1d(axes), tables, panels, strict=True):
            mesh = one.imshow(table, aspect="auto", cmap="cividis", vmin=low, vmax=high, interpolation="nearest")
            sigmas = found[0].change.sigmas
            ticks = np.linspace(0, len(sigmas) - 1, min(6, len(sigmas))).round().astype(int)
            shift = table.shape[1] - len(sigmas)  # responses begin one noise level earlier
            one.set_xticks(ticks + shift, [level(float(sigmas[tick])) for tick in ticks])
            labels = [block.name for block in found]
            shown = range(len(labels)) if len(labels) <= 2 * FEW else range(0, len(labels), len(labels) // FEW)
            one.set_yticks(shown, [labels[i] for i in shown], fontsize=SMALLEST)
            one.set(xlabel=LEVEL, title=title)
        axes = np.atleast_1d(axes)
        axes[0].figure.colorbar(mesh, ax=list(axes), label=f"centroid of {what} (cycles per image)", pad=0.02)

    return rows(draw, len(panels), min(0.6 + 0.16 * len(panels[0][1]), 3.4))


def shifts(study: BlocksStudy) -> Any:
    """Draw every block's centroid before and after."""

    def draw(axes: Any) -> None:
        for found, offset, color, marker, label in (
            (study.before, -0.12, "#0072B2", "o", "before"),
            (study.after, 0.12, "#D55E00", "s", "after"),
        ):
            middles, spreads = np.array([block.change_centroid for block in found]).T
            places = np.arange(len(found)) + offset
            axes.errorbar(
                places, middles, spreads, fmt=marker, color=color, label=label, elinewidth=0.7, markersize=2.8
            )
        named(axes, study.before)
        axes.set(ylabel="centroid of change\n(cycles per image)", ylim=(0, None))
        axes.legend(loc="lower left", ncols=2)

    return drawn(2.5, draw)


def weights(study: BlocksStudy) -> Any:
    """Draw the relative weight changes of roles (vertical) in blocks (horizontal)."""
    names = list(dict.fromkeys(row.block for row in study.weights if row.block != "all"))
    roles = list(dict.fromkeys(row.role for row in study.weights if row.role != "all"))
    table = np.full((len(roles), len(names)), np.nan)
    for row in study.weights:
        if row.block != "all" and row.role != "all":
            table[roles.index(row.role), names.index(row.block)] = row.relative * 100

    def draw(axes: Any) -> None:
        mesh = axes.imshow(table, aspect="auto", cmap="cividis", vmin=0, interpolation="nearest")
        axes.figure.colorbar(mesh, ax=axes, label="relative change (%)", pad=0.02)
        axes.set_yticks(range(len(roles)), roles)
        labelled(axes, names)

    return drawn(2.6, draw)


def rows(draw: Any, count: int, height: float) -> Any:
    """Return a figure of panels one above the other."""
    return drawn(height * count + 0.35, draw, count=count)


def named(axes: Any, found: Sequence[BlockSpectra]) -> None:
    """Write the blocks' names along the horizontal axis."""
    labelled(axes, [block.name for block in found])


def labelled(axes: Any, names: Sequence[str]) -> None:
    """Write names along the horizontal axis, or count the blocks where there are too many to be read."""
    if len(names) <= FEW:
        axes.set_xticks(range(len(names)), names, rotation=50, ha="right", rotation_mode="anchor", fontsize=SMALLEST)
    else:
        axes.set_xlabel("block, in the order of calls")
