"""Parts of benchmarks/gpu.py that time iterations of D2O-F: as they are, compiled, and with features that are kept."""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partialmethod
from typing import Any
from unittest.mock import patch

import torch
from gpu_tools import EVERY, GIB, LITE0, SIZES, Row, Setting, attempt, make, measure_peak, plan, time_training
from operations import Operations
from torch import nn

from d2o.objectives.batch import Batch
from d2o.planning.gpu_memory import measure_memory
from d2o.planning.presets import draw_condition
from d2o.training import recipes
from d2o.training.loop import turns
from d2o.training.networks import new_denoiser
from d2o.training.speed import compile_network

WAYS: tuple[Row, ...] = (
    {"precision": "bfloat16", "tf32": True},
    {"precision": "bfloat16", "tf32": False},
    {"precision": "float32", "tf32": False},
    {"precision": "float32", "tf32": True},
    {"precision": "bfloat16", "tf32": True, "checkpointing": True},
)


def steps(setting: Setting, ways: Sequence[Row] = WAYS, compiled: bool = False, seconds: float = 4.0) -> Iterator[Row]:
    """Iterations of D2O-F: images a second, peak memory, and the share of the measured peak of bfloat16's products."""
    peak = measure_peak(setting, "bfloat16")
    for data in list(SIZES)[: setting.size(len(SIZES), 1)]:
        operations = count_operations(setting, data)
        for way in ways:
            row = {"recipe": f"{data}-d2o-f", "compiled": compiled, "checkpointing": False, **way}
            yield attempt(
                setting,
                row,
                lambda d=data, w=way, o=operations: step(setting, d, w, compiled, o, peak, seconds),
                90 if compiled else 8,
            )


def step(setting: Setting, data: str, way: Row, compiled: bool, operations: float, peak: float, seconds: float) -> Row:
    batch = setting.size(64, 2)
    try:
        recipe, made = make(setting, data, batch, device=setting.device, **way)
    except ValueError as error:
        if "checkpointing" not in way:
            raise
        return {"skipped": f"not for this network: {error}"}
    began, found = time.perf_counter(), {}
    if compiled:
        with quick_compiler() if setting.rehearse else nullcontext():
            obstacle = compile_network(made.student, batch)
        if obstacle:
            raise RuntimeError(obstacle)
        found["compile_seconds"] = time.perf_counter() - began
    found |= time_training(setting, recipe, made, seconds)
    if way is WAYS[0] and not compiled:  # counting takes the processor some time
        with torch.device("meta"):
            shapes = new_denoiser(*plan(setting, data)[1])
        memory = measure_memory(recipe, shapes)
        found["estimated_gib"] = memory and memory.total(batch) / GIB
    share = operations * found["images_per_second"] / peak
    return found | {"batch": batch, "gflop_an_image": operations / 1e9, "share_of_peak": share}


def quick_compiler() -> Any:
    """Let torch trace networks without compiling what it has traced, which takes a processor minutes."""
    return patch.object(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))


def compiled(setting: Setting) -> Iterator[Row]:
    """The same with the student's network compiled."""
    yield from steps(setting, WAYS[:1], compiled=True)


def features(setting: Setting) -> Iterator[Row]:
    """Features of real images computed each time, or kept in the GPU's memory: images a second, and bytes an image."""
    for names in ((LITE0,), ("vgg16_bn", LITE0)):
        if setting.rehearse and len(names) > 1:
            continue
        for kept in (False, True):
            row = {"recipe": "cifar10-d2o-f", "networks": " and ".join(names), "kept": kept}
            yield attempt(setting, row, lambda n=names, k=kept: time_features(setting, n, k), 8)


def time_features(setting: Setting, names: tuple[str, ...], kept: bool) -> Row:
    judge = replace(recipes.find_recipe("cifar10-d2o-f").discriminator, networks=names, weights="random")
    judge = replace(judge, **({"size": 32, "width": 16} if setting.rehearse else {}))
    recipe, made = make(setting, "cifar10", device=setting.device, discriminator=judge, tf32=True)
    assert made.discriminator is not None
    for cache in made.discriminator.caches:
        cache.gpu_memory = 8 * GIB // len(names) if kept else 0
        cache.memory = cache.memory if kept else 0
    found = time_training(setting, recipe, made, 4.0, pool=2 * recipe.batch_size)
    caches = made.discriminator.caches
    numbers = sum(torch.Size(shape).numel() for cache in caches for shape in cache.shapes)
    return found | {"mib_an_image": 4 * numbers / 2**20}


def count_operations(setting: Setting, data: str) -> float:
    """Return the multiplications and additions an image of an iteration, R1 once in EVERY."""
    recipe, made = make(setting, data, device="meta", precision="float32")
    total = 0.0
    with torch.device("meta"):
        batch = Batch(torch.empty(2, *made.student.pixel_shape), draw_condition(made.student, range(2)), [0, 1])
        for turn in turns(recipe, made):
            with Operations() as counter:
                turn.loss(made, batch).mean().backward()
            total += counter.total / 2 * turn.times / (EVERY if turn.every > 1 else 1)
    return total
