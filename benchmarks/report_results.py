"""Write docs/results.md and its figures from the JSON rows of a study, and say which of the paper's claims hold there.

python benchmarks/report_results.py                                    of benchmarks/results/cifar10-16
python benchmarks/report_results.py --results DIR --out FILE.md        of another study
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from d2o.files import atomic

HERE = Path(__file__).parent
SPACES = {"lite2": "EfficientNet-lite2 at 64 px", "classifier": "the study's own classifier"}
DISTILLED = ("cd", "pd")
NUMBERS = ("kid", "frechet", "floor", "precision", "recall", "diversity", "seconds")
ORDER = (
    "real", "blurred", "teacher-18", "teacher-9", "teacher-4", "teacher-2", "untuned",
    "d2o", "d2o-f", "cd", "pd", "cd-gan", "scratch", "d2o-stylegan2", "cd-2", "cd-4", "cd-9", "cd-18",
)  # fmt: skip
STYLES = tuple(zip(
    ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#000000", "#56B4E9", "#F0E442"), "osD^vPX*", strict=True
))  # fmt: skip
"""Colours that most eyes tell apart (Okabe and Ito), and a marker for each."""
WORDS = {
    "real": "real training images",
    "blurred": "real, blurred by 2",
    "untuned": "teacher, 1 call",
    "d2o": "D2O",
    "d2o-f": "D2O-F",
    "cd": "CD",
    "pd": "PD",
    "cd-gan": "CD + GAN",
    "scratch": "GAN from scratch",
    "d2o-stylegan2": "D2O, StyleGAN2's discriminator",
    **{f"teacher-{steps}": f"teacher, {2 * steps - 1} calls" for steps in (2, 4, 9, 18)},
    **{f"cd-{steps}": f"CD of {steps} steps" for steps in (2, 4, 9, 18)},
}


@dataclass(frozen=True)
class Claim:
    """One of the paper's claims: whether it holds here (None: not measured yet), and the numbers that say so."""

    letter: str
    sentence: str
    holds: bool | None
    numbers: str


class Results:
    """The rows of a study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = sorted(folder.glob("*.json"))
        self.rows: list[dict[str, Any]] = [json.loads(file.read_text()) for file in files]
        if not self.rows:
            raise SystemExit(f"{folder} holds no results: run benchmarks/cifar10_study.py first.")
        self.against_data = [row for row in self.rows if row["reference"] == "held-out real images"]
        self.marks = sorted({row["images"] for row in self.against_data} - {0})

    def values(self, name: str, space: str, images: int, what: str = "kid") -> list[float]:
        """Return a row's number for every seed."""
        return [
            row[what]
            for row in self.against_data
            if (row["row"], row["feature_space"], row["images"]) == (name, space, images)
        ]

    def mean(self, name: str, space: str, images: int, what: str = "kid") -> float | None:
        """Return the mean over the seeds, None without any."""
        found = self.values(name, space, images, what)
        return float(np.mean(found)) if found else None

    def names(self) -> list[str]:
        """Return the rows against data in the order of the tables."""
        found = {row["row"] for row in self.against_data}
        return [name for name in ORDER if name in found] + sorted(found - set(ORDER))


def every(verdicts: Sequence[bool | None]) -> bool | None:
    """Return whether all hold; None where one is not known, or there is none."""
    return None if not verdicts or any(verdict is None for verdict in verdicts) else all(verdicts)


def less(one: float | None, other: float | None) -> bool | None:
    """Return whether one number is below another, None where one is missing."""
    return None if one is None or other is None else one < other


def show(value: float | None, digits: int = 3) -> str:
    """Return a number for people."""
    return "-" if value is None else f"{value:.{digits}f}"


