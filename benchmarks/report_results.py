"""Write docs/results.md and its figures from the records of a study, and say which claims hold there.

python benchmarks/report_results.py                                   of benchmarks/results/cifar10-16.jsonl
python benchmarks/report_results.py --json                            the claims alone
python benchmarks/report_results.py --results FILE.jsonl --out FILE.md
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from study_claims import DISTILLED, SPACES, Claim, Difference, Results, claims, sizes
from study_figures import draw_figure, draw_gallery
from study_records import HELD_OUT, choose, read_lines

from d2o.files import atomic

HERE = Path(__file__).parent
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
MEASURES = ("frechet", "floor", "precision", "recall", "diversity")
CHANGED = ("d2o", "d2o-f-best", "released-projections", "own-features", "frechet-gan", "sketch-gan")
"""Rows that are D2O-F but for one thing or a few, and stand in no claim against it."""
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


def sentence(found: Sequence[Claim]) -> str:
    """Return the answer in one sentence: the claims that hold or fail in words, the others by their letters."""
    parts = []
    for verdict, forms in {"holds": ("holds", "hold"), "fails": ("fails", "fail")}.items():
        if chosen := [f"({one.letter}) {one.sentence}" for one in found if one.verdict == verdict]:
            parts.append(f"{len(chosen)} {forms[len(chosen) > 1]}: {', '.join(chosen)}")
    if letters := [f"({one.letter})" for one in found if one.verdict == "not decided"]:
        parts.append(f"{', '.join(letters)} {'are' if len(letters) > 1 else 'is'} not decided")
    return f"**Of the {len(found)} claims {'; '.join(parts)}.**"


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


def waiting(results: Results, own: Path) -> str:
    """Return which methods have short trials alone, and which rows other settings than their methods' choice."""
    tried = read_lines(own / "trials.jsonl")
    longest = max((one["images"] for one in tried), default=0)
    methods = [name for name in names(results) if any(one["row"] == name for one in tried)]
    short = [word(name) for name in methods if max(one["images"] for one in tried if one["row"] == name) < longest]
    old = {one["row"] for one in results.rows if one["images"] and one.get("settings") != choose(tried, one["row"])}
    told = f" Still to be tried again, and so tuned less well: {'; '.join(short)}." if short else ""
    former = [word(name) for name in methods if name in old]
    return told + (f" Still by the settings chosen before: {'; '.join(former)}." if former else "")


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


