"""What a run will take on this machine, from a few iterations of its own on random images and weights."""

import ctypes
import gc
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from statistics import median

import torch

from d2o.diffusion.denoiser import Denoiser
from d2o.objectives.objective import Networks
from d2o.training.freezing import count_frozen
from d2o.training.loop import begin, group, train, turns
from d2o.training.memory import free_memory, peak_memory
from d2o.training.networks import networks
from d2o.training.optimizers import count_moments
from d2o.training.recipe import Recipe
from d2o.training.run import FEATURES_ON_DISK
from d2o.training.speed import settle_precision
from d2o.training.state import Progress, list_frozen

from .presets import noise_batches, randomise_weights, untrained_teacher

GIB = 1 << 30
FIRST, SECONDS, REPEATS = 2, 20.0, 5
"""Images of the first trial, how long all trials may take (but for an iteration), iterations of each."""


@dataclass(frozen=True)
class Estimate:
    """What a run takes here in one process; `tried` is the batch that was measured, `micro_batch` the largest to fit.

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


def estimate(
    name: str,
    recipe: Recipe,
    model: Denoiser | None = None,
    folder: str | Path = ".",
    automatic: bool = False,
    device: str = "auto",
    patience: float | None = None,
) -> Estimate:
    """Return what a recipe takes here, starting from a model, or from random weights of the size it is made for.

    Batches grow while that fits and is quick: `patience` is in seconds, by default SECONDS. `automatic` takes the
    precision that trains faster.
    """
    recipe, device = randomise_weights(recipe), group(device).device
    start = model or untrained_teacher(name, recipe)
    free, at_once = free_memory(device), min(recipe.micro_batch_size or recipe.batch_size, recipe.batch_size)
    recipe = settle_precision(recipe, start, device, automatic, name, at_once)
    restart_peak_memory(device)
    before = peak_memory(device)
    trained = networks(recipe, start)
    gradients = check_gradients(recipe, trained, device)
    floor = peak_memory(device) + gradients  # what batches of no images need
    batch, end = min(FIRST, at_once), time.monotonic() + (SECONDS if patience is None else patience)
    first = replace(recipe, batch_size=batch, micro_batch_size=None)
    begin(first, trained, lambda: noise_batches(trained.student, batch), batch)
    while True:
        seconds, progress = time_batch(replace(recipe, batch_size=batch, micro_batch_size=None), trained, end)
        image = max((peak_memory(device) - floor) // batch, 1)
        larger, left = min(4 * batch, at_once), free_memory(device)
        late = time.monotonic() + 3 * seconds * larger / batch > end
        if larger == batch or late or (left is not None and larger * image > left):
            break
        batch = larger

    caches = () if trained.discriminator is None else trained.discriminator.caches
    features = recipe.duration * sum(4 * prod(shape) for cache in caches for shape in cache.shapes)
    cached = min(features, sum(cache.memory for cache in caches))
    used = peak_memory(device) - before + cached
    fitting = recipe.batch_size if free is None else batch + (free - used) // image
    state = sum(tensor.nbytes for tensor in progress.state()[0].values())
    if recipe.pretrained:  # checkpoints leave out what the model has that the run started from
        state -= sum(parameter.nbytes for parameter in list_frozen(trained.student).values())
    student = sum(parameter.nbytes for parameter in trained.student.parameters())
    disk = 3 * state + 3 * student + min(features - cached, FEATURES_ON_DISK)  # two checkpoints, and one in the making
    rate, share = batch / seconds, count_frozen(trained.student)
    return Estimate(
        images_per_second=rate,
        hours=recipe.duration / rate / 3600,
        memory_gib=(used + (at_once - batch) * image) / GIB,
        memory_free_gib=None if free is None else free / GIB,
        disk_gib=disk / GIB,
        disk_free_gib=shutil.disk_usage(folder).free / GIB,
        tried=batch,
        micro_batch=min(max(fitting, 0), recipe.batch_size),
        frozen_share=share.frozen / share.total,
        parameters=share.total,
    )


def restart_peak_memory(device: torch.device) -> None:
    """Let the most that this process has used count from now on, where the system can: CUDA, and Linux (proc(5))."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        gc.collect()
        with suppress(OSError, AttributeError):  # musl keeps what is freed
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")


def check_gradients(recipe: Recipe, trained: Networks, device: torch.device) -> int:
    """Return the bytes of the gradients and of Adam's two moments; a ValueError where they are not free."""
    everything = [p for network in trained.by_name().values() for p in network.to(device).parameters()]
    moving, free = [p for p in everything if p.requires_grad], free_memory(device)
    gradients = sum(p.nbytes for p in moving) + count_moments(recipe.optimizer, moving)
    if free is not None and gradients > free:
        raise ValueError(
            f"The gradients of this recipe and Adam's moments need {gradients / GIB:.1f} GiB, and {free / GIB:.1f} GiB "
            "are free: freeze more with --set frozen=..., or use smaller networks or another machine."
        )
    return gradients


def time_batch(recipe: Recipe, trained: Networks, end: float) -> tuple[float, Progress]:
    """Return the seconds of an iteration and where the run stands; rare turns (R1) count in proportion.

    Takes iterations until the time `end`, at most REPEATS.
    """
    recipe = replace(recipe, duration=1_000_000 * recipe.batch_size)
    time_iteration(train(recipe, trained, noise_batches(trained.student, recipe.batch_size)))  # warms up
    run = train(recipe, trained, noise_batches(trained.student, recipe.batch_size))
    first, progress = time_iteration(run)  # every turn is due in a run's first iteration
    usual = []
    while len(usual) < REPEATS and time.monotonic() + first < end:
        seconds, progress = time_iteration(run)
        usual.append(seconds)
    seconds = median(usual or [first])
    every = max(turn.every for turn in turns(recipe, trained))
    return seconds + max(first - seconds, 0) / every, progress


def time_iteration(run: Iterator[Progress]) -> tuple[float, Progress]:
    began = time.perf_counter()
    progress = next(run)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, progress
