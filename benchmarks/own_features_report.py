"""What `own_features.py` found: the last section of docs/how-to/judges.md, and its figure."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from report_tables import show, told
from study_claims import Claim, student
from study_figures import COLOURS, label_plainly
from study_records import SMALLEST
from study_rows import TRIAL_SEED

from d2o.files import atomic

HEADING = "## What was measured"
PROJECTED = "projected"
FIXED = ("real training images", "teacher, 1 call")
TITLES = {"digits-8": "Digits, 8x8", "cifar10-16": "CIFAR-10, 16x16"}
Row = dict[str, Any]


class Found:
    """The records of one data set: of the sweep, and of the finals, each of the longest budget."""

    def __init__(self, rows: list[Row]) -> None:
        self.name = rows[0]["data"]
        self.title = TITLES.get(self.name, self.name)
        self.fixed = {row["setting"]: row["kid"] for row in rows if not row["budget"]}
        self.spaces = list(rows[0]["kid"])
        self.swept = rank(longest(row for row in rows if row["seed"] == TRIAL_SEED))
        self.finals = longest(row for row in rows if row["budget"] and row["seed"] != TRIAL_SEED)

    def runs(self, setting: str) -> dict[int, Row]:
        """Return a setting's finals by their seeds."""
        return {row["seed"]: row for row in self.finals if row["setting"] == setting}

    @property
    def finalists(self) -> list[str]:
        """The projected judge, and the settings that met it, the best of the sweep first."""
        there = {row["setting"] for row in self.finals}
        return sorted(there, key=lambda name: (name != PROJECTED, [row["setting"] for row in self.swept].index(name)))

    def claim(self, setting: str) -> Claim:
        """Return whether a setting is nearer to the data than the projected judge."""
        mine, theirs = self.runs(setting), self.runs(PROJECTED)
        differences = []
        for space in self.spaces:
            pairs = [(mine[seed]["kid"][space], theirs[seed]["kid"][space]) for seed in sorted({*mine} & {*theirs})]
            differences += student([one - other for one, other in pairs], f"{setting} minus {PROJECTED}", space)
        return Claim(setting, f"own features, {setting}, are nearer to the data", tuple(differences))


