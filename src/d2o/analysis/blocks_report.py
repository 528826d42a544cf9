"""Tables and figures of `d2o analyze blocks`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .blocks import BlockSpectra, BlocksStudy, relations
from .figures import SMALLEST, draw_panels
from .report import Cell, Report, Table, show_mean, show_percent
from .weight_change import WeightChange

NO_CHANGE = "#dddddd"  # the colour of a block whose output does not change
MOST_NAMES = 16  # more cannot be read along an axis
Panels = Sequence[tuple[str, Sequence[BlockSpectra]]]


def report(study: BlocksStudy) -> Report:
    panels = [("before fine-tuning", study.before), ("after fine-tuning", study.after)]
    panels = panels if study.after else [("", study.before)]
    rows = [(title or "the network", what, link) for title, found in panels for what, link in relations(found).items()]
    columns = ("blocks", "of", "rank correlation")
    tables = [Table("Rank correlations over blocks (95 % interval)", columns, rows), block_table(study)]
    return Report(
        kind="blocks",
        tables=(*tables, *([weight_table(study.weights)] if study.weights else [])),
        figures={"network": draw_network(panels)},
        numbers={
            "sigma": study.sigmas,
            "rank_correlations": [{"blocks": when, "of": what, **link._asdict()} for when, what, link in rows],
            "before": [block.as_dict() for block in study.before],
            "after": [block.as_dict() for block in study.after],
            "weight_changes": [vars(row) for row in study.weights],
        },
    )


def block_table(study: BlocksStudy) -> Table:
    head = ("change band", "change centroid", "shift", "response band", "response centroid")
    columns = ("block", "place", "map", *head, *(f"{name}, after" for name in head if study.after))
    title = "Block by block (cycles per image; ± standard deviation over images, and over noise levels)"
    rows = []
    for index, block in enumerate(study.before):
        cells = block_cells(block) + (block_cells(study.after[index]) if study.after else ())
        rows.append((block.name, block.place, "x".join(map(str, block.size)), *cells))
    return Table(title, columns, rows)


def block_cells(block: BlockSpectra) -> tuple[Cell, ...]:
    change, response = show_mean(*block.change_centroid), show_mean(*block.response_centroid)
    return block.change_band, change, f"{block.shift:.0%}", block.response_band, response


def weight_table(changes: Sequence[WeightChange]) -> Table:
    cells = {(row.block, row.role): show_percent(row.relative) for row in changes}
    roles = [*dict.fromkeys(row.role for row in changes if row.role != "all"), "all"]
    names = [*dict.fromkeys(row.block for row in changes if row.block != "all"), "all"]
    rows = [(name, *(cells.get((name, role)) for role in roles)) for name in names]
    return Table("Relative weight change by block and role", ("block", *roles), rows)


def draw_network(panels: Panels) -> Any:
    """Draw the blocks as boxes at the height of their resolution, coloured by the octave of their change."""
    import matplotlib as mpl
    from matplotlib.patches import Patch, Rectangle

    blocks = [block for _, found in panels for block in found]
    bands = max((block.change.bands for block in blocks), key=len)[1:]
    shades = mpl.colormaps["viridis"](np.linspace(0.05, 0.95, max(len(bands), 2)))
    colors: dict[Any, Any] = {**dict(zip(bands, shades, strict=False)), None: NO_CHANGE}

    def draw(*axes: Any) -> None:
        for one, (title, found) in zip(axes, panels, strict=True):
            sides = sorted({min(block.size) for block in found})
            heights = [sides.index(min(block.size)) for block in found]
            one.plot(range(len(found)), heights, color="#999999", linewidth=0.8, zorder=1)
            for place, (block, height) in enumerate(zip(found, heights, strict=True)):
                color, middle = colors[block.change_band], block.change_centroid[0]
                box = (place - 0.42, height - 0.32)
                one.add_patch(Rectangle(box, 0.84, 0.64, facecolor=color, edgecolor="white", linewidth=0.5, zorder=2))
                if len(found) <= MOST_NAMES and np.isfinite(middle):
                    ink = "black" if np.dot(np.asarray(color)[:3], (0.3, 0.6, 0.1)) > 0.5 else "white"
                    text = f"{middle:.1f}" if middle < 9.95 else f"{middle:.0f}"
                    one.text(place, height, text, ha="center", va="center", fontsize=SMALLEST, color=ink, zorder=3)
            one.set_yticks(range(len(sides)), [f"{side}x{side}" for side in sides])
            one.set(xlim=(-0.7, len(found) - 0.3), ylim=(-0.6, len(sides) - 0.4), title=title, ylabel="map")
            one.set_xticks([])
        names = [block.name for block in panels[-1][1]]
        if len(names) <= MOST_NAMES:
            turned = {"rotation": 50, "ha": "right", "rotation_mode": "anchor"}
            axes[-1].set_xticks(range(len(names)), names, fontsize=SMALLEST, **turned)
        else:
            axes[-1].set_xlabel("block, in the order of calls")
        used = {block.change_band for block in blocks}
        handles = [Patch(color=c, label=str(band or "does not change")) for band, c in colors.items() if band in used]
        title = "octave with most energy (cycles per image); written: centroid"
        axes[0].figure.legend(handles=handles, title=title, ncols=len(handles), loc="outside lower center")

    return draw_panels(1.45 + 0.95 * len(panels), draw, count=len(panels))
