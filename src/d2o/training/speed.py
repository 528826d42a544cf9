"""What is chosen for the machine at hand: the precision of the network, by measurement, and whether it is compiled."""

import json
import shutil
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import broadcast_object_list

from d2o.diffusion.denoiser import Denoiser

Precision = Literal["float32", "bfloat16"]
GAIN = 1.1
"""How much faster bfloat16 must be to be chosen: it rounds."""
EMULATED = 2.0
"""A processor that computes in bfloat16 so many times as slowly as in float32 only emulates it."""
COMPILERS = ("c++", "g++", "clang++")


def choose_precision(denoiser: Denoiser, directory: str | Path, device: torch.device) -> Precision:
    """Return the precision in which the network trains faster here; a run that is there already keeps its own.

    All processes of a run get the first one's choice.
    """
    recipe = Path(directory) / "recipe.json"
    if recipe.is_file():
        return json.loads(recipe.read_text())["recipe"]["precision"]
    chosen: list[Any] = [find_faster_precision(denoiser, device)]
    broadcast_object_list(chosen)
    return chosen[0]


def find_faster_precision(denoiser: Denoiser, device: torch.device) -> Precision:
    """Return the precision in which the network trains faster here, by trying."""
    seconds = {precision: time_step(denoiser, precision, device) for precision in ("float32", "bfloat16")}
    return "bfloat16" if seconds["float32"] > GAIN * seconds["bfloat16"] else "float32"


def warn_about_emulation(precision: str, device: torch.device) -> str | None:
    """Return a sentence where bfloat16 is asked for and the processor only emulates it, by trying a convolution."""
    if precision != "bfloat16" or device.type != "cpu":
        return None
    if time_convolution(torch.bfloat16) < EMULATED * time_convolution(torch.float32):
        return None
    return "this processor only emulates bfloat16, which is much slower: --precision float32 is faster here"


def time_step(denoiser: Denoiser, precision: str, device: torch.device, count: int = 4) -> float:
    """Return the seconds of a forward and backward pass of a few images."""
    network = deepcopy(denoiser).replace(precision=getattr(torch, precision)).to(device).requires_grad_(True)
    x = torch.zeros(count, *network.image_shape, device=device)
    label = torch.arange(count, device=device) % network.num_classes if network.num_classes else None

    def step() -> None:
        network(x, 1.0, label).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return best_time(step, 3)


@torch.no_grad()
def time_convolution(kind: torch.dtype) -> float:
    """Return the seconds of a convolution of some images' size."""
    x, weight = torch.ones(8, 64, 16, 16, dtype=kind), torch.ones(64, 64, 3, 3, dtype=kind)
    return best_time(lambda: torch.nn.functional.conv2d(x, weight, padding=1), 5)


def best_time(function: Callable[[], Any], repeats: int) -> float:
    """Return the seconds of the fastest of several calls."""
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def compile_network(denoiser: Denoiser, images: int) -> str | None:
    """Compile a denoiser's network in place, and try it on so many images, backwards, too, where it trains.

    Where there is no compiler, or it fails, the network is left as it was, and the reason is returned.
    """
    device = next(denoiser.parameters()).device
    if device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        return "There is no C++ compiler here, so the network runs as it is; install g++ to compile it."
    denoiser.backbone.compile(dynamic=False)
    x = torch.zeros(images, *denoiser.image_shape, device=device)
    label = torch.arange(images, device=device) % denoiser.num_classes if denoiser.num_classes else None
    try:
        found = denoiser(x, denoiser.sigma_max, label)
        if found.requires_grad:
            found.sum().backward()
    except Exception as error:  # whatever a compiler and its tools raise
        denoiser.backbone._compiled_call_impl = None  # what `compile` sets; torch has no way back of its own
        reason = " ".join(str(error).split())[:200]
        return f"Compiling failed, so the network runs as it is ({type(error).__name__}: {reason})."
    finally:
        for parameter in denoiser.parameters():
            parameter.grad = None
    return None
