"""The tables of docs/results.md: rows of Markdown from the records of a study."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from study_claims import SPACES, Claim, Difference, Results, sizes
from study_records import read_lines

WORDS = {
    "real": "real training images",
    "blurred": "real, blurred by 2",
    "untuned": "teacher, 1 call",
    "d2o": "D2O",
    "d2o-f": "D2O-F",
    "d2o-f-best": "D2O-F, best discriminator and loss",
    "released-projections": "D2O-F, the released code's projections",
    "own-features": "D2O-F, the teacher's own features",
    "frechet": "Frechet distance",
    "frechet-gan": "Frechet distance + GAN",
    "dmd2": "distribution matching",
    "dmd2-gan": "distribution matching + its GAN",
    "sketch-gan": "short CD, then GAN",
    "cd": "CD",
    "pd": "PD",
    "ctm": "CTM",
    "cd-gan": "CD + GAN",
    "stylegan2": "D2O, StyleGAN2's discriminator",
    "scratch": "GAN from scratch",
    "dit-untuned": "transformer, 1 call",
    "dit-flow-d2o": "transformer, D2O",
    "dit-flow-d2o-f": "transformer, D2O-F",
}
AT_32 = {
    "calls": "teacher, 35 calls",
    "guided": "teacher, 70 calls, guided",
    "one": "teacher, 1 call",
    "student": "D2O-F student, 1 call",
}
"""What `cifar10_32.py` measures; a guided step takes two calls."""
FIXED = ("real", "blurred", "teacher-18", "teacher-9", "teacher-5", "teacher-3", "teacher-2", "untuned")


def word(name: str) -> str:
    """Return what a row is called."""
    kind, _, steps = name.rpartition("-")
    if kind in ("teacher", "dit-teacher"):
        return f"{'transformer' if kind[0] == 'd' else 'teacher'}, {2 * int(steps) - 1} calls"
    method, _, real = name.partition("-real")
    if real:
        return f"{WORDS.get(method, method)}, {int(real):,} real images"
    return f"CD of {steps} steps" if kind == "cd" and steps.isdigit() else WORDS.get(name, name)


def names(results: Results) -> list[str]:
    """Return the rows in the order of tables: what is fixed, then the methods."""
    found = {row["row"] for row in results.rows}
    first = [name for name in (*FIXED, *WORDS) if name in found]
    rest = sorted(found - set(first), key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)])
    return [*dict.fromkeys(first), *rest]


def told(values: Sequence[float], digits: int = 3) -> str:
    """Return a mean with its range over seeds."""
    if not values:
        return "-"
    spread = f" ({min(values):.{digits}f} to {max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{spread}"


def table(results: Results) -> Iterator[str]:
    """Yield the table of all rows and marks: KID in every space, and what it cost."""
    titles = [*(f"KID, {space}" for space in SPACES), "recall, lite2", "minutes", "parameters held", "peak MiB"]
    yield f"| row | images | seeds | {' | '.join(titles)} |"
    yield "|---" * (len(titles) + 3) + "|"
    for name in names(results):
        for mark in (0, *results.marks):
            runs = {space: list(results.runs(name, space, mark).values()) for space in SPACES}
            first = runs["lite2"]
            if not first:
                continue
            cells = [told([run["kid"] for run in side]) for side in runs.values()]
            cells.append(told([run["recall"] for run in first]))
            if mark:
                cells.append(f"{np.mean([run['seconds'] for run in first]) / 60:.1f}")
                cells.append(f"{np.mean([run['parameters'] for run in first]) / 1e6:.2f} M")
                cells.append(f"{np.mean([run['peak_bytes'] for run in first]) / 2**20:.0f}")
            else:
                cells += ["-"] * 3
            yield f"| {word(name)} | {f'{mark:,}' if mark else '-'} | {len(first)} | {' | '.join(cells)} |"


def details(results: Results, space: str) -> Iterator[str]:
    """Yield the other measures of one space."""
    yield "| row | images | Frechet (floor) | precision | recall | pixel deviation |"
    yield "|---|---|---|---|---|---|"
    for name in names(results):
        for mark in (0, *results.marks):
            runs = list(results.runs(name, space, mark).values())
            if runs:
                mean = {
                    what: np.mean([run[what] for run in runs])
                    for what in ("frechet", "floor", "precision", "recall", "diversity")
                }
                distance = f"{mean['frechet']:.1f} ({mean['floor']:.1f})"
                others = " | ".join(f"{mean[what]:.3f}" for what in ("precision", "recall", "diversity"))
                yield f"| {word(name)} | {f'{mark:,}' if mark else '-'} | {distance} | {others} |"


def memory(results: Results) -> Iterator[str]:
    """Yield how much nearer students are to the real images that they saw than to others."""
    few = sizes(results)
    marks = [mark for mark in results.marks if any(results.runs(f"d2o-f-real{real}", "lite2", mark) for real in few)]
    yield "| real images | row | images | seeds | space | KID | gap | nearest seen, nearest held out |"
    yield "|---" * 8 + "|"
    for mark, real, row in product(marks, [*few, None], ("d2o-f", "d2o")):
        for space in SPACES:
            runs = list(results.runs(f"{row}-real{real}" if real else row, space, mark).values())
            if runs:
                cells = [f"{real:,}" if real else "all", word(row), f"{mark:,}", str(len(runs)), space]
                cells.append(told([run["kid"] for run in runs]))
                cells.append(told([run["gap"] for run in runs], 4) if real else "-")
                near = [np.mean([run[what] for run in runs]) for what in ("nearest_seen", "nearest_held_out") if real]
                yield f"| {' | '.join(cells)} | {', '.join(f'{one:.3f}' for one in near) or '-'} |"


def compared(results: Results, pairs: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield how far the first row of every pair lies from the second, at equal images."""
    words = {"holds": "better", "fails": "worse", "not decided": "not decided"}
    yield "| difference in KID | images | space | mean and interval | verdict |"
    yield "|---|---|---|---|---|"
    for name, other in pairs:
        for mark in results.marks:
            for one in results.below(name, other, mark):
                what = f"{word(name)} minus {word(other)}"
                yield f"| {what} | {mark:,} | {one.space} | {show(one)} | {words[one.verdict]} |"


