"""The demo of words: a diffusion model that is asked for coloured shapes becomes a one-step generator of them."""

import logging
import time
from pathlib import Path
from typing import Any

from d2o.data.datasets import open_images
from d2o.data.shapes import MEANINGS, WORDINGS, Meaning
from d2o.diffusion.denoiser import Denoiser
from d2o.files import check_folder
from d2o.metrics import shapes as metric
from d2o.metrics.counting import Counted, unshown
from d2o.training import recipes
from d2o.training.fit import Watch, finetune, pretrain, print_progress
from d2o.training.run import Habits
from d2o.training.run_directory import read_log

from .report import Row, count_up, draw_prompts, measure_rate, open_teacher, use_few_threads, write_report
from .shapes_page import draw_page

CALLS = 4
"""The teacher's, by Euler's sampler: more of them show what was asked for no more often."""
TRIED = (1, 2, CALLS, 8)
IMAGES = 5
"""Of each meaning, that are scored."""
SPLITS = {"seen": "train", "held_out": "test"}
SEEDS = range(4)
SHOWN = tuple(
    Meaning(*words.split())
    for words in (
        *("large red circle left", "small blue square top", "large yellow triangle middle", "small white circle right"),
        *("small purple triangle left", "large green square top"),
        *("large purple square bottom", "small green triangle left"),  # held out
    )
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

    The model at `start` takes the place of pre-training; one that cannot be asked for shapes is a ValueError.
    """
    use_few_threads()
    asked = [meaning.caption(wording) for meaning in MEANINGS for wording in range(len(WORDINGS))]
    began, out, images = time.monotonic(), check_folder(out), open_images("shapes")
    given = None if start is None else open_teacher(start, images, asked, "shapes-teacher")
    common: dict[str, Any] = {"watch": watch, "seed": seed}

    seconds = {"pretrain": 0.0}
    if given is None:
        log.info("1/3  Pre-training a diffusion model on drawn shapes and their captions")
        name = "shapes-pretrain"
        pretrained = pretrain(images, name, out=out / "teacher", habits=habits(name, CALLS, device), **common)
        given, seconds["pretrain"] = pretrained.denoiser, pretrained.seconds
    else:
        log.info("1/3  Pre-training is skipped: the teacher is %s", start)
    teacher, name = given, "shapes-d2o-f"

    log.info("2/3  Turning it into a one-step generator with a GAN loss, most of its weights frozen (D2O-F)")
    finetuned = finetune(teacher, images, name, out=out / "student", habits=habits(name, 1, device), **common)
    student, share = finetuned.denoiser, finetuned.share

    log.info("3/3  Checking whether their images match their captions")
    since = time.monotonic()
    tried = {split: [ask(teacher, split, calls, counted) for calls in TRIED] for split in SPLITS}
    scores = {
        split: {
            "teacher": rows[TRIED.index(CALLS)],
            "untuned": rows[TRIED.index(1)],
            "student": ask(student, split, 1, counted),
        }
        for split, rows in tried.items()
    }
    rates = {"teacher": measure_rate(teacher, CALLS, 250, "euler"), "student": measure_rate(student, 1, 1000)}
    seconds |= {"finetune": finetuned.seconds, "evaluate": time.monotonic() - since}
    summary = {
        "seed": seed,
        "from": start,
        "images": IMAGES * len(MEANINGS),
        **scores,
        "teacher_by_calls": tried,
        **count_up(seconds, rates, share),
    }
    folders = ("teacher", "student") if start is None else ("student",)
    logs = {name: list(read_log(out / name / "metrics.jsonl")) for name in folders}
    write_report(out, draw_page(SHOWN, draw_rows(teacher, student), summary, logs), summary)
    log.info("Done in %.0f s. See %s", time.monotonic() - began, out / "report.html")
    return summary


def habits(recipe: str, calls: int, device: str) -> Habits:
    return Habits(sample_every=recipes.find_recipe(recipe).duration // 4, sample_steps=calls, device=device)


def ask(denoiser: Denoiser, split: str, calls: int, counted: Counted) -> dict[str, float]:
    """Return how often a generator shows what is asked for, and its calls."""
    title = f"{split.replace('_', ' ')} captions, {calls} {'call' if calls == 1 else 'calls'}"
    made = metric.ask(denoiser, SPLITS[split], steps=calls, images=IMAGES, title=title, counted=counted)
    return {**metric.score(*made)._asdict(), "calls": calls}


def draw_rows(teacher: Denoiser, student: Denoiser) -> list[Row]:
    """Return the three rows of pictures, one column a caption, from the same seeds."""
    told = [meaning.caption() for meaning in SHOWN]
    return [
        Row("Teacher", f"{CALLS} calls", draw_prompts(teacher, told, SEEDS, CALLS, "euler")),
        Row("Teacher", "1 call", draw_prompts(teacher, told, SEEDS, 1, "euler")),
        Row("D2O-F student", "1 call", draw_prompts(student, told, SEEDS, 1, "euler")),
    ]
