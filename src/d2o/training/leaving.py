"""Iterations can be left between micro-batches, as if they had not begun, and grids and evaluations between calls."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from torch import Tensor, nn

from .state import Progress, list_frozen, restore, restore_moments

SLOW = 1.0
"""Seconds of an iteration from which on it may be left half-way."""
BYTES, SHARE = 1 << 30, 0.05
"""What is copied a second at worst, and the share of an iteration that copying may take."""
LOG_SECONDS = 10
log = logging.getLogger("d2o")


class Left(Exception):
    """Whoever trains has been asked to stop."""


class Between:
    """Called before each micro-batch: raises Left on the wish to `leave`, and says how far a long iteration is.

    It says so of the `total` micro-batches of all turns together, unless that is 0.
    """

    def __init__(self, leave: Callable[[], bool] | None, total: int) -> None:
        self.leave, self.total, self.passed, self.told = leave, total, 0, time.monotonic()

    def __call__(self) -> None:
        if self.leave is not None and self.leave():
            raise Left
        if self.total and time.monotonic() - self.told > LOG_SECONDS:
            log.info("The first iteration: %d of %d micro-batches.", self.passed, self.total)
            self.told = time.monotonic()
        self.passed += 1


@contextmanager
def between_calls(network: nn.Module, leave: Callable[[], bool] | None) -> Iterator[None]:
    """End the block before the next call of a network on the wish to `leave`."""
    between = Between(leave, 0)
    handle = network.register_forward_pre_hook(lambda *_: between())
    try:
        with suppress(Left):
            yield
    finally:
        handle.remove()


def copy_state(progress: Progress, seconds: float) -> dict[str, Tensor] | None:
    """Return a copy, in the processor's memory, of what the turns of an iteration change.

    None where an iteration of so many `seconds` is short, or copying would take too much of it. The average stays as it
    is until an iteration ends.
    """
    if seconds < SLOW:
        return None
    frozen = {f"student.{name}" for name in list_frozen(progress.networks.student)}
    tensors = {name: tensor for name, tensor in progress.state()[0].items() if name not in frozen}
    moving = {name: tensor for name, tensor in tensors.items() if not name.startswith("ema.")}
    if sum(tensor.nbytes for tensor in moving.values()) > SHARE * seconds * BYTES:
        return None
    return tensors | {name: tensor.to("cpu", copy=True) for name, tensor in moving.items()}


def put_back(progress: Progress, tensors: dict[str, Tensor]) -> None:
    """Let networks and optimisers be as they were when their state was copied."""
    for optimizer in progress.optimizers.values():
        optimizer.state.clear()
    restore_moments(progress.optimizers, tensors)
    restore(progress.networks, progress.kept, tensors)
