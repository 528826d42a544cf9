"""Seconds an image of every row of the study, taken in turns in one process: what equal seconds mean there.

python benchmarks/study_speeds.py --data cifar10-train-32x32.zip
python benchmarks/study_speeds.py --quick --rows d2o-f,cd              at toy size, on digits

A study takes many hours, in which the machine is now faster, now slower. So its rows are compared by the seconds found
here: short runs of all rows with the chosen settings go on by turns, on one thread, and the processor's seconds count.
All rows take a quarter of an hour; what is found is written beside the records, where the report finds it.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from cifar10_study import HERE, Study
from study_records import choose
from study_rows import FULL, QUICK, Row, recipes
from time_to_quality import enter

from d2o.files import atomic
from d2o.training.recipe import Stages, change

ITERATIONS, TURN, REPETITIONS = 48, 16, 2
"""Of a run, in one of its turns (all of a penalty's period), and how often all of it is done."""


def measure(study: Study, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return for every row the seconds an image, one number a repetition, and those before the first iteration."""
    found: dict[str, dict[str, Any]] = {}
    for _ in range(REPETITIONS):
        contenders = {name: list(parts(study, name)) for name in names}
        for _ in range(ITERATIONS // TURN):
            for rows in contenders.values():
                for _, one, _ in rows:
                    one.advance(TURN * one.recipe.batch_size)
        for name, rows in contenders.items():
            spent = sum(share * (one.seconds - begun) / one.recipe.duration for share, one, begun in rows)
            one = found.setdefault(name, {"per_image": [], "before": []})
            one["per_image"].append(round(spent, 6))
            one["before"].append(round(sum(begun for _, _, begun in rows), 1))
        print(json.dumps({name: one["per_image"] for name, one in found.items()}), flush=True)
    return found


def parts(study: Study, name: str) -> Any:
    """Yield a row's stages at their start: the share of its images, the contender, and what it has taken so far."""
    images = ITERATIONS * study.size.settings["batch_size"]
    recipe = Row(name, recipes(study.size)[name], images).settled(choose(study.tried.rows, name))
    for stage in recipe.stages if isinstance(recipe, Stages) else (recipe,):
        one = enter(name, change(stage, "duration", images), study, seed=0)
        yield stage.duration / recipe.duration, one, one.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="CIFAR-10's training images in any form that d2o opens")
    parser.add_argument("--quick", action="store_true", help="the study `quick`: toy sizes, by default on digits")
    parser.add_argument("--rows", help="some rows alone, with commas between them")
    parser.add_argument("--runs", type=Path, help="folder of the study's runs; by default runs/STUDY")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder of its results")
    options = parser.parse_args()
    if not (options.data or options.quick):
        parser.error("name CIFAR-10's training images with --data")
    torch.set_num_threads(1)
    size, data = (QUICK, options.data or "digits") if options.quick else (FULL, options.data)
    runs = options.runs or Path("runs") / size.name
    study = Study(size, data, runs, options.results, "digits-teacher" if options.quick else None)
    command = f"python benchmarks/study_speeds.py --data {Path(data).name}"
    found = measure(study, options.rows.split(",") if options.rows else list(recipes(size)))
    file = options.results / size.name / "speeds.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic(file) as temporary:
        temporary.write_text(json.dumps({"command": command, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
