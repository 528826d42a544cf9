"""Training iterations of d2o beside plain ones of the same networks: images a second, ratios, operations, memory.

python benchmarks/steps.py                             D2O-F, D2O and pre-training, each in turn with its plain rival
python benchmarks/steps.py --kinds d2o_f --out steps.json
python benchmarks/steps.py --operators d2o_f           which operators the time goes to, by torch's profiler

Plain iterations do what the released code does: the student and the features run again for the discriminator's turn,
nothing of real images is cached, frozen weights have gradients too, and none of d2o.kernels is used. In "first_pass"
every image is new, as in a run's first pass over its data; in "later" all have been seen.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from accelerate import Accelerator
from operations import Operations, describe_machine
from torch.profiler import ProfilerActivity, profile

from d2o.checkpoints import load
from d2o.data.datasets import Batch
from d2o.diffusion.denoiser import Denoiser
from d2o.objectives import Adversarial
from d2o.training import recipes
from d2o.training.loop import train
from d2o.training.networks import networks, new_denoiser
from d2o.training.recipe import Recipe

WAYS = ("later", "first_pass", "plain")
ROUND = 16
"""Iterations of a round: R1 comes once in so many."""


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Replace the library's kernels by torch's own, its folded batch norms by separate ones, channels-last by NCHW."""
    with (
        patch("d2o.kernels.normalisation.is_suitable", lambda _: False),
        patch("d2o.kernels.convolution.is_product", lambda *_: False),
        patch("d2o.kernels.convolution.differentiates_input_only", lambda *_: False),
        patch("d2o.features.weights.fold_batch_norms", lambda network, _: network),
        patch("torch.channels_last", torch.contiguous_format),
    ):
        yield


class Racer:
    """A run of a recipe, one iteration at a time, in one of WAYS."""

    def __init__(self, recipe: Recipe, teacher: Denoiser, way: str) -> None:
        self.recipe, self.way = replace(recipe, duration=10**9), way
        if way == "plain":
            objectives = [replace(o, fresh_fakes=True) if isinstance(o, Adversarial) else o for o in recipe.objectives]
            self.recipe = replace(self.recipe, objectives=tuple(objectives))
        with self.kernels():
            self.networks = networks(self.recipe, teacher)
        batches = noise(teacher, recipe.batch_size, way)
        self.run = train(self.recipe, self.networks, batches, accelerator=Accelerator(cpu=True))
        self.step()
        if way == "plain":  # after the optimisers were made, so that frozen weights have gradients and do not move
            self.networks.student.requires_grad_(True)

    def kernels(self) -> Any:
        return plain_kernels() if self.way == "plain" else nullcontext()

    def step(self) -> float:
        """Take an iteration and return its seconds."""
        began = time.perf_counter()
        with self.kernels():
            next(self.run)
        return time.perf_counter() - began


def noise(teacher: Denoiser, size: int, way: str) -> Iterator[Batch]:
    """Yield batches of random images without end: what is in them does not matter for speed."""
    pool = torch.rand(2 * size, *teacher.pixel_shape) * 2 - 1
    for start in count(0, size):
        index = torch.arange(start, start + size)
        place = index % len(pool)
        label = place % teacher.num_classes if teacher.num_classes else None
        number = {"plain": None, "later": place}.get(way, index)
        yield Batch(pool[place], label, index, number)


