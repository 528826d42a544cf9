"""Where the time of an iteration goes: the parts of a run, timed where they are called."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from d2o.objectives.objective import Networks


class Stopwatch:
    """Seconds by part. Parts do not overlap: a part within a part counts for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.running = False

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block as `name`."""
        if self.running:
            yield
            return
        self.running, began = True, time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - began
            self.running = False

    def timed(self, name: str, function: Callable) -> Callable:
        """Return the function with every call timed."""

        def call(*arguments: Any, **options: Any) -> Any:
            with self.part(name):
                return function(*arguments, **options)

        return call

    def take(self) -> dict[str, float]:
        """Return what was measured, and begin anew."""
        seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds


@contextmanager
def watching(watch: Stopwatch, networks: Networks, optimizers: list[torch.optim.Optimizer]) -> Iterator[None]:
    """Time the networks, the backward passes and the optimisers of a run within this block."""
    critic: Any = networks.discriminator
    places: list[tuple[Any, str, str]] = [(networks.student, "forward", "generator forward")]
    if critic is not None:
        seeing = [name for name in ("features", "remembered") if hasattr(critic, name)]
        places += [(critic, name, "features") for name in seeing] + [(critic, "judge", "heads")]
    places += [(torch.autograd, name, "backward") for name in ("backward", "grad")]
    places += [(optimizer, "step", "optimiser") for optimizer in optimizers]
    before = [(place, name, vars(place).get(name)) for place, name, _ in places]
    for place, name, part in places:
        setattr(place, name, watch.timed(part, getattr(place, name)))
    try:
        yield
    finally:
        for place, name, old in before:
            if old is None:
                delattr(place, name)
            else:
                setattr(place, name, old)