def longest(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of the largest budget."""
    rows = list(rows)
    return [row for row in rows if row["budget"] == max(one["budget"] for one in rows)]


def rank(rows: Iterable[Row]) -> list[Row]:
    """Return runs by the mean over spaces of the logarithm of KID, the best first."""
    return sorted(rows, key=lambda row: np.mean([np.log(max(value, SMALLEST)) for value in row["kid"].values()]))


def halves(row: Row) -> tuple[Row, Row]:
    """Return the points of a run's curve at half of its seconds and at the end, which a slow machine may not part."""
    points = [point for point in row["curve"] if "kid" in point]
    return points[0], points[-1]


def table_of_finals(found: Found) -> Iterator[str]:
    yield f"| judge | seconds | images | a second | loss | {' | '.join(f'KID, {space}' for space in found.spaces)} |"
    yield "|---" * (5 + len(found.spaces)) + "|"
    for name, kid in found.fixed.items():
        yield f"| {name} | - | - | - | - | {' | '.join(f'{kid[space]:.4f}' for space in found.spaces)} |"
    for name in found.finalists:
        for points in zip(*(halves(run) for run in found.runs(name).values()), strict=True):
            mean = {key: np.mean([point[key] for point in points]) for key in ("seconds", "images", "loss")}
            cells = [f"{mean['seconds']:.0f}", f"{mean['images']:,.0f}", f"{mean['images'] / mean['seconds']:.0f}"]
            cells += [f"{mean['loss']:.2f}", *(told([p["kid"][space] for p in points], 4) for space in found.spaces)]
            yield f"| {name} | {' | '.join(cells)} |"


def table_of_differences(found: Found) -> Iterator[str]:
    yield "| KID | space | difference | nearer than the projected judge |"
    yield "|---|---|---|---|"
    for name in found.finalists[1:]:
        for one in found.claim(name).differences:
            yield f"| {one.what} | {one.space} | {show(one)} | {one.verdict} |"


def table_of_sweep(found: Found) -> Iterator[str]:
    yield f"| setting | what is set | images | loss | {' | '.join(f'KID, {space}' for space in found.spaces)} |"
    yield "|---" * (4 + len(found.spaces)) + "|"
    for row in found.swept:
        changed = ", ".join(f"`{path}={write_value(value)}`" for path, value in row["settings"].items()) or "-"
        kids = " | ".join(f"{row['kid'][space]:.4f}" for space in found.spaces)
        yield f"| {row['setting']} | {changed} | {row['images']:,} | {row['curve'][-1]['loss']:.2f} | {kids} |"


def write_value(value: Any) -> str:
    """Return a value as `--set` takes it."""
    return f"[{', '.join(value)}]" if isinstance(value, list | tuple) else f"{value}"


def say_verdicts(found: Found) -> str:
    verdicts = [f"{name} {found.claim(name).verdict}" for name in found.finalists[1:]]
    return f"{found.title}, {found.finals[0]['budget']:.0f} s: {'; '.join(verdicts) or 'not measured yet'}"


def find(rows: list[Row]) -> list[Found]:
    """Return what was found of every data set, in the order of TITLES."""
    parts = ([row for row in rows if row["data"] == name] for name in TITLES)
    return [Found(part) for part in parts if part]


def section(rows: list[Row]) -> str:
    """Return the section of the page."""
    every = find(rows)
    done = [found for found in every if found.finals]
    lines = [
        HEADING,
        "",
        "```",
        "python benchmarks/own_features.py --data cifar10-train-32x32.zip",
        "python benchmarks/own_features.py --report",
        "```",
        "",
        "Each setting of the own features differs from *noise of a low level*, with which the sweep began, in one "
        "thing; the recipes have the middle level since. In a sweep all of them had the same seconds of one processor "
        "core as the projected judge's recipe; the two with the lowest KID then met it for longer, with three seeds "
        "that had not been used. KID is in two spaces that share nothing with either judge.",
        "",
        "**Are own features nearer to the data than the projected judge, in the same seconds? "
        f"{'. '.join(map(say_verdicts, done)) or 'Not measured yet'}.**",
        "",
        "![KID of all settings, KID over seconds, and the judges' losses](../images/own-features.png)",
        "",
    ]
    for found in every:
        lines += [f"### {found.title}", ""]
        if found.finals:
            lines += [*table_of_finals(found), "", *table_of_differences(found), ""]
        lines += ["The sweep, the lowest KID over both spaces first:", "", *table_of_sweep(found), ""]
    missing = [title for name, title in TITLES.items() if name not in {found.name for found in done}]
    lines += [f"Not measured yet with three seeds: {', '.join(missing)}.", ""] if missing else []
    lines += [
        "A judge's loss is a share of what guessing costs: at 1 it cannot tell generated images from real ones. "
        "Seconds, images and losses are means over seeds. A verdict is that of Student's 95 % interval over seeds: it "
        "holds below zero in both spaces, and fails above zero in one. Own features had many settings to choose from "
        "and the projected judge one. Every record of `benchmarks/results/own-features.jsonl` has its command; this "
        "section is generated from them.",
    ]
    return "\n".join(lines) + "\n"


def write(rows: list[Row], page: Path, figure: Path) -> None:
    """Put the section in place of the page's last one, and draw the figure that it shows."""
    text = page.read_text() if page.exists() else ""
    with atomic(page) as temporary:
        temporary.write_text(text.partition(HEADING)[0] + section(rows))
    draw(find(rows), figure)


def draw(every: list[Found], path: Path) -> None:
    """Draw a row a data set: all settings of the sweep, then KID and the judge's loss in the finals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 4.2 * len(every)), layout="constrained")
    grid = figure.subplots(len(every), 4, squeeze=False, width_ratios=(3, 2, 2, 2))
    for found, (first, *panels, last) in zip(every, grid, strict=True):
        draw_sweep(found, first)
        for panel, space in zip(panels, found.spaces, strict=True):
            draw_distances(found, panel, space)
        draw_losses(found, last)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def draw_sweep(found: Found, panel: Any) -> None:
    """Draw how many times the projected judge's KID each setting has."""
    theirs = next((row["kid"] for row in found.swept if row["setting"] == PROJECTED), None)
    rows = [row for row in reversed(found.swept) if row["setting"] != PROJECTED]
    for colour, marker, space in zip(COLOURS, "os", found.spaces, strict=False):
        ratios = [max(row["kid"][space], SMALLEST) / max(theirs[space], SMALLEST) for row in rows if theirs]
        panel.plot(ratios, range(len(ratios)), marker, color=colour, label=f"KID, {space}")
    panel.set_yticks(range(len(rows)), [row["setting"] for row in rows], fontsize=8)
    panel.axvline(1, color="grey", linestyle=":", linewidth=1)
    panel.set_xscale("log")
    label_plainly(panel.xaxis)
    panel.set_xlabel("times that of the projected judge", fontsize=9)
    panel.set_title(f"{found.title}: the sweep", fontsize=10)
    panel.legend(fontsize=8)


def draw_distances(found: Found, panel: Any, space: str) -> None:
    """Draw KID at the start, at half of the seconds and at the end."""
    start = {"seconds": 0.0, "kid": found.fixed[FIXED[1]]}
    curves = {name: [[start, *halves(run)] for run in found.runs(name).values()] for name in found.finalists}
    draw_curves(panel, curves, lambda point: max(point["kid"][space], SMALLEST))
    panel.set_yscale("log")
    label_plainly(panel.yaxis)
    panel.set_title(f"{found.title}: KID, {space}", fontsize=10)


def draw_losses(found: Found, panel: Any) -> None:
    curves = {name: [run["curve"] for run in found.runs(name).values()] for name in found.finalists}
    draw_curves(panel, curves, lambda point: point["loss"])
    panel.axhline(1, color="grey", linestyle=":", linewidth=1)
    panel.set_title("the judge's loss; 1 is guessing", fontsize=10)
    if curves:
        panel.legend(fontsize=8)


def draw_curves(panel: Any, curves: dict[str, list[list[Row]]], value: Callable[[Row], float]) -> None:
    """Draw a number of curves' points against seconds: every seed thin, and the mean over seeds."""
    for colour, (name, seeds) in zip(COLOURS, curves.items(), strict=False):
        lines = [np.asarray([(point["seconds"], value(point)) for point in curve]) for curve in seeds]
        for line in lines:
            panel.plot(*line.T, color=colour, linewidth=0.6, alpha=0.5)
        mean = np.mean([line[: min(map(len, lines))] for line in lines], 0)
        panel.plot(*mean.T, color=colour, linewidth=2, label=name)
    panel.set_xlabel("seconds of one core", fontsize=9)
    panel.set_visible(bool(curves))
