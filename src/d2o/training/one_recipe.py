"""A run by one recipe, from the model that it starts from to what it has come to, in a directory of its own."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from d2o import checkpoints
from d2o.checkpoints import native
from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import is_out_of_memory
from d2o.metrics.counting import Counted
from d2o.metrics.evaluation import Evaluation, Evaluator
from d2o.metrics.spaces import overlap
from d2o.objectives.objective import Networks

from . import tracking
from .base import find_base
from .freezing import Share, count_frozen, settle_frozen
from .loop import group
from .recipe import Recipe
from .run import Evaluate, Habits, Moment, run
from .run_directory import CHECKPOINT
from .sharding import check_sharding
from .speed import compile_network, settle_precision

log = logging.getLogger("d2o")

Make = Callable[[Recipe, Denoiser], Networks]
"""Makes the networks of a run from its recipe and the model that it starts from."""
Watch = Callable[[Iterable[Moment], int, str], Any]
"""Follows a run to its end: its moments, the images that it will have seen by then, and its title."""


@dataclass(frozen=True)
class Result:
    """What a run has come to: the averaged student, its frozen share, images seen, seconds, newest evaluation."""

    directory: Path
    denoiser: Denoiser
    images: int
    share: Share
    seconds: float
    evaluation: dict[str, Any] | None


@dataclass(frozen=True)
class Ways:
    """What `finetune` was asked for besides model and recipe.

    Students are compared with the `reference`; `base` names, as the origin does, the model that a run starts from.
    """

    origin: dict[str, Any]
    habits: Habits
    networks: Make
    watch: Watch
    counted: Counted
    accept_data: bool
    automatic: bool
    reference: Images
    base: Mapping[str, Any]


def train_recipe(
    make_start: Callable[[], Denoiser], images: Images, recipe: Recipe, out: Path, title: str, ways: Ways
) -> Result:
    """Train by one recipe in a directory of its own."""
    start = make_start()
    habits, accelerator = ways.habits, group(ways.habits.device)
    micro_batch = min(recipe.micro_batch_size or recipe.batch_size, recipe.batch_size // accelerator.num_processes)
    recipe = replace(recipe, frozen=settle_frozen(recipe.frozen, start))
    recipe = settle_precision(recipe, start, accelerator.device, ways.automatic, title, micro_batch, out)
    trained = ways.networks(recipe, start)
    if habits.shard:
        check_sharding(trained.student, accelerator.num_processes)
    base, share = find_base(ways.base, start, trained.student), count_frozen(trained.student)
    del start
    log.info("%s: %s, %s images of %s", title, share, f"{len(images):,}", images.name)
    with memory_remedy(recipe, micro_batch):
        if habits.compile:
            trained.student.to(accelerator.device)
            log.info("%s: compiling the network, which takes a minute or two", title)
            if obstacle := compile_network(trained.student, micro_batch):
                log.info("%s: %s", title, obstacle)
        evaluate = None
        if habits.evaluate_every is not None and accelerator.is_main_process:
            evaluate = make_evaluate(ways.reference, recipe, habits, ways.counted, accelerator.device)
        options: Any = {"habits": habits, "evaluate": evaluate, "accelerator": accelerator, "counted": ways.counted}
        options |= {"origin": ways.origin, "accept_data": ways.accept_data, "base": base}
        moments = run(out, recipe, trained, images, **options)
        if accelerator.is_main_process:
            moments = moments if habits.track is None else tracking.track(moments, out, habits.track)
            ways.watch(moments, recipe.duration, title)
        else:
            deque(moments, maxlen=0)
    last = native.read_header(out / CHECKPOINT)
    return Result(out, checkpoints.load(out), recipe.duration, share, last["seconds"], last["evaluation"])


def make_evaluate(images: Images, recipe: Recipe, habits: Habits, counted: Counted, device: torch.device) -> Evaluate:
    count = min(habits.evaluate_images, len(images))
    evaluator = Evaluator(
        images,
        features=habits.evaluate_features,
        images=count,
        reference_images=count,
        judged_by=recipe.judged_by,
        device=device,
        counted=counted,
    )
    for warning in overlap(evaluator.space, recipe.judged_by):
        log.info("%s", warning)
    return lambda denoiser: summarise(evaluator(denoiser, steps=habits.sample_steps or 1))


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    distances, diversity = evaluation.distances, evaluation.diversity
    return {
        "features": evaluation.space,
        "images_compared": distances.images,
        **{name: getattr(distances, name) for name in ("kid", "frechet", "precision", "recall")},
        **{name: getattr(diversity, name) for name in ("pixel_deviation", "pixel_deviation_within")},
    }


@contextmanager
def memory_remedy(recipe: Recipe, micro_batch: int) -> Iterator[None]:
    """Turn the system's refusal of more memory into a ValueError that names a smaller micro-batch."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(
            f"Out of memory with {micro_batch} images at once: try --micro-batch "
            f"{max(micro_batch // 2, 1)}; the batch stays {recipe.batch_size}, its gradients are accumulated."
        ) from error
