"""Figures as wide as a column of a paper, in colours that colour-blind readers can tell apart."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .page import Drawing
from .progression import Progression, deviation, mean
from .spectrum import SpectrumStudy

WIDTH = 3.4
"""Inches: one column of a paper."""
COLORS = {"teacher": "#0072B2", "student": "#D55E00", "real data": "#666666"}  # of Okabe and Ito's set
CYCLE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#666666")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: Any = {
    "font.size": 7.5,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 6.8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
FREQUENCY = "frequency (cycles per image)"
LEVEL = "noise level σ (image units)"


def drawn(height: float, draw: Callable[[Any], None], count: int = 1) -> Any:
    """Return a figure of `count` panels one above the other, drawn by a function that is handed its axes.

    It gets a list of them where there are several.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        axes = figure.subplots(count, 1, squeeze=False)[:, 0]
        draw(axes[0] if count == 1 else list(axes))
        figure.draw_without_rendering()  # while the style holds: text is laid out when it is first drawn
        figure.set_layout_engine("none")  # and stays where it is, in every file
    return figure


def of_spectrum(study: SpectrumStudy) -> list[Drawing]:
    """Return the figures of `d2o analyze spectrum`."""
    heat = [
        Drawing(
            f"heat-{found.name.replace(' ', '-')}",
            f"D_FFT of the {found.name}: which frequencies change between successive outputs, at each noise level.",
            heat_map(found),
        )
        for found in study.progressions
        if np.isfinite(found.spectrum).any()
    ]
    return [
        *heat,
        Drawing(
            "centroid",
            "Centroid of D_FFT against the noise level; bands are one standard deviation over images. Dotted: white "
            "noise.",
            centroids(study.progressions),
        ),
        Drawing(
            "bands",
            "Share of every octave in the energy of the changes, against the noise level; bands are one standard "
            "deviation over images.",
            bands(study.progressions),
        ),
        Drawing(
            "at-once",
            "The whole change at once, from the teacher's first output: its last output, the student's one-step image, "
            "real images; and white noise.",
            spectra(study.at_once),
        ),
    ]


def heat_map(found: Progression) -> Any:
    """Draw D_FFT over noise level and frequency."""
    from matplotlib.colors import LogNorm

    def draw(axes: Any) -> None:
        values = found.spectrum.T
        top = np.nanmax(values)
        norm = LogNorm(max(values[values > 0].min(), top / 1e4), top)
        edges = np.arange(len(found.frequencies) + 1) - 0.5
        mesh = axes.pcolormesh(np.arange(values.shape[1] + 1) - 0.5, edges, values, cmap="cividis", norm=norm)
        axes.figure.colorbar(mesh, ax=axes, label="D_FFT (sum over k is 1)", pad=0.02)
        axes.plot(mean(found.centroids), color="white", linewidth=2.4)
        axes.plot(mean(found.centroids), color="#D55E00", label="centroid")
        axes.legend(loc="upper left", labelcolor="white")
        ticks = np.linspace(0, values.shape[1] - 1, min(6, values.shape[1])).round().astype(int)
        axes.set_xticks(ticks, [level(float(found.sigmas[tick])) for tick in ticks])
        axes.set(xlabel=LEVEL, ylabel=FREQUENCY, title=found.name)

    return drawn(2.5, draw)


def centroids(progressions: Sequence[Progression]) -> Any:
    """Draw the centroids of several progressions against the noise level, noisiest first."""

    def draw(axes: Any) -> None:
        for index, found in enumerate(progressions):
            middle, sd = mean(found.centroids), deviation(found.centroids)
            color = COLORS.get(found.name, CYCLE[index % len(CYCLE)])
            axes.plot(found.sigmas, middle, color=color, marker=MARKERS[index % len(MARKERS)], label=found.name)
            axes.fill_between(found.sigmas, middle - sd, middle + sd, color=color, alpha=0.15, linewidth=0)
        axes.axhline(progressions[0].frequencies.mean(), color="black", linestyle=":", linewidth=0.8)
        axes.set(xscale="log", xlabel=LEVEL, ylabel="centroid (cycles per image)", ylim=(0, None))
        axes.invert_xaxis()
        axes.legend(loc="upper left")

    return drawn(2.4, draw)


def bands(progressions: Sequence[Progression]) -> Any:
    """Draw, for each progression, the share of every octave against the noise level, with its spread over images."""

    def draw(panels: Any) -> None:
        panels = np.atleast_1d(panels)
        for axes, found in zip(panels, progressions, strict=True):
            middle, sd = mean(found.energies), deviation(found.energies)
            for index, band in enumerate(found.bands):
                color, share, reach = CYCLE[index % len(CYCLE)], middle[:, index], sd[:, index]
                axes.plot(found.sigmas, share, color=color, marker=MARKERS[index % len(MARKERS)], label=str(band))
                low, high = (share - reach).clip(0), (share + reach).clip(max=1)
                axes.fill_between(found.sigmas, low, high, color=color, alpha=0.13, linewidth=0)
            axes.set(xscale="log", ylabel="share of energy", ylim=(0, None), title=found.name)
            axes.invert_xaxis()
        panels[-1].set_xlabel(LEVEL)
        lines = panels[0].get_legend_handles_labels()
        panels[0].figure.legend(*lines, loc="outside upper center", title="cycles per image", ncols=4)

    return drawn(0.7 + 1.8 * len(progressions), draw, count=len(progressions))


def spectra(found: Sequence[Progression]) -> Any:
    """Draw spectra of single changes against frequency, beside that of white noise."""

    def draw(axes: Any) -> None:
        for index, one in enumerate(found):
            name = one.name.split(",")[0]
            axes.plot(one.frequencies, one.spectrum[0], color=COLORS[name], marker=MARKERS[index], label=one.name)
        flat = found[0].frequencies
        axes.plot(flat, np.full(len(flat), 1 / len(flat)), "k:", linewidth=0.8, label="white noise")
        axes.set(yscale="log", xlabel=FREQUENCY, ylabel="D_FFT (sum over k is 1)")
        axes.legend()

    return drawn(2.4, draw)


def level(sigma: float) -> str:
    """Return a noise level as the label of an axis."""
    return f"{sigma:.2g}" if sigma < 10 else f"{sigma:.0f}"
