"""What the figures share: the width of a paper's column, and colours that colour-blind readers can tell apart."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .intervals import Numbers, spread

SMALLEST = 6.5
"""Points."""
COLORS = {"teacher": "#0072B2", "student": "#D55E00", "real data": "#666666"}  # of Okabe and Ito's set
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE = Path(__file__).with_name("figures.mplstyle")


def draw_panels(height: float, draw: Callable[..., None], count: int = 1) -> Any:
    """Return a figure of `count` panels one above the other; `draw` is called with their axes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(3.4, height), layout="constrained")
        draw(*figure.subplots(count, 1, squeeze=False)[:, 0])
        figure.draw_without_rendering()  # while the style holds: text is laid out when it is first drawn
        figure.set_layout_engine("none")  # and stays where it is, in every file
    return figure


def error_bars(axes: Any, x: Numbers, values: Any, **style: Any) -> None:
    """Draw the means of values [P, repetitions] with one standard deviation over repetitions."""
    found = [spread(row) for row in values]
    style = {"elinewidth": 0.8, "capsize": 1.5, **style}
    axes.errorbar(x, [mean for mean, _ in found], [sd or 0 for _, sd in found], **style)


def set_ticks(axis: Any, values: Numbers, labels: Sequence[str]) -> None:
    axis.set_ticks(values, labels)
    axis.set_ticks([], minor=True)


def set_log_scale(axes: Any) -> None:
    """Make the vertical axis logarithmic, with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.yaxis.set_minor_formatter("")


def set_symlog_scale(axes: Any, linear: float) -> None:
    """Make the vertical axis linear up to +-`linear` and logarithmic beyond; it ends at 0 where nothing is below."""
    axes.set_yscale("symlog", linthresh=linear)
    axes.yaxis.set_major_formatter("{x:,.10g}")
    axes.yaxis.set_ticks([], minor=True)
    if axes.dataLim.y0 >= 0:
        axes.set_ylim(bottom=0)