def show(one: Difference | None) -> str:
    """Return a difference with its interval and seeds."""
    if one is None:
        return "not measured yet"
    interval = "no interval" if one.interval is None else f"{one.interval[0]:+.3g} to {one.interval[1]:+.3g}"
    return f"{one.value:+.3g} ({interval}; {one.seeds} seed{'s' * (one.seeds > 1)})"


def earlier(file: Path) -> Iterator[str]:
    """Yield the rows that were trained by settings which are no longer their methods' choice."""
    former = Results(read_lines(file))
    yield f"| row | images | settings | seeds | KID, {' / '.join(SPACES)} |"
    yield "|---|---|---|---|---|"
    for name in names(former):
        for mark in former.marks:
            runs = {space: list(former.runs(name, space, mark).values()) for space in SPACES}
            if first := runs["lite2"]:
                kids = " / ".join(f"{np.mean([run['kid'] for run in side]):.3f}" for side in runs.values())
                yield f"| {word(name)} | {mark:,} | {settings(first[0])} | {len(first)} | {kids} |"


def settings(record: dict[str, Any]) -> str:
    """Return what a record's run or trial changed of its method's recipe."""
    return ", ".join(f"{path} = {value}" for path, value in record["settings"].items()) or "unchanged recipe"


def tried(file: Path) -> Iterator[str]:
    """Yield the trials by which settings were chosen."""
    yield f"| row | images | settings | KID, {' / '.join(SPACES)} |"
    yield "|---|---|---|---|"
    for line in sorted(read_lines(file), key=lambda one: (one["row"], one["trial"])):
        kids = " / ".join(f"{line['kid'][space]:.3f}" for space in SPACES)
        yield f"| {word(line['row'])} | {line['images']:,} | {settings(line)} | {kids} |"


def table_at_32(records: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the measures of the models at 32x32."""
    titles = [*(f"KID, {space}" for space in SPACES), "recall, lite2"]
    yield f"| model | images of the teacher's training | {' | '.join(titles)} |"
    yield "|---" * (len(SPACES) + 3) + "|"
    for row in sorted(records, key=lambda row: ([*AT_32].index(row["kind"]), row["images"])):
        cells = [f"{row['spaces'][space]['kid']:.3f}" for space in SPACES]
        cells.append(f"{row['spaces']['lite2']['recall']:.3f}")
        yield f"| {AT_32[row['kind']]} | {row['images']:,} | {' | '.join(cells)} |"


def count(claim: Claim) -> str:
    """Return how many of a claim's differences hold, fail, and are not decided."""
    numbers = Counter(one.verdict for one in claim.differences)
    words = {"holds": "hold", "fails": "fail", "not decided": "not decided"}
    return ", ".join(f"{numbers[verdict]} {word}" for verdict, word in words.items() if numbers[verdict]) or "-"


def weakest(claim: Claim) -> str:
    found = claim.weakest
    return show(found) if found is None else f"{found.what}, {found.space}: {show(found)}"
