"""A training run from start to end, the same for the command line, scripts and notebooks: `finetune` and `pretrain`."""

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from d2o import backbones, checkpoints
from d2o.checkpoints import native
from d2o.checkpoints.delta import weights_sha256
from d2o.checkpoints.places import locate
from d2o.data.datasets import Images, open_images
from d2o.diffusion.condition import Words
from d2o.diffusion.denoiser import Denoiser
from d2o.errors import is_out_of_memory
from d2o.files import check_folder
from d2o.metrics.counting import Counted, unshown
from d2o.metrics.evaluation import Evaluation, Evaluator
from d2o.metrics.spaces import overlap
from d2o.objectives.objective import Networks

from . import networks as making
from . import recipes, tracking
from .base import find_base
from .freezing import Share, count_frozen, settle_frozen
from .loop import group
from .opening import Named, open_recipe
from .recipe import Recipe, Stages
from .run import Evaluate, Habits, Moment, run
from .run_directory import CHECKPOINT
from .sharding import check_sharding
from .speed import compile_network, settle_precision

TEACHER_STEPS = 18
"""Sampling steps of a diffusion model in grids and evaluations: EDM's, 35 calls of the network."""
LOG_SECONDS = 10
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


def print_progress(moments: Iterable[Moment], duration: int, title: str) -> None:
    """Follow a run to its end, and print a line every ten seconds."""
    printed = time.monotonic()
    for moment in moments:
        if time.monotonic() - printed > LOG_SECONDS or moment.progress.images >= duration:
            with suppress(OSError):  # a reader that has left ends no run
                print(f"{title}: {moment.status(duration)}", file=sys.stderr, flush=True)
            printed = time.monotonic()


def finetune(
    teacher: Denoiser | str | Path | Callable[[], Denoiser],
    data: Images | str | Path,
    recipe: Named = "d2o-f",
    *,
    out: str | Path,
    origin: Mapping[str, Any] | None = None,
    habits: Habits | None = None,
    networks: Make = making.networks,
    watch: Watch = print_progress,
    counted: Counted = unshown,
    accept_data: bool = False,
    **changes: Any,
) -> Result:
    """Train a model by a recipe in the directory `out`, or continue there, to the end.

    Teacher, data and recipe are objects, paths or names, the teacher also a function that makes it; a list of recipes
    are stages, one after another, each in a directory of its own within `out`. `changes` are fields of the recipe, such
    as `duration=20_000`, and `precision="auto"` takes the one that trains faster here. A teacher by name or function is
    held no longer than needed. `origin` names in JSON what the run was made from, and is compared when it continues: by
    default the teacher's path, or the hash of its weights. `networks` may put a discriminator of one's own into the
    run; `watch` shows how training goes, and `counted` how evaluations do. With `accept_data` a run goes on with other
    images than it began with.

    Every process of a group (torchrun) calls this. Raises ValueError for what cannot work, before anything is written,
    and where memory does not suffice; Interrupted and Diverged as `run` does.
    """
    chosen, images = open_recipe(recipe, changes), open_data(data, out, habits)
    habits, out = habits or Habits(), Path(out)
    if isinstance(teacher, str | Path):
        origin = {"from": str(teacher)} if origin is None else origin
        teacher = partial(checkpoints.load, teacher)
    if not isinstance(teacher, Denoiser):  # nobody else has it, so that it may lie in memory as students do
        teacher = teacher().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if origin is None:
        origin = {"teacher_sha256": weights_sha256(teacher)}
    images = images.for_model(teacher.num_classes, teacher.class_names, text=teacher.reader is not None)
    teacher = images.attach(teacher)
    making.check_fit(teacher, images)
    automatic = changes.get("precision") == "auto"
    ways = Ways(dict(origin), habits, networks, watch, counted, accept_data, automatic, images, origin)
    start = [teacher]
    del teacher  # whoever makes the networks takes it, and lets go of it
    if isinstance(chosen, Recipe) and chosen.data is None:
        return train_recipe(start.pop, images, chosen, out, str(out), ways)
    from .stages import train_stages

    return train_stages(start.pop(), images, chosen, out, ways)


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


def pretrain(
    data: Images | str | Path,
    recipe: Named = "pretrain",
    *,
    out: str | Path,
    habits: Habits | None = None,
    networks: Make = making.networks,
    watch: Watch = print_progress,
    counted: Counted = unshown,
    accept_data: bool = False,
    **changes: Any,
) -> Result:
    """Train a diffusion model on images, as `finetune` does, from random weights.

    Its network is the recipe's `backbone`, which is also a name such as "small", or small; its `family` is also a name,
    "edm" or "flow". Raises ValueError for a recipe that starts from a model.
    """
    if isinstance(name := changes.get("backbone"), str):
        changes["backbone"] = recipes.find_backbone(name)
    if isinstance(name := changes.get("family"), str):
        changes["family"] = recipes.find_family(name)
    chosen = open_recipe(recipe, changes)
    if isinstance(chosen, Stages) or chosen.data or chosen.pretrained or "teacher" in chosen.needs:
        raise ValueError(
            "This recipe starts from a model, and pretraining has none: use d2o finetune --from MODEL, or --recipe "
            "scratch for a GAN from random weights."
        )
    images, habits = open_data(data, out, habits), habits or Habits()
    backbone = chosen.backbone or recipes.BACKBONES["small"]
    reader = read_words(images) if backbones.find_class(backbone["kind"]).reads_words else None
    start = making.new_denoiser(
        backbone,
        images.shape,
        images.num_classes,
        family=chosen.family,
        augmentation=chosen.augments,
        seed=chosen.seed,
        reader=reader,
    )
    if reader is None and images.classes != tuple(map(str, range(images.num_classes))):
        start = start.replace(class_names=images.classes)
    habits = replace(habits, sample_steps=habits.sample_steps or TEACHER_STEPS)
    options: Any = {"networks": networks, "watch": watch, "counted": counted, "precision": changes.get("precision")}
    return finetune(start, images, chosen, out=out, origin={}, habits=habits, accept_data=accept_data, **options)


def open_data(data: Images | str | Path, out: str | Path, habits: Habits | None) -> Images:
    """Return the images, after a trial whether the run can write its directory and send its log."""
    if habits is not None and habits.track is not None:
        tracking.check_service(habits.track)
    if group("auto" if habits is None else habits.device).is_main_process:
        check_folder(out)
    return data if isinstance(data, Images) else open_images(locate(data, "data").path)


def make_evaluate(images: Images, recipe: Recipe, habits: Habits, counted: Counted, device: torch.device) -> Evaluate:
    evaluator = Evaluator(
        images,
        features=habits.evaluate_features,
        images=min(habits.evaluate_images, len(images)),
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
            f"The memory does not suffice for {micro_batch} images at once: try --micro-batch "
            f"{max(micro_batch // 2, 1)}; the batch stays {recipe.batch_size}, its gradients are accumulated."
        ) from error


def read_words(images: Images) -> Words:
    """Return the reader of all words that captions of these images have."""
    if not images.captioned:
        raise ValueError(f"{images.name} has no captions for a network that is asked in words: take another recipe.")
    return Words.of(caption for index in range(len(images)) for caption in images.captions(index))
