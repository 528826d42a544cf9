"""Write docs/results.md and its figures from the JSON rows of a study, and say which of the paper's claims hold there.

python benchmarks/report_results.py                                    of benchmarks/results/cifar10-16, and -dit
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
from study_figures import draw_curves, draw_gallery

from d2o.files import atomic

HERE = Path(__file__).parent
SPACES = {"lite2": "EfficientNet-lite2 at 64 px", "classifier": "the study's own classifier"}
DISTILLED = ("cd", "pd")
NUMBERS = ("kid", "frechet", "floor", "precision", "recall", "diversity", "seconds")
ORDER = (
    "real", "blurred", "teacher-18", "teacher-9", "teacher-4", "teacher-2", "untuned",
    "d2o", "d2o-f", "d2o-f-modulation", "d2o-f-biases", "cd", "pd", "cd-gan",
    "frechet", "frechet-gan", "scratch", "d2o-stylegan2",
    "cd-2", "cd-4", "cd-9", "cd-18",
)  # fmt: skip
WORDS = {
    "real": "real training images",
    "blurred": "real, blurred by 2",
    "untuned": "teacher, 1 call",
    "d2o": "D2O",
    "d2o-f": "D2O-F",
    "d2o-f-modulation": "D2O-F (modulation moves)",
    "d2o-f-biases": "D2O-F (biases move)",
    "cd": "CD",
    "pd": "PD",
    "cd-gan": "CD + GAN",
    "frechet": "Frechet distance, frozen as D2O-F",
    "frechet-gan": "Frechet distance + GAN, frozen as D2O-F",
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

    spaces = SPACES

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

    @staticmethod
    def word(name: str) -> str:
        """Return what a row is called."""
        return WORDS.get(name, name)

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
                results.word(name),
                f"{len(found)}" if mark else "-",
                f"{mark:,}" if mark else "-",
                f"{mean['kid']:.3f}{spread}",
                f"{mean['frechet']:.1f} ({mean['floor']:.1f})",
                *(f"{mean[what]:.3f}" for what in ("precision", "recall", "diversity")),
                f"{mean['seconds'] / 60:.0f}" if mark else "-",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def answer(found: Sequence[Claim]) -> str:
    """Return how many of the claims hold, and which do not."""
    holding = [claim.letter for claim in found if claim.holds]
    failing = [claim.letter for claim in found if claim.holds is False]
    listed = {True: ", ".join(f"({letter})" for letter in failing), False: "none"}[bool(failing)]
    return f"**{len(holding)} of {len(found)} claims hold here; not confirmed: {listed}.**"


def write(results: Results, out: Path, reasons: dict[str, str], more: Sequence[str] = ()) -> None:
    """Write the page, the answer first, with its figures beside it, and `more` lines at its end."""
    figures, stem = out.parent / "images", out.stem
    draw_curves(results, figures / f"{stem}-curves.png")
    draw_gallery(results, figures / f"{stem}-images.png")
    any_row, found = results.against_data[0], claims(results)
    teacher, blurred = results.mean("teacher-18", "lite2", 0), results.mean("blurred", "lite2", 0)
    good = less(teacher, None if blurred is None else blurred / 4)
    verdict = {True: "holds here", False: "**fails here**", None: "not measured yet"}
    lines = [
        f"# The paper's claims in the study {results.folder.name}",
        "",
        answer(found),
        "",
        "| | claim | here |",
        "|---|---|---|",
        *(f"| ({claim.letter}) | {claim.sentence} | {verdict[claim.holds]} |" for claim in found),
        "",
        f"![KID and recall against images seen](images/{stem}-curves.png)",
        "",
        "## The numbers behind each",
        "",
    ]
    for claim in found:
        reason = f" Likely reason: {reasons[claim.letter]}" if claim.holds is False and claim.letter in reasons else ""
        lines.append(f"- ({claim.letter}) {claim.numbers}.{reason}")
    lines += [
        "",
        f"![Images of every row from the same seeds](images/{stem}-images.png)",
        "",
        "## How to read them",
        "",
        f"{any_row['examined']:,} images of every row, always from the same seeds, are compared with "
        f"{any_row['reference_images']:,} held-out real images. The discriminator uses EfficientNet-lite0, a relative "
        "of lite2, which favours the GAN rows in lite2's space; the classifier was trained on this data set only. A "
        "Frechet distance means something only beside its floor (that of as many real training images), and a falling "
        "distance can hide a collapse: recall and pixel deviation stand beside it. A row of one seed says nothing of "
        "other seeds. Minutes are wall-clock time, pauses and other work on the machine included.",
        "",
        f"The teacher's KID in 35 calls is {show(teacher)}, that of blurred images {show(blurred)}: the teacher "
        + {True: "is", False: "is **not**", None: "has not been compared to be"}[good]
        + " good enough by the study's own rule (a quarter).",
        "",
        "This page is generated by `python benchmarks/report_results.py` from the rows in "
        f"`benchmarks/results/{results.folder.name}/`, which `python benchmarks/cifar10_study.py` writes; each row "
        "names its own command.",
        "",
    ]
    for space, words in SPACES.items():
        lines += [f"## By {words}", "", *table(results, space), ""]
    log = results.folder / "log.jsonl"
    events = map(json.loads, log.read_text().splitlines()) if log.exists() else ()
    failed = [event for event in events if event["event"] == "failed"]
    lines += ["## What failed", ""]
    lines += [f"- {event['time']} {event['step']}: {event['error']}" for event in failed] or ["Nothing so far."]
    with atomic(out) as temporary:
        temporary.write_text("\n".join((*lines, *more)).rstrip("\n") + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "cifar10-16")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "results.md")
    options = parser.parse_args()
    file = options.results / "reasons.txt"  # lines "a: why the claim fails", written by whoever looked into it
    pairs = [line.split(":", 1) for line in file.read_text().splitlines() if ":" in line] if file.exists() else []
    transformer, more = options.results.with_name(f"{options.results.name}-dit"), []
    if transformer.is_dir():
        import report_transformer

        remarks = transformer / "remarks.txt"  # a line each
        lines = remarks.read_text().splitlines() if remarks.exists() else []
        more = report_transformer.section(Results(transformer), options.out, lines)
    write(Results(options.results), options.out, {letter.strip(): reason.strip() for letter, reason in pairs}, more)
    print(options.out)
