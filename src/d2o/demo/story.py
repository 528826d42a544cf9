"""The demo from start to end: a diffusion model of handwritten digits becomes a one-step generator."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2o.checkpoints import load, native
from d2o.data.datasets import Images, open_images
from d2o.data.files import to_uint8
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate
from d2o.files import atomic, checked_folder
from d2o.metrics.counting import Counted, unshown
from d2o.metrics.evaluation import Evaluation, Judge
from d2o.metrics.sources import generated
from d2o.training import recipes
from d2o.training.freezing import Share
from d2o.training.loop import group
from d2o.training.networks import networks, new_denoiser, share
from d2o.training.processes import in_processes, side_by_side
from d2o.training.recipe import Recipe
from d2o.training.run import Habits, Moment, judge_by, run

from .page import Picture, write_page

TEACHER_STEPS = 18
CALLS = 2 * TEACHER_STEPS - 1
IMAGES = 1_000
"""Images of each generator that are measured."""
SHOWN = tuple(range(60))
"""Seeds of the pictures: six of each digit."""

Watch = Callable[[Iterable[Moment], int, str], Any]
Say = Callable[[str], Any]


@dataclass(frozen=True)
class Findings:
    """What the demo measured."""

    evaluations: dict[str, Evaluation]
    accuracy: dict[str, float]
    class_share_min: float
    images_per_second: dict[str, float]
    seconds: dict[str, float]
    share: Share


def demo(
    out: str | Path, seed: int, watch: Watch, say: Say, processes: int = 1, counted: Counted = unshown
) -> dict[str, Any]:
    """Run the demo in a directory (again: continue it) and return what report.json holds.

    `watch` follows a training run to its end, `say` prints a line, `counted` follows a pass over images.
    """
    torch.set_num_threads(1)  # processes are forked from here, and a pool of threads would not survive that
    began = time.monotonic()
    out = checked_folder(out)
    digits = open_images("digits")
    pretrain = replace(recipes.RECIPES["digits-pretrain"], seed=seed)
    finetune = replace(recipes.RECIPES["digits-d2o-f"], seed=seed)

    say(f"1/3  Pre-training a diffusion model on {len(digits):,} real handwritten digits")
    assert pretrain.backbone is not None
    untrained = new_denoiser(pretrain.backbone, digits.shape, digits.num_classes, seed=seed)
    pre = Training(out / "teacher", pretrain, untrained, digits, evaluations=2, steps=TEACHER_STEPS)
    in_processes(processes, lambda: pre.run(watch))
    teacher = load(out / "teacher")

    say("2/3  Turning it into a one-step generator with a GAN loss, most of its weights frozen (D2O-F)")
    fine = Training(out / "student", finetune, teacher, digits, evaluations=4, steps=1)
    in_processes(processes, lambda: fine.run(watch))
    student = load(out / "student")

    say(f"3/3  Comparing {IMAGES:,} images of each")
    findings = measure(digits, teacher, student, finetune, out, processes, counted)
    findings.seconds["total"] = sum(findings.seconds.values())
    summary = summarise(seed, findings)
    curves = {name: read_log(out / name / "metrics.jsonl") for name in ("teacher", "student")}
    write_page(
        out / "report.html", pictures(digits, teacher, student), summary, list(findings.evaluations.values()), curves
    )
    with atomic(out / "report.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    say(f"Done in {time.monotonic() - began:.0f} s. Look at {out / 'report.html'}")
    return summary


@dataclass(frozen=True)
class Training:
    """One of the demo's two runs."""

    directory: Path
    recipe: Recipe
    start: Denoiser
    images: Images
    evaluations: int
    steps: int

    def run(self, watch: Watch) -> None:
        """Train, or continue, to the end; every process of the group calls this."""
        accelerator = group()
        judge = None
        if accelerator.is_main_process:
            judge = judge_by(self.images, self.recipe, count=IMAGES // 4, steps=self.steps)
        habits = Habits(
            evaluate_every=self.recipe.duration // self.evaluations, sample_seeds=SHOWN, sample_steps=self.steps
        )
        made = networks(self.recipe, self.start)
        moments = run(
            self.directory, self.recipe, made, self.images, habits=habits, judge=judge, accelerator=accelerator
        )
        watch(moments, self.recipe.duration, self.directory.name)


def measure(
    digits: Images,
    teacher: Denoiser,
    student: Denoiser,
    recipe: Recipe,
    out: Path,
    processes: int,
    counted: Counted = unshown,
) -> Findings:
    """Measure the teacher in many calls, the same teacher in one, and the student in one, from the same seeds.

    `counted` follows the teacher in many calls: the others are done long before.
    """
    began = time.monotonic()
    judge = Judge(digits, images=IMAGES, judged_by=recipe.judged_by)
    rows = {
        "teacher": (f"teacher, {CALLS} calls", teacher, TEACHER_STEPS),
        "untuned": ("teacher, 1 call", teacher, 1),
        "student": ("D2O-F student, 1 call", student, 1),
    }

    def examine(row: str) -> tuple[Evaluation, np.ndarray]:
        name, denoiser, steps = rows[row]
        stream = generated(denoiser, judge.seeds, steps=steps, batch_size=250)
        batches = counted(stream.batches, stream.count, name) if row == "teacher" else stream.batches
        images = list(batches)
        return judge(replace(stream, batches=iter(images)), name=name), np.concatenate(images)

    found = dict(zip(rows, side_by_side(examine, list(rows), processes), strict=True))
    asked = np.array([seed % digits.num_classes for seed in judge.seeds])
    read = {name: reader(digits)(images) for name, (_, images) in found.items()}
    shares = np.bincount(read["student"], minlength=digits.num_classes) / IMAGES
    spent = {
        "pretrain": native.read_header(out / "teacher" / "checkpoint.safetensors")["seconds"],
        "finetune": native.read_header(out / "student" / "checkpoint.safetensors")["seconds"],
        "evaluate": time.monotonic() - began,
    }
    return Findings(
        evaluations={name: evaluation for name, (evaluation, _) in found.items()},
        accuracy={name: float((read[name] == asked).mean()) for name in ("teacher", "student")},
        class_share_min=float(shares.min()),
        images_per_second={"teacher": rate(teacher, TEACHER_STEPS, 250), "student": rate(student, 1, IMAGES)},
        seconds=spent,
        share=share(networks(recipe, teacher)),
    )


def rate(denoiser: Denoiser, steps: int, count: int) -> float:
    """Return how many images a second a generator makes, after a first batch that is not counted."""
    batches = generate(denoiser, range(count + 50), steps=steps, batch_size=50)
    next(batches)
    began = time.perf_counter()
    made = sum(len(batch) for batch in batches)
    return made / (time.perf_counter() - began)


def reader(digits: Images) -> Callable[[np.ndarray], np.ndarray]:
    """Return a classifier of 8x8 digits, trained on the real ones: uint8 [N,8,8,1] -> classes [N]."""
    from sklearn.neighbors import KNeighborsClassifier

    def flat(pixels: np.ndarray) -> np.ndarray:
        return pixels.reshape(len(pixels), -1) / 255.0

    classifier = KNeighborsClassifier(n_neighbors=3).fit(flat(digits.pixels(range(len(digits)))), digits.labels)
    return lambda pixels: classifier.predict(flat(pixels))


def summarise(seed: int, findings: Findings) -> dict[str, Any]:
    """Return the numbers of report.json."""
    by = findings.evaluations
    floor = by["student"].floor
    return {
        "seed": seed,
        "images": IMAGES,
        "features": by["student"].space,
        "kid": {
            **{name: evaluation.distances.kid for name, evaluation in by.items()},
            "floor": floor.kid if floor else None,
        },
        "recall": {name: by[name].distances.recall for name in ("teacher", "student")},
        "precision": {name: by[name].distances.precision for name in ("teacher", "student")},
        "diversity": {name: by[name].diversity.pixel_deviation_within for name in ("teacher", "student")},
        "class_share_min": findings.class_share_min,
        "class_accuracy": findings.accuracy,
        "seconds": {name: round(value, 1) for name, value in findings.seconds.items()},
        "images_per_second": {name: round(value, 1) for name, value in findings.images_per_second.items()},
        "speed_ratio": round(findings.images_per_second["student"] / findings.images_per_second["teacher"], 1),
        "frozen_share": findings.share.frozen / findings.share.total,
        "moved_parameters": findings.share.total - findings.share.frozen,
        "parameters": findings.share.total,
    }


def pictures(digits: Images, teacher: Denoiser, student: Denoiser) -> list[Picture]:
    """Return the four pictures of the report, one column a digit, the generators' from the same seeds."""
    assert digits.labels is not None
    of_class = [np.flatnonzero(digits.labels == k) for k in range(digits.num_classes)]
    real = digits.pixels([of_class[seed % digits.num_classes][seed // digits.num_classes] for seed in SHOWN])

    def made(denoiser: Denoiser, steps: int) -> np.ndarray:
        return to_uint8(torch.cat(list(generate(denoiser, SHOWN, steps=steps))))

    return [
        Picture("Real digits", "from the training set", real),
        Picture(
            f"Teacher, {CALLS} calls", "the diffusion model as it was trained to be used", made(teacher, TEACHER_STEPS)
        ),
        Picture("Teacher, 1 call", "the same weights, un-tuned: one call gives a blur", made(teacher, 1)),
        Picture("D2O-F student, 1 call", "fine-tuned with a GAN loss alone, same seeds", made(student, 1)),
    ]


def read_log(log: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's log."""
    return [json.loads(line) for line in log.read_text().splitlines()]
