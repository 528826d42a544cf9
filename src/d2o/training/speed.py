"""What is chosen for the machine at hand: the precision of the network, by measurement, and whether it is compiled."""

import json
import shutil
import time
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.utils import broadcast_object_list

from d2o.diffusion.denoiser import Denoiser
from d2o.objectives.objective import Networks

GAIN = 1.1
"""How much faster bfloat16 must be to be chosen: it rounds."""
EMULATED = 2.0
"""A processor that computes in bfloat16 so many times as slowly as in float32 only emulates it."""
COMPILERS = ("c++", "g++", "clang++")


def fastest_precision(
    denoiser: Denoiser, directory: str | Path, device: torch.device
) -> Literal["float32", "bfloat16"]:
    """Return the precision in which the network trains faster here; a run that is there already keeps its own.

    All processes of a run get the first one's choice.
    """
    recipe = Path(directory) / "recipe.json"
    if recipe.is_file():
        return json.loads(recipe.read_text())["recipe"]["precision"]
    chosen: list[Any] = [faster_precision(denoiser, device)]
    broadcast_object_list(chosen)
    return chosen[0]


def faster_precision(denoiser: Denoiser, device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return the precision in which the network trains faster here, by trying."""
    seconds = {precision: step_seconds(denoiser, precision, device) for precision in ("float32", "bfloat16")}
    return "bfloat16" if seconds["float32"] > GAIN * seconds["bfloat16"] else "float32"


def emulation(precision: str, device: torch.device) -> str | None:
    """Return a sentence where bfloat16 is asked for and the processor only emulates it, by trying a convolution."""
    if precision != "bfloat16" or device.type != "cpu":
        return None
    seconds = {kind: convolution_seconds(kind) for kind in (torch.float32, torch.bfloat16)}
    if seconds[torch.bfloat16] < EMULATED * seconds[torch.float32]:
        return None
    return "this processor only emulates bfloat16, which is much slower: --precision float32 is faster here"


def convolution_seconds(kind: torch.dtype) -> float:
    """Return the seconds of the best of five convolutions of some images' size."""
    x, weight = torch.ones(8, 64, 16, 16, dtype=kind), torch.ones(64, 64, 3, 3, dtype=kind)
    best = float("inf")
    with torch.no_grad():
        for _ in range(5):
            began = time.perf_counter()
            torch.nn.functional.conv2d(x, weight, padding=1)
            best = min(best, time.perf_counter() - began)
    return best


def step_seconds(denoiser: Denoiser, precision: str, device: torch.device, count: int = 4) -> float:
    """Return the seconds of the best of three forward and backward passes of a few images."""
    network = deepcopy(denoiser).to(device).requires_grad_(True)
    network.precision = getattr(torch, precision)
    x = torch.zeros(count, *network.image_shape, device=device)
    label = torch.arange(count, device=device) % network.num_classes if network.num_classes else None
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        network(x, 1.0, label).sum().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return best


def compile_student(networks: Networks) -> str | None:
    """Compile the student's network in place; without a compiler leave it, and return a sentence that says so."""
    return compile_network(networks.student)


def compile_network(denoiser: Denoiser) -> str | None:
    """Let a denoiser's network be compiled at its next call; without a compiler leave it, and return why."""
    device = next(denoiser.parameters()).device
    if device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        return "There is no C++ compiler here, so the network runs as it is; install g++ to compile it."
    denoiser.backbone.compile(dynamic=False)
    return None


def try_compiled(denoiser: Denoiser, images: int) -> str | None:
    """Send so many images through a network that is to be compiled, and back where it trains.

    Where compiling fails the network is left as it was before, and a sentence with the reason is returned.
    """
    device = next(denoiser.parameters()).device
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