def claims(results: Results) -> list[Claim]:
    """Return the five claims with their verdicts. A claim must hold in both feature spaces."""
    marks = results.marks
    first, last = (marks[0], marks[-1]) if marks else (0, 0)

    def both(name: str, images: int, what: str = "kid") -> dict[str, float | None]:
        return {space: results.mean(name, space, images, what) for space in SPACES}

    def line(names: Sequence[str], images: int, what: str = "kid") -> str:
        parts = [f"{WORDS[name]} {' / '.join(show(v) for v in both(name, images, what).values())}" for name in names]
        return f"{what} at {images:,} images ({' / '.join(SPACES)}): {', '.join(parts)}"

    def below(one: str, other: str, images: int, what: str = "kid") -> list[bool | None]:
        return [less(results.mean(one, s, images, what), results.mean(other, s, images, what)) for s in SPACES]

    between = {
        (row["row"], row["feature_space"]): row["kid"] for row in results.rows if row["reference"].startswith("teacher")
    }
    steps = sorted({int(name.split()[0].removeprefix("cd-")) for name, _ in between})
    grows, stays, apart = [], [], []
    for space in SPACES:
        gap = [between.get((f"cd-{k} against its teacher", space)) for k in steps]
        data = [results.mean(f"teacher-{k}", space, 0) for k in steps]
        grows += [less(a, b) for a, b in pairwise(gap)]
        stays += [less(b, a) for a, b in pairwise(data)]
        apart.append(
            f"{space}: teachers of {', '.join(map(str, steps))} steps are {', '.join(map(show, gap))} from their "
            f"students and {', '.join(map(show, data))} from data (kid)"
        )
    return [
        Claim(
            "a",
            "D2O-F beats every distillation row at equal images",
            every([v for mark in marks for other in DISTILLED for v in below("d2o-f", other, mark)]),
            "; ".join(line(("d2o-f", *DISTILLED), mark) for mark in (first, last))
            + f". Not counted, as it has the GAN too: {line(('cd-gan',), last)}",
        ),
        Claim(
            "b", "frozen beats full at few images", every(below("d2o-f", "d2o", first)), line(("d2o-f", "d2o"), first)
        ),
        Claim(
            "c",
            "adding CD to the GAN slows the start",
            every(below("d2o", "cd-gan", first)),
            line(("d2o", "cd-gan"), first),
        ),
        Claim(
            "d",
            "the distance between teacher and student grows with the teacher's steps, that to data does not",
            every([*grows, *stays]) if steps else None,
            "; ".join(apart) if steps else "Students of teachers in 2, 4, 9 and 18 steps are missing",
        ),
        Claim(
            "e",
            "StyleGAN2's discriminator loses modes",
            every([*below("d2o-stylegan2", "d2o", last, "recall"), *below("d2o-stylegan2", "d2o", last, "diversity")]),
            "; ".join(line(("d2o-stylegan2", "d2o"), last, what) for what in ("recall", "diversity")),
        ),
    ]


