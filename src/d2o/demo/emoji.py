"""The demo of emoji: a diffusion model that draws emoji from words becomes a one-step generator of them."""

import logging
import time
from pathlib import Path
from typing import Any

import torch

from d2o.data.datasets import Images, open_images
from d2o.data.emoji import read_pictures
from d2o.data.files import to_uint8
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.sampling import generate
from d2o.features.embedding import embedding
from d2o.files import check_folder
from d2o.metrics.counting import Counted, unshown
from d2o.metrics.distances import distances
from d2o.metrics.diversity import PixelSums
from d2o.metrics.retrieval import retrieval
from d2o.metrics.statistics import features_of
from d2o.training.fit import TEACHER_STEPS, Watch, finetune, print_progress
from d2o.training.run import Habits
from d2o.training.run_directory import read_log

from .emoji_page import draw_page
from .report import Row, count_up, draw_prompts, measure_rate, open_teacher, use_few_threads, write_report

DATA, RECIPE, STYLE = "emoji-smileys", "emoji-relativistic", "noto"
TEACHER = "emoji-teacher"
CALLS = 2 * TEACHER_STEPS - 1
DURATION, EACH = 10_000, 2
"""Images that are trained on, and those of every emoji that are measured."""
SEEDS = range(3)
SHOWN = (
    *("grinning face", "smiling face with sunglasses", "loudly crying face", "enraged face", "cowboy hat face"),
    *("smiling cat with heart eyes", "alien", "ghost", "red heart", "blue heart", "broken heart", "collision"),
)
"""What the pictures show."""
log = logging.getLogger("d2o")


def demo(
    out: str | Path,
    seed: int = 0,
    watch: Watch = print_progress,
    counted: Counted = unshown,
    start: str | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Run the demo in a directory (again: continue it) and return the content of its report.json.

    The teacher is the one that comes with d2o, or that at `start`; one that does not draw emoji is a ValueError.
    """
    use_few_threads()
    began, out, images = time.monotonic(), check_folder(out), open_images(DATA)
    teacher = open_teacher(start or TEACHER, images, [f"{STYLE} {text}" for text in SHOWN], TEACHER)

    log.info("1/2  Turning %s into a one-step generator with a GAN loss, most weights frozen (D2O-F)", start or TEACHER)
    ways: dict[str, Any] = {"habits": Habits(sample_every=DURATION // 4, device=device), "watch": watch}
    finetuned = finetune(teacher, images, RECIPE, out=out / "student", seed=seed, duration=DURATION, **ways)
    student, share = finetuned.denoiser, finetuned.share

    log.info("2/2  Checking whether the images match the prompts")
    since = time.monotonic()
    measured = measure(images, teacher, student, counted)
    rates = {"teacher": measure_rate(teacher, TEACHER_STEPS, 50), "student": measure_rate(student, 1, 1000)}
    seconds = {"finetune": finetuned.seconds, "evaluate": time.monotonic() - since}
    summary = {
        "seed": seed,
        "from": start or TEACHER,
        "images": EACH * len(images),
        "real_images": len(images),
        "features": "lite2",
        **measured,
        **count_up(seconds, rates, share),
    }
    logs = {"student": list(read_log(out / "student" / "metrics.jsonl"))}
    write_report(out, draw_page(SHOWN, draw_rows(images, teacher, student), summary, logs), summary)
    log.info("Done in %.0f s. Look at %s", time.monotonic() - began, out / "report.html")
    return summary


def names_of(images: Images) -> list[str]:
    """Return the name of the emoji that each image shows."""
    known, names = read_pictures(), images.cache.decode.source.names
    return [known[str(names[number])].name for number in images.order]


def measure(images: Images, teacher: Denoiser, student: Denoiser, counted: Counted) -> dict[str, dict[str, Any]]:
    """Return prompt retrieval, distances and deviations of teacher and student, the same seeds and prompts for each."""
    lite2, names, pixels = embedding("lite2"), names_of(images), images.pixels(range(len(images)))
    real, asked = lite2(pixels).numpy(), EACH * names
    found: dict[str, dict[str, Any]] = {"retrieval": {}, "kid": {}, "precision": {}, "recall": {}, "diversity": {}}
    for name, title, denoiser, steps in (
        ("teacher", f"teacher, {CALLS} calls", teacher, TEACHER_STEPS),
        ("untuned", "teacher, 1 call", teacher, 1),
        ("student", "D2O-F student, 1 call", student, 1),
    ):
        told = [f"{STYLE} {text}" for text in asked]
        batches = generate(denoiser, range(len(told)), steps=steps, condition=told, batch_size=50)
        made = to_uint8(torch.cat(list(counted(batches, len(told), title))), "The generator")
        sample, sums = lite2(made).numpy(), PixelSums()
        sums.add(made)
        near = distances(features_of(sample, "lite2"), features_of(real, "lite2"))
        found["retrieval"][name] = retrieval(sample, asked, real, names)
        found["kid"][name], found["precision"][name], found["recall"][name] = near.kid, near.precision, near.recall
        found["diversity"][name] = sums.deviation()
    return found


def draw_rows(images: Images, teacher: Denoiser, student: Denoiser) -> list[Row]:
    """Return the rows of pictures, one column an emoji, the generators' from the same seeds."""
    names = names_of(images)
    real = images.pixels([names.index(name) for name in SHOWN])
    told = [f"{STYLE} {name}" for name in SHOWN]
    return [
        Row("Real", "one of each", real[:, None]),
        Row("Teacher", f"{CALLS} calls", draw_prompts(teacher, told, SEEDS, TEACHER_STEPS)),
        Row("Teacher", "1 call", draw_prompts(teacher, told, SEEDS, 1)),
        Row("D2O-F student", "1 call", draw_prompts(student, told, SEEDS, 1)),
    ]
