"""Write docs/results.md and its figures from the records of a study, and say which claims hold there.

python benchmarks/report_results.py                                   of benchmarks/results/cifar10-16.jsonl
python benchmarks/report_results.py --json                            the claims alone
python benchmarks/report_results.py --results FILE.jsonl --out FILE.md
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from report_tables import (
    WORDS,
    compared,
    count,
    details,
    earlier,
    memory,
    names,
    show,
    table,
    table_at_32,
    tried,
    weakest,
    word,
)
from study_claims import DISTILLED, SPACES, Claim, Results, claims
from study_figures import draw_figure, draw_gallery
from study_records import HELD_OUT, choose, read_lines

from d2o.files import atomic

HERE = Path(__file__).parent
CHANGED = ("d2o", "d2o-f-best", "released-projections", "own-features", "frechet-gan", "sketch-gan")
"""Rows that are D2O-F but for one thing or a few, and stand in no claim against it."""


def sentence(found: Sequence[Claim]) -> str:
    """Return the answer in one sentence: the claims that hold or fail in words, the others by their letters."""
    parts = []
    for verdict, forms in {"holds": ("holds", "hold"), "fails": ("fails", "fail")}.items():
        if chosen := [f"({one.letter}) {one.sentence}" for one in found if one.verdict == verdict]:
            parts.append(f"{len(chosen)} {forms[len(chosen) > 1]}: {', '.join(chosen)}")
    if letters := [f"({one.letter})" for one in found if one.verdict == "not decided"]:
        parts.append(f"{', '.join(letters)} {'are' if len(letters) > 1 else 'is'} not decided")
    return f"**Of the {len(found)} claims {'; '.join(parts)}.**"


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


def at_32(file: Path) -> list[str]:
    """Return the section on the models at 32x32, nothing where they were not measured."""
    if not file.exists():
        return []
    records = json.loads(file.read_text())
    images, examined = max(row["images"] for row in records), records[-1]["examined"]
    return [
        "## At 32x32",
        "",
        f"A class-conditional teacher of 5.03 million parameters, on squares of 2x2 pixels, has seen {images:,} images "
        "on one core of two (`d2o pretrain --data cifar10-32x32.zip --recipe cifar10-32-pretrain --images "
        f"{images} --precision float32 --out runs/cifar10-32`), and a D2O-F student from it (`d2o finetune --from "
        "runs/cifar10-32 --data cifar10-32x32.zip --recipe cifar10-32-d2o-f --images 16000 --out "
        "runs/cifar10-32-one-step`). They do not replace the 16x16 pair yet: few of the teacher's images can be told "
        "apart, and its curve still falls; cars, ships and animals can be told in many of the student's, but they are "
        "pale, with fine stripes. By two of three measures the student's one call is closer to the data than its "
        "teacher's 35, as at 16x16. With the rates and the noise level of the 16x16 recipe (`--learning-rate "
        "1e-3 --set discriminator_learning_rate=1e-3 --set objectives.0.sigma=5 --set objectives.1.sigma=5`) the "
        "discriminator won: after 9,600 images the student drew grey checkerboards.",
        "",
        "![KID while the teacher at 32x32 was trained](images/cifar10-32.png)",
        "",
        *table_at_32(records),
        "",
        f"{examined:,} images of each, from the same seeds, are compared with 10,000 training images, which the "
        "models have seen; the classifier and the network without labels see means of 2x2 pixels. The scale of "
        "guidance is 2. One seed. The teacher's curve is of checkpoints of one run, which was compiled, and whose rate "
        "falls to zero at its end (`python benchmarks/cifar10_32.py --data "
        f"cifar10-32x32.zip --teacher {images}=runs/cifar10-32 --student runs/cifar10-32-one-step`).",
        "",
        "![Real images, the teacher in 35 calls, guided, in one call, and its student](images/cifar10-32-images.png)",
        "",
    ]


def write(results: Results, place: Path, out: Path) -> None:
    """Write the page: the answer, one figure, one table, and details below."""
    stem, found, own = out.stem, claims(results), place.with_suffix("")
    draw_figure(results, out.parent / "images" / f"{stem}.png")
    draw_gallery(results, own, out.parent / "images" / f"{stem}-images.png")
    some = results.rows[0]
    trained = {row["row"] for row in results.rows if row["images"]}
    untimed = [word(name) for name in names(results) if name in WORDS and name in trained - results.speeds.keys()]
    alone = f" (by their own runs: {'; '.join(untimed)})" if untimed else ""
    in_turns = f"by the speeds of the rows in turns (`python benchmarks/study_speeds.py`){alone}"
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
    lines += at_32(place.with_name("cifar10-32.json"))
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