def race(racers: dict[str, Racer], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of so many rounds of each, their iterations in turn, after one that warms up."""
    rounds: dict[str, list[float]] = {name: [] for name in racers}
    for _ in range(repeats + 1):
        seconds = dict.fromkeys(racers, 0.0)
        for _ in range(ROUND):
            for name, racer in racers.items():
                seconds[name] += racer.step()
        for name in racers:
            rounds[name].append(seconds[name])
    return {name: values[1:] for name, values in rounds.items()}


def count_operations(racer: Racer) -> float:
    """Return the floating-point operations of an iteration an image, over a round."""
    with Operations() as counter:
        for _ in range(ROUND):
            racer.step()
    return counter.total / ROUND / racer.recipe.batch_size


def grow(recipe: Recipe, teacher: Denoiser, way: str) -> int:
    """Return by how many bytes this process grows in two iterations, beyond what one of two images needed."""
    Racer(replace(recipe, batch_size=2), teacher, way)
    status = Path("/proc/self/status").read_text().splitlines()
    before = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    racer = Racer(recipe, teacher, way)
    racer.step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def measure_memory(kind: str, way: str, arguments: list[str]) -> float:
    """Return the MiB that training grows a process of its own by."""
    command = [sys.executable, __file__, *arguments, "--memory", kind, way]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 2**20


def show_operators(racer: Racer, rows: int = 12) -> None:
    """Print the operators that take most of a round's time, as shares: profiling itself takes time."""
    racer.step()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(ROUND):
            racer.step()
    events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    print("| operator | share of the time | calls an iteration |\n|---|---|---|")
    for event in events[:rows]:
        print(f"| {event.key} | {event.self_cpu_time_total / total:.1%} | {event.count / ROUND:.0f} |")


def measure(kinds: dict[str, Recipe], teacher: Denoiser, repeats: int, arguments: list[str]) -> dict[str, Any]:
    """Return all figures; a ratio is the median over rounds of plain seconds by ours."""
    found: dict[str, Any] = {"images_per_second": {}, "spread": {}, "ratio": {}, "gflop_an_image": {}, "memory_mib": {}}
    for kind, recipe in kinds.items():
        ways = [way for way in WAYS if way != "first_pass" or "discriminator" in recipe.needs]
        racers = {way: Racer(recipe, teacher, way) for way in ways}
        rounds = race(racers, repeats)
        for way, seconds in rounds.items():
            name = f"{kind}_{way}"
            found["images_per_second"][name] = ROUND * recipe.batch_size / median(seconds)
            found["spread"][name] = (max(seconds) - min(seconds)) / median(seconds)
            found["gflop_an_image"][name] = count_operations(racers[way]) / 1e9
            found["ratio"][name] = median(p / s for p, s in zip(rounds["plain"], seconds, strict=True))
            if sys.platform == "linux" and way != "first_pass":
                found["memory_mib"][name] = measure_memory(kind, way, arguments)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="cifar10-small-d2o-f", help="a recipe of D2O-F")
    parser.add_argument("--from", dest="model", help="the teacher; by default a small random network for 16x16 images")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--kinds", nargs="+", default=("d2o_f", "d2o", "pretrain"))
    parser.add_argument("--repeats", type=int, default=5, help=f"rounds of {ROUND} iterations")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--operators", metavar="KIND", help="profile d2o_f, d2o or pretrain instead")
    parser.add_argument("--memory", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    student = recipes.find_recipe(options.recipe)
    sizes: dict[str, Any] = {"batch_size": options.batch or student.batch_size, "precision": "float32"}
    small = {**recipes.BACKBONES["small"], "attention_resolutions": [8]}
    teacher = load(options.model) if options.model else new_denoiser(small, (3, 16, 16), 10)
    known = {
        "d2o_f": replace(student, **sizes),
        "d2o": replace(student, frozen=(), **sizes),
        "pretrain": replace(recipes.PRETRAIN, **sizes),
    }
    if options.memory:
        kind, way = options.memory
        print(grow(known[kind], teacher, way))
        return
    if options.operators:
        show_operators(Racer(known[options.operators], teacher, "later"))
        return
    arguments = ["--recipe", options.recipe, *(["--from", options.model] if options.model else [])]
    arguments += ["--batch", str(options.batch)] if options.batch else []
    found = measure({kind: known[kind] for kind in options.kinds}, teacher, options.repeats, arguments)
    found = {
        "machine": describe_machine(),
        "settings": {key: str(value) for key, value in vars(options).items()},
    } | found
    print(json.dumps(found, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
