"""What is chosen for the machine at hand: the precision of the network, by measurement, and whether it is compiled."""

import json
import logging
import shutil
import timeit
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from d2o.diffusion.denoiser import Denoiser, allow_tf32, use_full_float32
from d2o.diffusion.sampling import condition_for

from .memory import read_system
from .recipe import Recipe

Precision = Literal["float32", "bfloat16"]
GAIN = 1.1
"""How much faster bfloat16 must be to be chosen: it rounds."""
FEWEST, MOST, STEP = 2, 64, 4.0
"""Images of a measured step at least and at most, and the seconds of one that are enough."""
BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "svebf16")
"""Instructions for bfloat16 by Linux's names: of x86, and of ARM."""
EMULATED = 2.0
"""A processor that computes in bfloat16 so many times as slowly as in float32 only emulates it."""
COMPILERS = ("c++", "g++", "clang++")


def settle_precision(
    recipe: Recipe,
    denoiser: Denoiser,
    device: torch.device,
    automatic: bool,
    title: str,
    images: int,
    directory: Path | None = None,
) -> Recipe:
    """Return the recipe, in the faster precision if that is `automatic`; log what there is to say of it.

    So many `images` pass through the network at once.
    """
    log = logging.getLogger("d2o")
    if automatic:
        precision, reason = choose_precision(denoiser, device, images, directory, recipe.tf32)
        log.info("%s: trains in %s: %s", title, precision, reason)
        return replace(recipe, precision=precision)
    if slow := warn_about_emulation(recipe.precision, device):
        log.info("%s: %s", title, slow)
    return recipe


def choose_precision(
    denoiser: Denoiser, device: torch.device, images: int, directory: Path | None = None, tf32: bool = False
) -> tuple[Precision, str]:
    """Return the precision in which the network trains faster here, and why; a run in the directory keeps its own.

    Measured at so many `images` at once, or as many as take STEP seconds. All processes of a run get the first one's
    choice.
    """
    if directory is not None and (recipe := directory / "recipe.json").is_file():
        return json.loads(recipe.read_text())["recipe"]["precision"], "the run began so"
    few = min(FEWEST, images)
    count = min(images, MOST, max(few, int(few * STEP / time_step(denoiser, "float32", device, few, tf32))))
    seconds = {name: time_step(denoiser, name, device, count, tf32) for name in ("float32", "bfloat16")}
    chosen: list[Any] = ["bfloat16" if seconds["float32"] > GAIN * seconds["bfloat16"] else "float32"]
    times = " and ".join(f"{taken:.3g} s in {name}" for name, taken in seconds.items())
    chosen.append(f"a step of {count} images takes {times}{describe_instructions(device)}")
    broadcast_object_list(chosen)
    return chosen[0], chosen[1]


def describe_instructions(device: torch.device) -> str:
    """Return what the processor says that it has for bfloat16; nothing of other devices."""
    if device.type != "cpu" or not (cpuinfo := read_system("/proc/cpuinfo")):
        return ""
    rows = (line.partition(":") for line in cpuinfo.splitlines())
    flags = next((row[2].split() for row in rows if row[0].strip() in ("flags", "Features")), [])
    found = " and ".join(flag for flag in BFLOAT16 if flag in flags)
    return f"; this CPU has {found or 'no instructions for bfloat16'}"


def warn_about_emulation(precision: str, device: torch.device) -> str | None:
    """Return a sentence where bfloat16 is asked for and the processor only emulates it, by trying a convolution."""
    if precision != "bfloat16" or device.type != "cpu":
        return None
    if time_convolution(torch.bfloat16) < EMULATED * time_convolution(torch.float32):
        return None
    return "this CPU only emulates bfloat16, which is much slower: --precision float32 is faster here"


def time_step(denoiser: Denoiser, precision: str, device: torch.device, count: int, tf32: bool = False) -> float:
    """Return the seconds of a step of `count` images, forwards and backwards, the best of three."""
    network = deepcopy(denoiser).replace(precision=getattr(torch, precision)).to(device).requires_grad_(True)

    def step() -> None:
        predict(network, count, 1.0).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    allow_tf32(tf32)
    seconds = min(timeit.repeat(step, number=1, repeat=3))
    use_full_float32()
    return seconds


@torch.no_grad()
def time_convolution(kind: torch.dtype) -> float:
    x, weight = torch.ones(8, 64, 16, 16, dtype=kind), torch.ones(64, 64, 3, 3, dtype=kind)
    return min(timeit.repeat(lambda: torch.nn.functional.conv2d(x, weight, padding=1), number=1, repeat=5))


def predict(denoiser: Denoiser, count: int, sigma: float) -> Tensor:
    """Return what a denoiser makes of `count` black images."""
    device = next(denoiser.parameters()).device
    condition = condition_for(denoiser, range(count))
    condition = None if condition is None else condition.to(device)
    return denoiser(torch.zeros(count, *denoiser.image_shape, device=device), sigma, condition)


def compile_network(denoiser: Denoiser, images: int) -> str | None:
    """Compile a denoiser's network in place, and try it on so many images, backwards, too, where it trains.

    Where there is no compiler, or it fails, the network is left as it was, and the reason is returned.
    """
    if next(denoiser.parameters()).device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        return "There is no C++ compiler here, so the network runs uncompiled; install g++ to compile it."
    denoiser.backbone.compile(dynamic=False)
    try:
        x0 = predict(denoiser, images, denoiser.sigma_max)
        if x0.requires_grad:
            x0.sum().backward()
    except Exception as error:  # whatever a compiler and its tools raise
        denoiser.backbone._compiled_call_impl = None  # what `compile` sets; torch has no way back of its own
        reason = " ".join(str(error).split())[:200]
        return f"Compiling failed, so the network runs uncompiled ({type(error).__name__}: {reason})."
    finally:
        for parameter in denoiser.parameters():
            parameter.grad = None
    return None
