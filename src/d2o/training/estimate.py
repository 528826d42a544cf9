"""What a run will take on this machine, from a few iterations of its own on random images and weights."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from d2o.checkpoints import load
from d2o.diffusion.denoiser import Denoiser

from .freezing import count_frozen
from .loop import Progress, group, train, turns
from .memory import free_memory, peak_memory
from .networks import networks
from .presets import noise_batches, randomise_weights, untrained_teacher
from .recipe import Recipe
from .run import FEATURES_ON_DISK
from .speed import settle_precision

GIB = 1 << 30
FIRST, SECONDS, REPEATS = 2, 20.0, 5
"""Images of the first trial, how long all trials may take (but for an iteration), iterations of each."""


@dataclass(frozen=True)
class Estimate:
    """What a run takes in one process; `tried` is the batch that was measured, `micro_batch` the largest that fits.

    Memory and disk include cached features of real images as if each image came once: that is the most.
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


class Trial(NamedTuple):
    """A few iterations: their batch, the seconds of one, where the run stands, and bytes of memory.

    `floor` is what the process needs at batches of no images; `peak` is the most that it used so far.
    """

    batch: int
    seconds: float
    progress: Progress
    floor: int
    peak: int


def estimate(
    name: str, recipe: Recipe, model: str | None = None, folder: str | Path = ".", automatic: bool = False
) -> Estimate:
    """Return what a recipe takes here, starting from a model, or from random weights of the size it is made for.

    `automatic` takes the precision that trains faster.
    """
    recipe, device = randomise_weights(recipe), group().device
    start = untrained_teacher(name, recipe) if model is None else load(model)
    recipe = settle_precision(recipe, start, device, automatic, name)
    free, at_once = free_memory(device), min(recipe.micro_batch_size or recipe.batch_size, recipe.batch_size)
    before = peak_memory(device)
    trial, image = try_sizes(recipe, start, at_once)

    trained = trial.progress.networks
    caches = () if trained.discriminator is None else trained.discriminator.caches
    features = recipe.duration * sum(4 * prod(shape) for cache in caches for shape in cache.shapes)
    cached = min(features, sum(cache.memory for cache in caches))
    used = trial.peak - before + cached
    fitting = recipe.batch_size if free is None else trial.batch + (free - used) // image
    state = sum(tensor.nbytes for tensor in trial.progress.state()[0].values())
    student = sum(parameter.nbytes for parameter in trained.student.parameters())
    disk = 2 * state + 3 * student + min(features - cached, FEATURES_ON_DISK)  # two checkpoints, while one is replaced
    rate, share = trial.batch / trial.seconds, count_frozen(trained.student)
    return Estimate(
        images_per_second=rate,
        hours=recipe.duration / rate / 3600,
        memory_gib=(used + (at_once - trial.batch) * image) / GIB,
        memory_free_gib=None if free is None else free / GIB,
        disk_gib=disk / GIB,
        disk_free_gib=shutil.disk_usage(folder).free / GIB,
        tried=trial.batch,
        micro_batch=min(max(fitting, 0), recipe.batch_size),
        frozen_share=share.frozen / share.total,
        parameters=share.total,
    )


def try_sizes(recipe: Recipe, start: Denoiser, most: int) -> tuple[Trial, int]:
    """Try batches up to `most` while that is quick and fits; return the last trial and the bytes of one more image."""
    batch, end, floor = min(FIRST, most), time.monotonic() + SECONDS, None
    while True:
        trial = try_batch(replace(recipe, batch_size=batch, micro_batch_size=None), start, end)
        floor = trial.floor if floor is None else floor
        image = max((trial.peak - floor) // batch, 1)
        larger, free = min(4 * batch, most), free_memory(group().device)
        late = time.monotonic() + 3 * trial.seconds * larger / batch > end
        if larger == batch or late or (free is not None and larger * image > free):
            return trial, image
        batch = larger


def try_batch(recipe: Recipe, start: Denoiser, end: float) -> Trial:
    """Take iterations of a recipe until the time `end`, at most REPEATS; rare turns (R1) count in proportion."""
    device, batch = group().device, recipe.batch_size
    recipe = replace(recipe, duration=1_000_000 * batch)
    trained = networks(recipe, start)
    everything = [p for network in trained.by_name().values() for p in network.to(device).parameters()]
    gradients, free = 3 * sum(p.nbytes for p in everything if p.requires_grad), free_memory(device)
    if free is not None and gradients > free:
        raise ValueError(
            f"The gradients of this recipe and Adam's moments need {gradients / GIB:.1f} GiB, and {free / GIB:.1f} GiB "
            "are free: freeze more with --set frozen=..., or use smaller networks or another machine."
        )
    floor = peak_memory(device) + gradients
    time_iteration(train(recipe, trained, noise_batches(trained.student, batch)))  # warms up
    run = train(recipe, trained, noise_batches(trained.student, batch))
    first, progress = time_iteration(run)  # every turn is due in a run's first iteration
    usual = []
    while len(usual) < REPEATS and time.monotonic() + first < end:
        seconds, progress = time_iteration(run)
        usual.append(seconds)
    seconds = median(usual or [first])
    every = max(turn.every for turn in turns(recipe, trained))
    return Trial(batch, seconds + max(first - seconds, 0) / every, progress, floor, peak_memory(device))


def time_iteration(run: Iterator[Progress]) -> tuple[float, Progress]:
    began = time.perf_counter()
    progress = next(run)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, progress
