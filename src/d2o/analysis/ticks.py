"""Axes that people can read: plain numbers on logarithmic axes, names at the points that stand out."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

SMALLEST = 6.5
"""Points: the smallest text of a figure as wide as a column of a paper."""


def only(axis: Any, values: Sequence[float] | np.ndarray, labels: Sequence[str]) -> None:
    """Put ticks at these values of one axis and nowhere else."""
    from matplotlib.ticker import NullLocator

    axis.set_ticks(values, labels)
    axis.set_minor_locator(NullLocator())


def plain(axis: Any) -> None:
    """Label one axis with plain numbers, and none of the marks between them."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def logarithmic(axes: Any) -> None:
    """Make the vertical axis logarithmic, with plain numbers at 1, 2 and 5 of each decade; only at 1 of many decades.

    It reaches at least from one of them to another, so that there are two labels.
    """
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 1000 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        plain(axes.yaxis)
        ticks = [digit * 10.0**power for power in decades(low, high) for digit in (1, 2, 5)]
        if sum(low <= tick <= high for tick in ticks) < 2:
            axes.set_ylim(max(t for t in ticks if t <= low), min(t for t in ticks if t >= high))


def decades(low: float, high: float) -> range:
    """Return the powers of ten from the last one below `low` to the first one above `high`."""
    return range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)


def around_zero(axes: Any, linear: float) -> None:
    """Make the vertical axis linear up to +-`linear` and logarithmic beyond; it ends at 0 where nothing is below."""
    from matplotlib.ticker import NullLocator

    axes.set_yscale("symlog", linthresh=linear)
    axes.yaxis.set_minor_locator(NullLocator())
    plain(axes.yaxis)
    if axes.dataLim.y0 >= 0:
        axes.set_ylim(bottom=0)


def loosened(axes: Any, values: Sequence[float] | np.ndarray) -> None:
    """Make the vertical axis logarithmic beyond the bulk of some values if one of them would squeeze the rest."""
    sizes = np.abs(values)
    middle = float(np.median(sizes))
    if middle > 0 and sizes.max() > 10 * middle:
        around_zero(axes, 10.0 ** math.floor(math.log10(middle)))


def extremes_named(
    axes: Any, x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, names: Sequence[str]
) -> None:
    """Write their names beside the points that are farthest to one side: inwards, and above the higher half of all.

    A name that would lie on another, or on a point, is left out; so are all where there are no sides.
    """
    from matplotlib.patheffects import withStroke

    axes.margins(y=0.15)
    if len(names) == 0 or np.ptp(x) == 0:
        return
    shown = dict.fromkeys(int(choose(side)) for side in (y, x) for choose in (np.argmax, np.argmin))
    axes.autoscale_view()
    points = (axes.transData + axes.transAxes.inverted()).transform(np.column_stack([x, y]))
    letter = np.array([0.62, 1.1]) * SMALLEST / 72 / (axes.get_position().size * axes.figure.get_size_inches())
    taken = [np.stack([point, point]) for point in points]
    for index in shown:
        right, high = points[index][0] > 0.5, np.mean(np.asarray(y) < y[index]) >= 0.5
        toward = np.array([-1 if right else 1, 1 if high else -1])
        box = np.sort([points[index] + toward * letter * reach for reach in ((0.3, 0.3), (len(names[index]), 1))], 0)
        if any((box[0] < other[1]).all() and (other[0] < box[1]).all() for other in taken):
            continue
        taken.append(box)
        axes.annotate(
            names[index],
            (x[index], y[index]),
            (-3 if right else 3, 2 if high else -2),
            textcoords="offset points",
            ha="right" if right else "left",
            va="bottom" if high else "top",
            fontsize=SMALLEST,
            zorder=1.5,  # below the points
            path_effects=[withStroke(linewidth=1.5, foreground="white")],
        )
