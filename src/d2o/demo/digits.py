"""The demo from start to end: a diffusion model of handwritten digits becomes a one-step generator."""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2o.data.datasets import Images, open_images
from d2o.data.files import to_uint8
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate
from d2o.files import check_folder
from d2o.metrics.counting import Counted, unshown
from d2o.metrics.evaluation import Evaluation, Evaluator
from d2o.metrics.sources import generate_images
from d2o.training import recipes
from d2o.training.fit import TEACHER_STEPS, Watch, finetune, pretrain, print_progress
from d2o.training.run import Habits
from d2o.training.run_directory import read_log

from .digits_page import Picture, draw_page
from .report import count_up, measure_rate, use_few_threads, write_report

CALLS = 2 * TEACHER_STEPS - 1
IMAGES = 1_000
"""Images of each generator that are evaluated at the end."""
SHOWN = tuple(range(60))
"""Seeds of the pictures: six of each digit."""
log = logging.getLogger("d2o")


def demo(
    out: str | Path, seed: int = 0, watch: Watch = print_progress, counted: Counted = unshown, device: str = "auto"
) -> dict[str, Any]:
    """Run the demo in a directory (again: continue it) and return the content of its report.json.

    It trains on the device, and compares on the processor.
    """
    use_few_threads()
    began, out, digits = time.monotonic(), check_folder(out), open_images("digits")

    log.info("1/3  Pre-training a diffusion model on %s real handwritten digits", f"{len(digits):,}")
    common = {"watch": watch, "seed": seed}
    name, folder = "digits-pretrain", out / "teacher"
    pretrained = pretrain(digits, name, out=folder, habits=habits(name, 2, device), **common)

    log.info("2/3  Turning it into a one-step generator with a GAN loss, most of its weights frozen (D2O-F)")
    name, folder, teacher = "digits-d2o-f", out / "student", pretrained.denoiser
    finetuned = finetune(teacher, digits, name, out=folder, origin={}, habits=habits(name, 4, device), **common)
    student = finetuned.denoiser

    log.info("3/3  Comparing %s images of each", f"{IMAGES:,}")
    since = time.monotonic()
    evaluations, images = evaluate_generators(digits, teacher, student, recipes.find_recipe(name).judged_by, counted)
    seconds = {"pretrain": pretrained.seconds, "finetune": finetuned.seconds, "evaluate": time.monotonic() - since}
    rates = {"teacher": measure_rate(teacher, TEACHER_STEPS, 250), "student": measure_rate(student, 1, IMAGES)}
    share, kids = finetuned.share, {name: evaluation.distances.kid for name, evaluation in evaluations.items()}
    floor = evaluations["student"].floor
    both = {name: evaluations[name] for name in ("teacher", "student")}
    summary = {
        "seed": seed,
        "images": IMAGES,
        "features": evaluations["student"].space,
        "kid": {**kids, "floor": floor.kid if floor else None},
        "recall": {name: evaluation.distances.recall for name, evaluation in both.items()},
        "precision": {name: evaluation.distances.precision for name, evaluation in both.items()},
        "diversity": {name: evaluation.diversity.pixel_deviation_within for name, evaluation in both.items()},
        **classify(digits, images),
        **count_up(seconds, rates, share),
    }
    logs = {name: list(read_log(out / name / "metrics.jsonl")) for name in both}
    page = draw_page(draw_pictures(digits, teacher, student), summary, list(evaluations.values()), logs)
    write_report(out, page, summary)
    log.info("Done in %.0f s. See %s", time.monotonic() - began, out / "report.html")
    return summary


def habits(recipe: str, evaluations: int, device: str) -> Habits:
    """Return how often one of the two runs is evaluated, and what it draws."""
    every = recipes.find_recipe(recipe).duration // evaluations
    return Habits(evaluate_every=every, evaluate_images=IMAGES // 4, sample_seeds=SHOWN, device=device)


def evaluate_generators(
    digits: Images, teacher: Denoiser, student: Denoiser, judged_by: tuple[str, ...], counted: Counted
) -> tuple[dict[str, Evaluation], dict[str, np.ndarray]]:
    """Compare the teacher in many calls and in one, and the student, from the same seeds; return their images, too."""
    evaluator = Evaluator(digits, images=IMAGES, reference_images=IMAGES, judged_by=judged_by, counted=counted)
    evaluations, images = {}, {}
    for key, name, denoiser, steps in (
        ("teacher", f"teacher, {CALLS} calls", teacher, TEACHER_STEPS),
        ("untuned", "teacher, 1 call", teacher, 1),
        ("student", "D2O-F student, 1 call", student, 1),
    ):
        stream = generate_images(denoiser, evaluator.seeds, steps=steps, batch_size=250, name=name)
        sample = evaluator.measure(stream, keep_pixels=True)
        evaluations[key], images[key] = evaluator(sample), sample.pixels
    return evaluations, images


def classify(digits: Images, images: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return how often a generator's image shows the digit asked for, and the share of the student's rarest digit."""
    read, asked = make_classifier(digits), np.arange(IMAGES) % digits.num_classes
    found = {name: read(images[name]) for name in ("teacher", "student")}
    counts = np.bincount(found["student"], minlength=digits.num_classes)
    accuracy = {name: float((classes == asked).mean()) for name, classes in found.items()}
    return {"class_share_min": float(counts.min() / IMAGES), "class_accuracy": accuracy}


def make_classifier(digits: Images) -> Callable[[np.ndarray], np.ndarray]:
    """Return a classifier of 8x8 digits, trained on the real ones: uint8 [N,8,8,1] -> classes [N]."""
    from sklearn.neighbors import KNeighborsClassifier

    def flatten(pixels: np.ndarray) -> np.ndarray:
        return pixels.reshape(len(pixels), -1) / 255.0

    classifier = KNeighborsClassifier(n_neighbors=3).fit(flatten(digits.pixels(range(len(digits)))), digits.labels)
    return lambda pixels: classifier.predict(flatten(pixels))


def draw_pictures(digits: Images, teacher: Denoiser, student: Denoiser) -> list[Picture]:
    """Return the four pictures of the report, one column a digit, the generators' from the same seeds."""
    assert digits.labels is not None
    of_class = [np.flatnonzero(digits.labels == k) for k in range(digits.num_classes)]
    real = digits.pixels([of_class[seed % digits.num_classes][seed // digits.num_classes] for seed in SHOWN])

    def draw(denoiser: Denoiser, steps: int) -> np.ndarray:
        return to_uint8(torch.cat(list(generate(denoiser, SHOWN, steps=steps))))

    many, one = draw(teacher, TEACHER_STEPS), draw(teacher, 1)
    return [
        Picture("Real digits", "from the training set", real),
        Picture(f"Teacher, {CALLS} calls", "the diffusion model as it was meant to be used", many),
        Picture("Teacher, 1 call", "the same weights without fine-tuning: one call gives a blur", one),
        Picture("D2O-F student, 1 call", "fine-tuned with a GAN loss alone, same seeds", draw(student, 1)),
    ]