def table(results: Results, space: str) -> list[str]:
    """Return the numbers of all rows in one feature space as lines of Markdown."""
    lines = [
        "| row | seeds | images seen | KID | Frechet (floor) | precision | recall | pixel deviation | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in results.names():
        for mark in [0, *results.marks]:
            found = results.values(name, space, mark)
            if not found:
                continue

            spread = f" ({min(found):.3f} to {max(found):.3f})" if len(found) > 1 else ""
            mean = {what: results.mean(name, space, mark, what) or 0.0 for what in NUMBERS}
            cells = [
                WORDS.get(name, name),
                f"{len(found)}" if mark else "-",
                f"{mark:,}" if mark else "-",
                f"{mean['kid']:.3f}{spread}",
                f"{mean['frechet']:.1f} ({mean['floor']:.1f})",
                *(f"{mean[what]:.3f}" for what in ("precision", "recall", "diversity")),
                f"{mean['seconds'] / 60:.0f}" if mark else "-",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def curves(results: Results, path: Path) -> None:
    """Draw KID and recall against images seen, a column a feature space."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    panels = figure.subplots(2, len(SPACES), sharex=True, squeeze=False)
    names = (
        [name for name in results.names() if results.values(name, "lite2", results.marks[-1])] if results.marks else []
    )
    for panel_row, what in zip(panels, ("kid", "recall"), strict=True):
        for panel, space in zip(panel_row, SPACES, strict=True):
            for name, (color, marker) in zip(names, STYLES, strict=False):
                means = [results.mean(name, space, mark, what) for mark in results.marks]
                panel.plot(results.marks, means, color=color, marker=marker, markersize=4, label=WORDS.get(name, name))
            level = results.mean("teacher-18", space, 0, what)
            if level is not None:
                panel.axhline(level, color="grey", linestyle="--", linewidth=1, label=WORDS["teacher-18"])
            panel.set_title(f"{what.upper() if what == 'kid' else what} by {SPACES[space]}", fontsize=10)
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


def gallery(results: Results, path: Path) -> None:
    """Put the first images of every row below each other, all from the same seeds, with their names."""
    from matplotlib.figure import Figure

    pictures = []
    for name in results.names():
        last = max((row["images"] for row in results.against_data if row["row"] == name), default=0)
        file = results.folder / f"{name}-seed0-{last:08d}.png"
        if file.exists():
            pictures.append((WORDS.get(name, name), Image.open(file).convert("RGB")))
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


def write(results: Results, out: Path, reasons: dict[str, str]) -> None:
    """Write the page with its figures beside it."""
    figures = out.parent / "images"
    stem = out.stem
    curves(results, figures / f"{stem}-curves.png")
    gallery(results, figures / f"{stem}-images.png")
    any_row = results.against_data[0]
    teacher, blurred = results.mean("teacher-18", "lite2", 0), results.mean("blurred", "lite2", 0)
    good = less(teacher, None if blurred is None else blurred / 4)
    verdict = {True: "holds here", False: "**fails here**", None: "not measured yet"}
    lines = [
        f"# What the study {results.folder.name} measured",
        "",
        "Generated by `python benchmarks/report_results.py` from the rows in "
        f"`benchmarks/results/{results.folder.name}/`, which `python benchmarks/cifar10_study.py` writes; each names "
        f"its own command. {any_row['examined']:,} images of every row, always from the same seeds, against "
        f"{any_row['reference_images']:,} held-out real images.",
        "",
        "Read with care: the discriminator looks through EfficientNet-lite0, a relative of lite2, which flatters the "
        "GAN rows in lite2's space; the classifier has seen the training images of this data set only. A Frechet "
        "distance means something only beside its floor (as many real training images), and a falling distance can "
        "hide a collapse: recall and pixel deviation stand beside it. A row of one seed says nothing of other seeds. "
        "Minutes are by the clock, pauses and other work on the machine included.",
        "",
        f"The teacher's KID in 35 calls is {show(teacher)}, that of blurred images {show(blurred)}: the teacher "
        + {True: "is", False: "is **not**", None: "has not been compared to be"}[good]
        + " good enough by the study's own rule (a quarter).",
        "",
        "## The claims",
        "",
    ]
    for claim in claims(results):
        reason = f" Likely reason: {reasons[claim.letter]}" if claim.holds is False and claim.letter in reasons else ""
        lines.append(f"- ({claim.letter}) *{claim.sentence}*: {verdict[claim.holds]}. {claim.numbers}.{reason}")
    lines += ["", f"![KID and recall against images seen](images/{stem}-curves.png)", ""]
    lines += [f"![Images of every row from the same seeds](images/{stem}-images.png)", ""]
    for space, words in SPACES.items():
        lines += [f"## By {words}", "", *table(results, space), ""]
    log = results.folder / "log.jsonl"
    failed = (
        [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == "failed"]
        if log.exists()
        else []
    )
    lines += ["## What failed", ""]
    lines += [f"- {line['time']} {line['step']}: {line['error']}" for line in failed] or ["Nothing so far."]
    with atomic(out) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "cifar10-16")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "results.md")
    options = parser.parse_args()
    file = options.results / "reasons.txt"  # lines "a: why the claim fails", written by whoever looked into it
    pairs = [line.split(":", 1) for line in file.read_text().splitlines() if ":" in line] if file.exists() else []
    write(Results(options.results), options.out, {letter.strip(): reason.strip() for letter, reason in pairs})
    print(options.out)
