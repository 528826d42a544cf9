"""What a run will take, from a few of its own steps: so that nobody starts one that cannot finish."""

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from d2o.checkpoints import load
from d2o.diffusion.denoiser import Denoiser
from d2o.training.memory import (
    GIB,
    at_once,
    available,
    bytes_an_image,
    largest,
    modules,
    moving_bytes,
    remedy,
    remembered_bytes,
)
from d2o.training.networks import networks, share
from d2o.training.recipe import Recipe
from d2o.training.recipes import DATA
from d2o.training.rehearsal import noise_stream, teacher, with_random_weights
from d2o.training.run import FEATURES_ON_DISK
from d2o.training.speed import emulation, faster_precision

from .steps import Steps

FIRST, SECONDS, REPEATS = 2, 20.0, 5
"""Images of the first step that is tried, how long trying takes at most (but for a step), steps of the last size."""


@dataclass(frozen=True)
class Estimate:
    """What a run takes on this machine, with one process; `tried` is the size of the batch that was measured.

    Memory and disk count what is remembered of real images as if the run saw none of them twice: that is the most, and
    limited. `micro_batch` is the largest that fits into the free memory; 0 if none does.
    """

    images_per_second: float
    hours: float
    memory_gib: float
    memory_free_gib: float | None
    disk_gib: float
    disk_free_gib: float
    tried: int
    micro_batch: int
    frozen_share: float
    parameters: int

    def sentences(self, recipe: Recipe) -> list[str]:
        """Return what people want to know, a line each."""
        days = f" ({self.hours / 24:,.0f} days)" if self.hours > 48 else ""
        free = "unknown" if self.memory_free_gib is None else f"{self.memory_free_gib:.1f} GiB"
        lines = [
            f"{self.images_per_second:,.1f} images/s, measured at batches of {self.tried}",
            f"{recipe.duration:,} images: {self.hours:,.2f} hours{days}",
            f"memory: about {self.memory_gib:.1f} GiB; free: {free}",
            f"disk: about {self.disk_gib:.2f} GiB; free: {self.disk_free_gib:.1f} GiB",
            f"{self.parameters:,} parameters, {self.frozen_share:.1%} of them frozen",
        ]
        if self.memory_free_gib is not None and self.memory_gib > self.memory_free_gib:
            lines.append(f"This does not fit into memory: {remedy(recipe, self.micro_batch)}.")
        if self.disk_gib > self.disk_free_gib:
            lines.append("This does not fit on the disk.")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers, for JSON."""
        return asdict(self)


def estimate(
    name: str,
    recipe: Recipe,
    model: str | None = None,
    folder: str | Path = ".",
    choose_precision: bool = False,
    say: Callable[[str], Any] = lambda _: None,
) -> Estimate:
    """Return what a recipe takes here, starting from a model, or from random weights of the size it is made for."""
    if model is None and not name.startswith((*DATA, "dit-")):
        raise ValueError(f"The recipe {name} is for networks of any size: name one with --from MODEL.")
    start = load(model) if model is not None else teacher(name, recipe)
    recipe = with_random_weights(recipe)
    if choose_precision:
        recipe = replace(recipe, precision=faster_precision(start, torch.device("cpu")))
        say(f"{name}: {recipe.precision} is the faster here")
    elif slow := emulation(recipe.precision, torch.device("cpu")):
        say(f"{name}: {slow}")
    made = networks(recipe, start)
    size = at_once(recipe)
    if (remember := getattr(made.discriminator, "remember_on_disk", None)) is not None:
        remember(folder, FEATURES_ON_DISK)
    remembered, on_disk = remembered_bytes(recipe, made, recipe.duration)
    each, always = bytes_an_image(recipe, made), weight_bytes(made) + remembered
    free = available(torch.device("cpu"))
    most = recipe.batch_size if free is None else max((free - always) // each, 0)
    if free is not None and most < FIRST:
        needed = (always + FIRST * each) / GIB
        raise ValueError(
            f"The recipe {name} needs about {needed:.1f} GiB for {FIRST} images, and {free / GIB:.1f} GiB are free: "
            f"{remedy(recipe, 0)}."
        )
    frozen = share(made)
    del made, remember
    rate, tried = measure(recipe, start, size, limit=most)
    disk = shutil.disk_usage(folder)
    return Estimate(
        images_per_second=rate,
        hours=recipe.duration / rate / 3600,
        memory_gib=(always + size * each) / GIB,
        memory_free_gib=None if free is None else free / GIB,
        disk_gib=(disk_bytes(recipe, start) + on_disk) / GIB,
        disk_free_gib=disk.free / GIB,
        tried=tried,
        micro_batch=largest(recipe.batch_size, most),
        frozen_share=frozen.frozen / frozen.total,
        parameters=frozen.total,
    )


def measure(recipe: Recipe, start: Denoiser, size: int, limit: int) -> tuple[float, int]:
    """Return images a second, and the batch at which they were measured: the largest that was quickly tried."""
    count, end = min(FIRST, size), time.monotonic() + SECONDS
    while True:
        steps = Steps(replace(recipe, batch_size=count, micro_batch_size=None), start, noise_stream(start, count))
        steps.step()
        taken = [sum(steps.step().values())]
        following = min(4 * count, size, limit)
        # The next one takes about as much longer as it is larger, twice, and its networks are built anew.
        if following <= count or time.monotonic() + 2 * taken[0] * following / count > end:
            while len(taken) < REPEATS and time.monotonic() + taken[0] < end:
                taken.append(sum(steps.step().values()))
            return count / median(taken), count
        del steps  # two sets of networks need not fit at once
        count = following


def weight_bytes(made: Any) -> int:
    """Return the bytes of all networks, with the gradients and Adam's moments of what moves."""
    return sum(p.nbytes for module in modules(made) for p in module.parameters()) + moving_bytes(made)


def disk_bytes(recipe: Recipe, start: Denoiser) -> int:
    """Return the bytes of a finished run's directory: its checkpoint, being replaced, and the models."""
    made = networks(recipe, start)
    student = sum(p.nbytes for p in made.student.parameters())
    moving = sum(p.nbytes for p in made.student.parameters() if p.requires_grad)
    critic: Any = made.discriminator
    state = getattr(critic, "run_state", getattr(critic, "state_dict", dict))() if critic is not None else {}
    heads = sum(p.nbytes for p in critic.parameters() if p.requires_grad) if critic is not None else 0
    checkpoint = 2 * student + 2 * moving + sum(t.nbytes for t in state.values()) + 2 * heads
    return 2 * checkpoint + 3 * student
