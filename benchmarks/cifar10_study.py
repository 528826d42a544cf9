"""The paper's comparisons on CIFAR-10 at 16x16: one command that trains everything, and skips what is done.

python benchmarks/cifar10_study.py --data cifar10-train-32x32.zip     start, or continue; hours
python benchmarks/cifar10_study.py --data ... --study cifar10-16-dit  students of a transformer, frozen in three ways
python benchmarks/cifar10_study.py --quick                             every step once, at toy size, on digits
python benchmarks/cifar10_study.py --list                              what there is to do, and what is done

Started twice, it works on two rows at once. Every run becomes JSON files under benchmarks/results/STUDY/, one for each
mark and feature space; failures are kept in its log.jsonl. `python benchmarks/report_results.py` makes the report.
"""

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import feature_classifier
from examination import SPACES, Examiner, generate_pixels
from study_rows import FULL, QUICK, SIZES, TEACHER_STEPS, Row, Size

from d2o.checkpoints import load, native
from d2o.data.datasets import Images, open_images
from d2o.diffusion.denoiser import Denoiser
from d2o.files import atomic
from d2o.training.networks import networks
from d2o.training.run import run

HERE = Path(__file__).parent


@dataclass
class Study:
    """Where a study keeps what, and what its steps share."""

    size: Size
    data: str
    runs: Path
    results: Path
    processes: int
    given: str | None = None
    opened: dict[str, Any] = field(default_factory=dict)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what was made under this name, making it at the first time."""
        if name not in self.opened:
            self.opened[name] = make()
        return self.opened[name]

    def images(self) -> tuple[Images, Images]:
        """Return the training images and those held out, small and in memory."""
        place = self.runs / "train.npz"
        if not place.exists():
            resolution = self.size.resolution if self.size.resize else None
            whole = open_images(self.data, resolution=resolution, resize=self.size.resize)
            parts = whole.split(len(whole) - self.size.held_out)
            for name, part in zip(("held_out", "train"), reversed(parts), strict=True):
                with atomic(self.runs / f"{name}.npz") as temporary:
                    np.savez(temporary, images=part.pixels(range(len(part))), labels=part.labels)
        return self.once("images", lambda: tuple(open_images(self.runs / f"{n}.npz") for n in ("train", "held_out")))

    @property
    def teacher_place(self) -> Path:
        """Where the teacher is: the model that was given, or the study's own run."""
        return Path(self.given) if self.given else self.runs / "teacher"

    def teacher(self) -> Denoiser:
        """Return the teacher, trained to the end."""
        place = self.teacher_place
        if not self.given and not (place / "ema.safetensors").exists():
            self.images()  # writes train.npz
            words = ["--data", self.runs / "train.npz", "--recipe", self.size.pretrain, "--out", place]
            words += ["--images", self.size.teacher]
            words += ["--set", f"backbone={json.dumps(self.size.backbone)}"] if self.size.backbone else []
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", self.processes]
            subprocess.run(list(map(str, [*launch, "-m", "d2o", "pretrain", *words])), check=True)
        return self.once("teacher", lambda: load(place))

    def teacher_images(self, steps: int) -> np.ndarray:
        """Return the teacher's images in so many steps, drawn once."""
        place = self.runs / f"teacher-{steps}.npz"
        if not place.exists():
            with atomic(place) as temporary:
                np.savez(temporary, images=generate_pixels(self.teacher(), steps, self.size.examined))
        return np.load(place)["images"]

    def classifier(self) -> feature_classifier.Embed:
        """Return the study's own feature space."""
        place = self.runs / "classifier.safetensors"
        if not place.exists():
            train, held_out = self.images()
            made = feature_classifier.train_classifier(train, held_out, self.size.classifier, self.size.mirror)
            feature_classifier.save(place, made[0], train, made[1])
        return self.once("classifier", lambda: feature_classifier.Embed(place))

    def examiner(self) -> Examiner:
        """Return what measures images against those held out, once nobody is training the classifier any more."""
        with alone(self.runs / "locks" / "classifier", wait=True):
            self.classifier()
        return self.once("examiner", lambda: Examiner(*self.images(), self.classifier(), self.size.examined))


def train_row(study: Study, row: Row) -> None:
    """Train one student, keeping its average at every mark, and examine each of them."""
    place = study.runs / "students" / row.key
    train, _ = study.images()
    if not (place / "ema.safetensors").exists():
        made = networks(row.recipe, study.teacher())
        for moment in run(place, row.recipe, made, train, origin={"from": str(study.teacher_place)}):
            now = moment.progress.images
            for mark in row.marks:
                if now - row.recipe.batch_size < mark <= now:
                    native.save(place / f"ema-{mark:08d}.safetensors", moment.progress.ema)
    command = (
        f"d2o finetune --from {study.teacher_place} --data {study.runs / 'train.npz'} "
        f"--recipe {place / 'recipe.json'} --out {place}"
    )
    log = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    for mark in row.marks:
        student = load(place / f"ema-{mark:08d}.safetensors")
        seconds = max((line["seconds"] for line in log if line["images"] <= mark and "seconds" in line), default=0.0)
        facts = {"row": row.name, "seed": row.seed, "images": mark, "seconds": seconds, "command": command}
        pixels = generate_pixels(student, 1, study.size.examined)
        study.examiner().write(study.results, facts, pixels)
        if row.steps is not None and mark == row.marks[-1]:
            facts = {**facts, "row": f"{row.name} against its teacher", "reference": f"teacher in {row.steps} steps"}
            study.examiner().write(study.results, facts, pixels, study.teacher_images(row.steps))


