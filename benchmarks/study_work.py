"""What a study has to do, step by step, each in a process of its own, and its log."""

import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from examination import SPACES, draw
from study_records import HELD_OUT, alone, choose
from study_rows import TEACHER_STEPS, rows, trials
from study_run import train_row

from d2o.files import append

if TYPE_CHECKING:
    from cifar10_study import Study

KEPT = Path(__file__).parent / "spaces"
STOPPED = 130
"""What a process ends with that was told to stop."""


def fixed_rows(study: "Study") -> None:
    """Examine what no student has touched: real images, blurred ones, and the teacher in one call and in more."""
    examiner = study.examiner()
    drawn = {f"teacher-{steps}": study.teacher_images(steps) for steps in TEACHER_STEPS}
    made = {"real": examiner.real, "blurred": examiner.blur(), "untuned": study.teacher_images(1), **drawn}
    for name, pixels in made.items():
        write_fixed(study, name, pixels)


def fixed_rows_of_transformer(study: "Study") -> None:
    """Examine the transformer in one call and in more."""
    for steps in (1, *TEACHER_STEPS):
        name = "dit-untuned" if steps == 1 else f"dit-teacher-{steps}"
        write_fixed(study, name, study.teacher_images(steps, transformer=True))


def write_fixed(study: "Study", name: str, pixels: np.ndarray) -> None:
    facts = {"row": name, "seed": 0, "images": 0, "seconds": 0.0, "peak_bytes": None, "reference": HELD_OUT}
    study.records.write(study.examiner().examine({**facts, "command": study.command(name)}, pixels))
    draw(study.pictures / f"{name}.png", pixels)


Job = tuple[str, str, Callable[[], Any], bool]
"""A step's key, the row that it belongs to, what to do, and whether its results are all there."""


def jobs(study: "Study", most: int | None = None) -> Iterator[Job]:
    """Yield every step in order: of runs those that see at most so many images, each with what its trials chose."""
    size, has = study.size, study.records.has
    yield "images", "", study.images, (study.runs / "train.npz").exists()
    for space in SPACES[1:]:
        there = (study.runs / f"{space}.safetensors", KEPT / f"{size.name}-{space}.safetensors")
        yield space, "", lambda space=space: study.space(space), any(file.exists() for file in there)
    yield "teacher", "", study.teacher, bool(study.given) or (study.teacher_place / "ema.safetensors").exists()
    names = ("real", "blurred", *(f"teacher-{steps}" for steps in TEACHER_STEPS), "untuned")
    known = all(has(row=name, feature_space=space) for name in names for space in SPACES)
    yield "fixed-rows", "", lambda: fixed_rows(study), known
    for row in trials(size):
        index = int(row.key.rpartition("trial")[2])
        known = study.tried.has(row=row.name, trial=index, images=row.images)
        yield row.key, row.name, lambda row=row: train_row(study, row), known
    seen_transformer = False
    for row in rows(size):
        if most is not None and row.images > most:
            continue
        if row.transformer and not seen_transformer:
            seen_transformer = True
            known = all(has(row="dit-untuned", feature_space=space) for space in SPACES)
            yield "transformer", row.name, lambda: fixed_rows_of_transformer(study), known
        about = {
            "row": row.name,
            "seed": row.seed,
            "images": row.images,
            "settings": row.taken(choose(study.tried.rows, row.method)),
        }
        known = all(has(**about, feature_space=space) for space in SPACES)
        yield row.key, row.name, lambda row=row: train_row(study, row), known


def note(study: "Study", **facts: Any) -> None:
    """Add a line to the study's log."""
    line = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), **facts}
    study.log.parent.mkdir(parents=True, exist_ok=True)
    append(study.log, json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def work(study: "Study", wanted: tuple[str, ...] = (), hours: float | None = None, most: int | None = None) -> int:
    """Do whatever is not done and nobody else is doing, each in a process of its own; return how many steps failed."""
    failures, began = 0, time.monotonic()
    for key, row, _, _ in list(jobs(study, most)):
        if wanted and row and row not in wanted:
            continue
        if hours is not None and time.monotonic() - began > hours * 3600:
            break
        with alone(study.runs / "locks" / key, wait=not row) as free:
            study.reread()
            if not free or {name: done for name, _, _, done in jobs(study)}[key]:
                continue
            if row:
                study.examiner()  # here, and not in each of the processes
            note(study, step=key, event="started", process=os.getpid())
            started = time.monotonic()
            error = apart(lambda key=key: next(act for name, _, act, _ in jobs(study) if name == key)())
            about = {"step": key, "seconds": round(time.monotonic() - started, 1)}
            note(study, **about, event="finished" if error is None else "failed", **({"error": error} if error else {}))
            if error is not None:
                failures += 1
                if not row:
                    break  # nothing can go on without it
    return failures


def apart(act: Callable[[], Any]) -> str | None:
    """Do something in a process of its own, a copy of this one; return what went wrong there."""
    context = multiprocessing.get_context("fork")  # which has imported everything already
    ours, theirs = context.Pipe(duplex=False)

    def body() -> None:
        try:
            act()
        except KeyboardInterrupt:
            sys.exit(STOPPED)
        except Exception as error:
            traceback.print_exc()
            theirs.send(f"{type(error).__name__}: {error}")
            sys.exit(1)

    process = context.Process(target=body)
    process.start()
    try:
        process.join()
    finally:  # whoever stops this process may not have told the other
        if process.is_alive():
            process.terminate()
            process.join()
    if process.exitcode == STOPPED:
        raise KeyboardInterrupt
    if process.exitcode == 0:
        return None
    return ours.recv() if ours.poll() else f"it ended with the code {process.exitcode}"
