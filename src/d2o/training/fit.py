"""A training run from start to end, the same for the command line, scripts and notebooks: `finetune` and `pretrain`."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from d2o import backbones, checkpoints
from d2o.checkpoints.delta import weights_sha256
from d2o.checkpoints.places import locate
from d2o.data.datasets import Images, open_images
from d2o.diffusion.condition import Words
from d2o.diffusion.denoiser import Denoiser
from d2o.files import check_folder
from d2o.kernels.storage import settle
from d2o.metrics.counting import Counted, unshown

from . import networks as making
from . import recipes, tracking
from .loop import group
from .one_recipe import Make, Result, Watch, Ways, train_recipe
from .opening import Named, open_recipe
from .recipe import Recipe, Stages
from .run import Habits, Moment
from .stages import train_stages

TEACHER_STEPS = 18
"""Sampling steps of a diffusion model in grids and evaluations: EDM's, 35 calls of the network."""
LOG_SECONDS = 10
log = logging.getLogger("d2o")


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
    data: Images | str | Path | Any,
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

    Teacher, data and recipe are objects, paths or names, the teacher also a function that makes it; data are all that
    `d2o.images` opens, also a Dataset of torch. A list of recipes are stages, one after another, each in a directory of
    its own within `out`. `changes` are fields of the recipe, such as `duration=20_000`, and `precision="auto"` takes
    the one that trains faster here. A teacher by name or function is held no longer than needed. `origin` names in JSON
    what the run was made from, and is compared when it continues: by default the teacher's path, or the hash of its
    weights. `networks` may put a discriminator of one's own into the run; `watch` shows how training goes, and
    `counted` how evaluations do. With `accept_data` a run goes on with other images than it began with.

    Every process of a group (torchrun) calls this. Raises ValueError for what cannot work, before anything is written,
    and where memory does not suffice; Interrupted and Diverged as `run` does.
    """
    chosen, images = open_recipe(recipe, changes), open_data(data, out, habits)
    habits, out = habits or Habits(), Path(out)
    if isinstance(teacher, str | Path):
        origin = {"from": str(teacher)} if origin is None else origin
        teacher = partial(checkpoints.load, teacher)
    if not isinstance(teacher, Denoiser):  # nobody else has it, so that it may lie in memory as students do
        teacher = settle(teacher())
    if origin is None:
        origin = {"teacher_sha256": weights_sha256(teacher)}
    images = images.for_model(teacher.num_classes, teacher.class_names, text=teacher.reader is not None)
    teacher = images.attach(teacher)
    if isinstance(chosen, Recipe) and chosen.diffuses:
        habits = replace(habits, sample_steps=habits.sample_steps or TEACHER_STEPS)
        if isinstance(teacher.reader, Words) and images.captioned and not chosen.frozen:
            teacher = making.learn_words(teacher, read_words(images), chosen.seed)
    making.check_fit(teacher, images)
    automatic = changes.get("precision") == "auto"
    ways = Ways(dict(origin), habits, networks, watch, counted, accept_data, automatic, images, origin)
    start = [teacher]
    del teacher  # whoever makes the networks takes it, and lets go of it
    if isinstance(chosen, Recipe) and chosen.data is None:
        return train_recipe(start.pop, images, chosen, out, str(out), ways)
    return train_stages(start.pop(), images, chosen, out, ways)


def pretrain(
    data: Images | str | Path | Any,
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
            "This recipe starts from a model, but pre-training has none: use d2o finetune --from MODEL, or --recipe "
            "scratch for a GAN from random weights."
        )
    images = open_data(data, out, habits)
    start = new_teacher(chosen, images)
    options: Any = {"networks": networks, "watch": watch, "counted": counted, "precision": changes.get("precision")}
    return finetune(start, images, chosen, out=out, origin={}, habits=habits, accept_data=accept_data, **options)


def new_teacher(recipe: Recipe, images: Images) -> Denoiser:
    """Return the untrained denoiser of a recipe for pre-training, of the images' sizes, classes or words."""
    backbone = recipe.backbone or recipes.BACKBONES["small"]
    reader = read_words(images) if backbones.find_class(backbone["kind"]).reads_words else None
    made = making.new_denoiser(
        backbone,
        images.shape,
        images.num_classes,
        family=recipe.family,
        augmentation=recipe.augments,
        seed=recipe.seed,
        reader=reader,
    )
    if reader is None and images.classes != tuple(map(str, range(images.num_classes))):
        made = made.replace(class_names=images.classes)
    return made


def open_data(data: Images | str | Path | Any, out: str | Path, habits: Habits | None) -> Images:
    """Return the images, after a trial whether the run can write its directory and send its log."""
    if habits is not None and habits.track is not None:
        tracking.check_service(habits.track)
    if group("auto" if habits is None else habits.device).is_main_process:
        check_folder(out)
    if isinstance(data, Images):
        return data
    return open_images(locate(data, "data").path if isinstance(data, str | Path) else data)


def read_words(images: Images) -> Words:
    """Return the reader of all words that captions of these images have."""
    if not images.captioned:
        raise ValueError(f"{images.name} has no captions for a network conditioned on captions: use another recipe.")
    return Words.of(caption for index in range(len(images)) for caption in images.captions(index))