def fixed_rows(study: Study) -> None:
    """Examine what no student has touched: real images, blurred ones, and the teacher in one call and in more."""
    drawn = {f"teacher-{steps}": study.teacher_images(steps) for steps in TEACHER_STEPS} | {
        "untuned": study.teacher_images(1)
    }
    examiner = study.examiner()
    run_file = study.teacher_place / "checkpoint.safetensors"
    seconds = native.read_header(run_file)["seconds"] if run_file.exists() else 0.0
    command = f"python benchmarks/cifar10_study.py --data {Path(study.data).name} --study {study.size.name}"
    made = {"real": examiner.real, "blurred": examiner.blur(), **drawn}
    for name, pixels in made.items():
        spent = seconds if name.startswith(("teacher", "untuned")) else 0.0
        facts = {"row": name, "seed": 0, "images": 0, "seconds": spent, "command": command}
        examiner.write(study.results, facts, pixels)


def jobs(study: Study) -> Iterator[tuple[str, Callable[[], Any], bool]]:
    """Yield every step: its name, what to do, and whether its results are all there."""
    yield "images", study.images, (study.runs / "train.npz").exists()
    yield "classifier", study.classifier, (study.runs / "classifier.safetensors").exists()
    yield "teacher", study.teacher, bool(study.given) or (study.teacher_place / "ema.safetensors").exists()
    fixed = ("real", "blurred", *(f"teacher-{steps}" for steps in TEACHER_STEPS), "untuned")
    yield "fixed rows", lambda: fixed_rows(study), all(is_known(study, name, 0, 0) for name in fixed)
    for row in study.size.rows(study.size):
        done = all(is_known(study, row.name, row.seed, mark) for mark in row.marks)
        if row.steps is not None:
            done = done and is_known(study, f"{row.name} against its teacher", row.seed, row.marks[-1])
        yield row.key, lambda row=row: train_row(study, row), done


def is_known(study: Study, name: str, seed: int, images: int) -> bool:
    """Return whether a row's results stand in both feature spaces."""
    return all(Examiner.file(study.results, name, seed, images, space).exists() for space in SPACES)


@contextmanager
def alone(place: Path, wait: bool) -> Iterator[bool]:
    """Hold a lock among all processes of a study; without waiting, tell whether it could be had."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def note(study: Study, **facts: Any) -> None:
    """Add a line to the study's log."""
    study.results.mkdir(parents=True, exist_ok=True)
    line = {"time": time.strftime("%Y-%m-%d %H:%M:%S"), **facts}
    with (study.results / "log.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def work(study: Study) -> int:
    """Do whatever is not done and nobody else is doing; return how many steps failed."""
    failures = 0
    for name, act, _ in list(jobs(study)):
        with alone(study.runs / "locks" / name.replace(" ", "-"), wait=name in ("images", "teacher")) as free:
            if not free or {n: done for n, _, done in jobs(study)}[name]:
                continue
            note(study, step=name, event="started", process=os.getpid())
            began = time.monotonic()
            try:
                act()
            except Exception as error:
                failures += 1
                note(study, step=name, event="failed", error=f"{type(error).__name__}: {error}")
                traceback.print_exc()
                if name in ("images", "classifier", "teacher"):
                    break  # nothing can go on without them
            else:
                note(study, step=name, event="finished", seconds=round(time.monotonic() - began, 1))
    return failures


def main() -> int:
    """Read the options and work; 1 when a step failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="CIFAR-10's training images in any form that d2o opens")
    parser.add_argument("--study", choices=SIZES, default=FULL.name, help="which students, and of what size")
    parser.add_argument("--quick", action="store_true", help="the study `quick`: toy sizes, by default on digits")
    parser.add_argument("--list", action="store_true", help="say what is done, and do nothing")
    parser.add_argument("--teacher", help="a trained model, instead of one of the study's own")
    parser.add_argument("--teacher-images", type=int, help="images that the study's own teacher sees")
    parser.add_argument("--marks", help="images seen at which students are examined, the last ends them: 50000,100000")
    parser.add_argument("--runs", type=Path, help="folder of the runs; by default runs/STUDY")
    parser.add_argument("--results", type=Path, help="folder of the results; by default benchmarks/results/STUDY")
    parser.add_argument("--processes", type=int, default=1, help="processes that train the teacher")
    options = parser.parse_args()
    size = QUICK if options.quick else SIZES[options.study]
    if options.data is None and not size.name.startswith("quick"):
        parser.error("name CIFAR-10's training images with --data")
    if options.teacher_images:
        size = replace(size, teacher=options.teacher_images)
    if options.marks:
        size = replace(size, marks=tuple(int(mark) for mark in options.marks.split(",")))
    torch.set_num_threads(1)
    folder = options.runs or Path("runs") / size.name
    folder.mkdir(parents=True, exist_ok=True)
    results = options.results or HERE / "results" / size.name
    study = Study(size, options.data or "digits", folder, results, options.processes, options.teacher)
    if options.list:
        for name, _, done in jobs(study):
            print(f"{'done' if done else '-':<5} {name}")
        return 0
    return 1 if work(study) else 0


if __name__ == "__main__":
    sys.exit(main())
