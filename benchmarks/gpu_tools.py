"""Tools of benchmarks/gpu.py: where a part runs, what it may take, and full-size networks of random weights."""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from d2o.data.datasets import Batch
from d2o.diffusion.denoiser import Denoiser, allow_tf32, use_full_float32
from d2o.objectives import Adversarial
from d2o.objectives.objective import Networks
from d2o.planning.presets import draw_condition, randomise_weights
from d2o.training import recipes
from d2o.training.loop import train
from d2o.training.memory import peak_memory
from d2o.training.networks import networks, new_denoiser
from d2o.training.recipe import Recipe

Row = dict[str, Any]
GIB = 1 << 30
SIZES = {"cifar10": ("ncsnpp-32", (3, 32, 32), 0), "imagenet64": ("adm-64", (3, 64, 64), 1000)}
"""Network, image shape and classes of the full-size recipes."""
LITE0 = "tf_efficientnet_lite0"
EVERY = 16
"""Iterations of which one has R1."""


@dataclass(frozen=True)
class Setting:
    """Where a part runs, until when (by time.monotonic), and with which files; a rehearsal is small."""

    device: torch.device
    end: float
    rehearse: bool
    parity: Path | None = None
    data: str | None = None

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def size(self, full: int, small: int) -> int:
        return small if self.rehearse else full

    def wait(self) -> None:
        """Wait until the GPU has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def attempt(setting: Setting, row: Row, measure: Callable[[], Row], seconds: float = 0.0) -> Row:
    """Return a row with what was measured, or with the error; where fewer seconds are left, it says so."""
    if not setting.rehearse and setting.left < seconds:
        return row | {"skipped": f"{setting.left:.0f} s were left"}
    try:
        return row | measure()
    except Exception as error:
        return row | {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    finally:
        use_full_float32()
        gc.collect()
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def time_calls(setting: Setting, work: Callable[[], Any], seconds: float, warm: int = 2) -> float:
    """Return the mean seconds of a piece of work, for so long or ten times, after a few that do not count."""
    for _ in range(setting.size(warm, 1)):
        work()
    setting.wait()
    seconds = 0.0 if setting.rehearse else seconds
    began, count = time.perf_counter(), 0
    while count < 10 and (time.perf_counter() - began < seconds or not count):
        work()
        setting.wait()
        count += 1
    return (time.perf_counter() - began) / count


def measure_peak(setting: Setting, precision: str) -> float:
    """Return the operations a second of a large matrix product in float32, tf32 or bfloat16."""
    side, kind = setting.size(8192, 256), torch.bfloat16 if precision == "bfloat16" else torch.float32
    a = torch.randn(side, side, device=setting.device, dtype=kind)
    allow_tf32(precision == "tf32")
    seconds = time_calls(setting, lambda: a @ a, 1.0, warm=3)
    use_full_float32()
    return 2 * side**3 / seconds


def plan(setting: Setting, data: str) -> tuple[Recipe, tuple[dict[str, Any], tuple[int, int, int], int]]:
    """Return a full-size recipe, and the network, image shape and classes that it is for."""
    recipe = randomise_weights(recipes.find_recipe(f"{data}-d2o-f"))
    backbone, shape, classes = SIZES[data]
    spec = recipes.BACKBONES[backbone]
    if setting.rehearse:
        recipe = replace(recipe, discriminator=replace(recipe.discriminator, networks=(LITE0,), size=32, width=16))
        return recipe, ({**spec, "channels": 8, "num_blocks": 1, "channel_multipliers": [1, 2]}, (3, 8, 8), 4)
    return recipe, (spec, shape, classes)


def make(
    setting: Setting, data: str, batch: int = 64, device: torch.device | str = "cpu", **changes: Any
) -> tuple[Recipe, Networks]:
    """Return a full-size recipe with its networks, all of random weights; R1 comes every other iteration."""
    recipe, network = plan(setting, data)
    objectives = tuple(replace(o, r1_every=2) if isinstance(o, Adversarial) else o for o in recipe.objectives)
    fixed = {"batch_size": batch, "micro_batch_size": None, "duration": 10**9, "objectives": objectives}
    with torch.device(device):
        teacher = new_denoiser(*network)
        return (recipe := replace(recipe, **{**fixed, **changes})), networks(recipe, teacher)


def noise(student: Denoiser, size: int, pool: int = 0) -> Iterator[Batch]:
    """Yield random images without end; of a `pool` of so many they have numbers, and come again."""
    count, start = pool or 2 * size, 0
    images = torch.rand(count, *student.pixel_shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    while True:
        index = torch.arange(start, start + size)
        place, start = index % count, start + size
        told = draw_condition(student, place.tolist())
        yield Batch(images[place], told, index, place if pool else None)  # type: ignore[arg-type]


def time_training(setting: Setting, recipe: Recipe, made: Networks, seconds: float, pool: int = 0) -> Row:
    """Return images a second, with R1 once in EVERY iterations, and the peak memory."""
    run = train(recipe, made, noise(made.student, recipe.batch_size, pool))
    warm, taken = 2 + -(-pool // recipe.batch_size), ([], [])
    end = time.monotonic() + seconds
    for number in range(10**6):  # the odd ones have no R1
        began = time.perf_counter()
        next(run)
        setting.wait()
        if number >= warm:
            taken[number % 2].append(time.perf_counter() - began)
        if min(map(len, taken)) and (time.monotonic() > end or setting.rehearse):
            break
    rare, usual = (sum(values) / len(values) for values in taken)
    mean = usual + max(rare - usual, 0.0) / EVERY
    return {"images_per_second": recipe.batch_size / mean, "peak_gib": peak_memory(setting.device) / GIB}
