"""The part of benchmarks/gpu.py that trains in earnest: a diffusion model, its student, and how far both are."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from gpu_tools import LITE0, Row, Setting, attempt, time_training

from d2o.data.datasets import Images, open_images
from d2o.diffusion.denoiser import Denoiser
from d2o.discriminators import Projected
from d2o.metrics.evaluation import Evaluator
from d2o.training import recipes
from d2o.training.fit import TEACHER_STEPS, finetune, pretrain
from d2o.training.networks import networks, new_denoiser
from d2o.training.recipe import Recipe
from d2o.training.run import Habits


def run(setting: Setting) -> Iterator[Row]:
    """Pre-training and D2O-F of a middling network in the time that is left, with KID in lite2."""
    side, count = setting.size(32, 8), setting.size(2000, 40)
    options: dict[str, Any] = {} if setting.data else {"labels": "none", "captions": "none"}
    if setting.rehearse or setting.data is None:
        options |= {"resolution": side, "resize": "bilinear"}
    images = open_images(setting.data or "shapes", **options)
    yield {"what": f"data: {images.name} at {images.shape[1]}x{images.shape[2]}", "images": len(images)}
    first, second = plan_run(setting, side)
    start = new_denoiser(first.backbone or {}, images.shape, images.num_classes)
    habits = Habits(device=setting.device.type, sample_seeds=range(setting.size(64, 4)))
    with tempfile.TemporaryDirectory() as folder:
        rest = setting.left - 35  # which evaluations and trials take
        recipe = fit_in(setting, first, start, 0.55 * rest)
        taught = pretrain(images, recipe, out=f"{folder}/teacher", habits=habits, watch=follow)
        yield {"what": "pre-training", "images": taught.images, "seconds": taught.seconds}
        recipe = fit_in(setting, second, taught.denoiser, 0.45 * rest)
        options = {"out": f"{folder}/student", "origin": {}, "habits": habits, "watch": follow}
        tuned = finetune(taught.denoiser, images, recipe, **options)
        yield {"what": "D2O-F", "images": tuned.images, "seconds": tuned.seconds}
        yield from evaluate(setting, images, taught.denoiser, tuned.denoiser, count)


def plan_run(setting: Setting, side: int) -> tuple[Recipe, Recipe]:
    """Return the recipes of pre-training and D2O-F, but for their durations."""
    size = {"channels": setting.size(64, 8), "num_blocks": setting.size(2, 1), "attention_resolutions": [side // 2]}
    batch, half = setting.size(256, 8), setting.size(128, 8)
    precision: dict[str, Any] = {"precision": "bfloat16", "tf32": True}
    first = replace(
        recipes.PRETRAIN,
        backbone={**recipes.BACKBONES["ddpmpp-32"], **size, "dropout": 0.0},
        batch_size=batch,
        learning_rate=1e-3,
        learning_rate_ramp=10 * batch,
        **precision,
    )
    judge = Projected(networks=(LITE0,), size=setting.size(96, 32), width=setting.size(128, 16))
    small = {**recipes.SMALL, "batch_size": half, "discriminator": judge}
    return first, replace(recipes.D2O_F, **small, **precision)


def follow(moments: Iterable[Any], *_: Any) -> None:
    for _ in moments:
        pass


def fit_in(setting: Setting, recipe: Recipe, start: Denoiser, seconds: float) -> Recipe:
    """Return the recipe with as many images as it sees in so many seconds, by a short trial."""
    if setting.rehearse:
        return replace(recipe, duration=4 * recipe.batch_size)
    trial = replace(recipe, duration=10**9)
    made = networks(trial, start)
    rate = time_training(setting, trial, made, 2.0)["images_per_second"]
    iterations = max(int(0.8 * seconds * rate / recipe.batch_size), 20)
    return replace(recipe, duration=iterations * recipe.batch_size)


def evaluate(setting: Setting, images: Images, teacher: Denoiser, student: Denoiser, count: int) -> Iterator[Row]:
    rows = (("teacher", teacher, TEACHER_STEPS), ("teacher", teacher, 1), ("student", student, 1))
    size = setting.size(500, 20)
    evaluator = Evaluator(images, images=count, reference_images=count, batch_size=size, device=setting.device)
    for name, denoiser, steps in rows:
        row = {"what": f"{name}, {2 * steps - 1} calls"}
        denoiser.to(setting.device)
        yield attempt(setting, row, lambda d=denoiser, s=steps: {"kid": evaluator(d, steps=s).distances.kid})
