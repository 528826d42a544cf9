"""What is chosen for the machine at hand: the precision of the network, by measurement, and whether it is compiled."""

import json
import shutil
import time
from copy import deepcopy
from pathlib import Path
from typing import Literal

import torch

from d2o.diffusion.denoiser import Denoiser
from d2o.objectives.objective import Networks

GAIN = 1.1
"""How much faster bfloat16 must be to be chosen: it rounds."""
COMPILERS = ("c++", "g++", "clang++")


def fastest_precision(
    denoiser: Denoiser, directory: str | Path, device: torch.device
) -> Literal["float32", "bfloat16"]:
    """Return the precision in which the network trains faster here; a run that is there already keeps its own."""
    recipe = Path(directory) / "recipe.json"
    if recipe.is_file():
        return json.loads(recipe.read_text())["recipe"]["precision"]
    seconds = {precision: step_seconds(denoiser, precision, device) for precision in ("float32", "bfloat16")}
    return "bfloat16" if seconds["float32"] > GAIN * seconds["bfloat16"] else "float32"


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
    device = next(networks.student.parameters()).device
    if device.type == "cpu" and not any(map(shutil.which, COMPILERS)):
        return "There is no C++ compiler here, so the network runs as it is; install g++ to compile it."
    networks.student.backbone.compile(dynamic=False)
    return None
