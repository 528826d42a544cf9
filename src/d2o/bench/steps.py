"""Training steps, ours and plain ones of the same networks and sizes."""

import time
from collections.abc import Iterator
from dataclasses import replace
from statistics import median

import torch
from accelerate import Accelerator

from d2o.data.datasets import Images
from d2o.diffusion.denoiser import Denoiser
from d2o.kernels.switch import plainly
from d2o.objectives.adversarial import Adversarial
from d2o.objectives.objective import Batch
from d2o.training.ema import follow
from d2o.training.loop import take, turns
from d2o.training.networks import networks
from d2o.training.recipe import Recipe

from .stopwatch import Stopwatch, watching

WARM_UP = 2
"""Iterations that are not counted."""


class Steps:
    """A run's iterations, one at a time; `plain` ones do what the released code does.

    That is: the student and the features run again for the discriminator's turn, nothing of real images is remembered,
    frozen weights have gradients too, and nothing of `d2o.kernels` is used.
    """

    def __init__(
        self, recipe: Recipe, teacher: Denoiser, images: Images | Iterator[tuple], plain: bool = False
    ) -> None:
        if plain:
            objectives = [replace(o, fresh_fakes=True) if isinstance(o, Adversarial) else o for o in recipe.objectives]
            recipe = replace(recipe, objectives=tuple(objectives))
        self.recipe, self.plain = recipe, plain
        with plainly(plain):
            self.networks = networks(recipe, teacher)
            self.turns = turns(recipe, self.networks)
        if plain:
            self.networks.student.requires_grad_(True)
        self.accelerator = Accelerator(cpu=True)
        self.batches = images.batches(recipe.batch_size) if isinstance(images, Images) else images
        self.moving = [p for turn in self.turns for p in turn.parameters]
        self.optimizers = list({id(turn.optimizer): turn.optimizer for turn in self.turns}.values())

    def step(self) -> dict[str, float]:
        """Take one iteration with all of its turns; return the seconds of each part, R1's spread over its interval."""
        watch = Stopwatch()
        parts: dict[str, float] = {}
        with plainly(self.plain), watching(watch, self.networks, self.optimizers):
            with watch.part("data"):
                given = next(self.batches)
                x0, label, index = given
                if not self.plain:
                    x0 = x0.contiguous(memory_format=torch.channels_last)
                number = getattr(given, "number", None)
                known = None if self.plain or number is None else number.tolist()
                batch = Batch(x0, label, index.tolist(), self.recipe.seed, number=known)
                if not self.networks.student.num_classes:
                    batch.label = None
                micro_batches = batch.split(self.recipe.micro_batch_size or len(batch))
            for turn in self.turns:
                began = time.perf_counter()
                take(turn, self.networks, micro_batches, self.moving, 1.0, self.accelerator)
                spent, seen = time.perf_counter() - began, watch.take()
                if turn.every > 1:
                    parts["R1"] = spent / turn.every
                    continue
                for name, seconds in {**seen, "other": spent - sum(s for k, s in seen.items() if k != "data")}.items():
                    parts[name] = parts.get(name, 0.0) + seconds
            with watch.part("EMA"):
                follow(self.recipe, self.networks, self.recipe.batch_size)
            parts |= watch.take()
        return parts


def race(racers: dict[str, Steps], repeats: int) -> dict[str, list[dict[str, float]]]:
    """Return the parts of each for so many iterations in turn, after those that warm up."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in racers}
    for repeat in range(-WARM_UP, repeats):
        for name, steps in racers.items():
            parts = steps.step()
            if repeat >= 0:
                found[name].append(parts)
    return found


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Return the median seconds of every part, and of the whole iteration."""
    names = dict.fromkeys(name for parts in rounds for name in parts)
    return {
        **{name: median(parts.get(name, 0.0) for parts in rounds) for name in names},
        "iteration": median(sum(parts.values()) for parts in rounds),
    }