def write(results: Results, place: Path, out: Path) -> None:
    """Write the page: the answer, one figure, one table, and details below."""
    stem, found, own = out.stem, claims(results), place.with_suffix("")
    draw_figure(results, out.parent / "images" / f"{stem}.png")
    draw_gallery(results, own, out.parent / "images" / f"{stem}-images.png")
    some = results.rows[0]
    in_turns = "by the speeds of all rows in turns (`python benchmarks/study_speeds.py`), the transformer's by its runs"
    timed = in_turns if results.speeds else "as each run took them"
    lines = [
        f"# What one call can do: the study {place.stem}",
        "",
        sentence(found),
        "",
        f"![KID against seconds, in three feature spaces](images/{stem}.png)",
        "",
        *table(results),
        "",
        "KID and recall are means over seeds, with their range. Each number of images is a separate run; minutes are "
        f"for one CPU core, {timed}, and memory is what a run adds to its process.",
        "",
        "## The claims",
        "",
        "A difference below zero supports the claim. The table shows the difference that supports it least, with "
        "Student's 95 % interval over seeds. A claim holds if all of its differences and their intervals are below "
        "zero, and fails if one of them is above.",
        "",
        "| | claim | verdict | its differences | the one that supports it least |",
        "|---|---|---|---|---|",
        *(f"| ({one.letter}) | {one.sentence} | **{one.verdict}** | {count(one)} | {weakest(one)} |" for one in found),
        "",
    ]
    for one in found:
        if one.differences:
            lines += [f"### ({one.letter})", "", "| what | space | difference | verdict |", "|---|---|---|---|"]
            lines += [f"| {row.what} | {row.space} | {show(row)} | {row.verdict} |" for row in one.differences]
            lines += ["", *([f"{one.remark}.", ""] if one.remark else [])]
        if one.letter == "b" and one.differences:
            lines += [
                "Students that learn their real images by heart are nearer to them than to others. The gap is the KID "
                "to images held out minus that to those seen, and the distances are medians over a student's images, "
                "to as many real ones on both sides, in the features' own units:",
                "",
                *memory(results),
                "",
            ]
    lines += [
        "## Against D2O-F",
        "",
        "What D2O-F gains or loses by one change. The best discriminator and loss are the outcome of a search that the "
        "other rows did not have.",
        "",
        *compared(results, [(name, "d2o-f") for name in CHANGED]),
        "",
        "The best against instance distillation:",
        "",
        *compared(results, [("d2o-f-best", name) for name in DISTILLED]),
        "",
        f"![Images of every row from the same seeds, of its longest run](images/{stem}-images.png)",
        "",
        "## How to read the numbers",
        "",
        f"{some['examined']:,} images of every row, always from the same seeds, are compared with "
        f"{some['reference_images']:,} held-out real images. The discriminator uses EfficientNet-lite0, a relative of "
        "lite2, which favours GANs in that space. The classifier was trained only on this data set's labels, and the "
        "network without labels only on which two views belong to one image. A falling distance can hide a collapse: "
        "so recall and pixel deviation are shown, too. Three seeds give wide intervals, and of many differences at "
        "95 % some are wrong. CTM is taken in its simplest form, without the paper's denoising loss; "
        "half of its jumps end at the image, where the paper draws all ends alike.",
        "",
        "## The other measures",
        "",
    ]
    for space, words in SPACES.items():
        lines += [f"### By {words}", "", *details(results, space), ""]
    still = waiting(results, own)
    lines += [
        "## Trials",
        "",
        "Every method has the same number of trials, on a seed that is not used again. Those of 2,000 images came "
        "first. They were too short for CD, as its students of fewer steps showed, which claim (d) needs; so methods "
        f"are being tried again with 6,000 images, and rows whose choice changes are trained again.{still} "
        "The third trial of CD "
        "and CTM had a higher rate and no lag of the target besides its 9 steps, until it was seen to be worse than "
        "the steps alone (CD's KID after 6,000 images: 5.368 / 0.437 / 0.204). Own features had one more of 2,000 "
        "images: when their default noise changed, after the finals of [another benchmark](how-to/judges.md), it "
        "became the first trial, and `discriminator.width=32` with `objectives.0.r1=5e-5` (KID 7.957 / 0.664 / "
        "0.283), the worst of the four, left the table. The choice is the same with it.",
        "",
        *tried(own / "trials.jsonl"),
        "",
    ]
    if (own / "earlier.jsonl").exists():
        lines += [
            "What is best after 6,000 images need not be so after 24,000. Rows by settings that were chosen before:",
            "",
            *earlier(own / "earlier.jsonl"),
            "",
        ]
    log = read_lines(own / "log.jsonl")
    failed = [event for event in log if event["event"] == "failed"]
    hours = sum(event.get("seconds", 0) for event in log) / 3600
    lines += ["## What it took, and what failed", ""]
    lines += [f"The steps have taken {hours:.1f} hours of one core or less, what was run again included.", ""]
    lines += [f"- {event['time']} {event['step']}: {event['error']}" for event in failed] or ["Nothing so far."]
    lines += [
        "",
        f"This page is generated by `python benchmarks/report_results.py` from `benchmarks/results/{place.name}`, "
        "which `python benchmarks/cifar10_study.py` writes; every record contains its command.",
    ]
    with atomic(out) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def count(claim: Claim) -> str:
    """Return how many of a claim's differences hold, fail, and are not decided."""
    numbers = Counter(one.verdict for one in claim.differences)
    words = {"holds": "hold", "fails": "fail", "not decided": "not decided"}
    return ", ".join(f"{numbers[verdict]} {word}" for verdict, word in words.items() if numbers[verdict]) or "-"


def weakest(claim: Claim) -> str:
    found = claim.weakest
    return show(found) if found is None else f"{found.what}, {found.space}: {show(found)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "cifar10-16.jsonl")
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "results.md")
    parser.add_argument("--json", action="store_true", help="print the claims, and write nothing")
    options = parser.parse_args()
    speeds = options.results.with_suffix("") / "speeds.json"
    known = json.loads(speeds.read_text())["rows"] if speeds.exists() else {}
    results = Results(read_lines(options.results), known)
    if not any(row["reference"] == HELD_OUT for row in results.rows):
        sys.exit(f"{options.results} holds no records: run benchmarks/cifar10_study.py first.")
    if options.json:
        print(json.dumps([one.as_dict() for one in claims(results)], indent=2))
    else:
        write(results, options.results, options.out)
        print(options.out)


if __name__ == "__main__":
    main()
