"""Discrete noise schedules: the variance that every step of a DDPM-style model adds, and its noise levels."""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from .noise import PURE_NOISE


def line(start: float, end: float, steps: int) -> Tensor:
    return torch.linspace(start, end, steps, dtype=torch.float64, device="cpu")


def cosine(_start: float, _end: float, steps: int) -> Tensor:
    """Return variances [steps], at most 0.999, under which the signal falls as a squared cosine (arXiv 2102.09672)."""
    signal = ((line(0, 1, steps + 1) + 0.008) / 1.008 * math.pi / 2).cos().square()
    return (1 - signal[1:] / signal[:-1]).clamp(max=0.999)


# The names are those of diffusers' schedulers.
SCHEDULES: dict[str, Callable[[float, float, int], Tensor]] = {
    "linear": line,
    "scaled_linear": lambda start, end, steps: line(start**0.5, end**0.5, steps).square(),
    "squaredcos_cap_v2": cosine,
    "sigmoid": lambda start, end, steps: line(-6, 6, steps).sigmoid() * (end - start) + start,
}


@lru_cache(maxsize=16)
def noise_levels(
    schedule: str, start: float, end: float, steps: int, betas: tuple[float, ...] = (), zero_snr: bool = False
) -> Tensor:
    """Return the noise level sqrt((1 - a) / a) of every time, rising; `betas` take the place of the named schedule.

    With `zero_snr` the root of a is shifted so that no signal is left at the last time (arXiv 2305.08891, algorithm 1),
    whose level is PURE_NOISE. A variance that is not between 0 and 1 is a ValueError: its level would not be finite.
    """
    variances = (
        torch.tensor(betas, dtype=torch.float64, device="cpu") if betas else SCHEDULES[schedule](start, end, steps)
    )
    if not bool(((variances > 0) & (variances < 1)).all()):
        raise ValueError("A schedule's betas must lie between 0 and 1.")
    signal = (1 - variances).cumprod(0)
    if not signal[-1] > 0:
        raise ValueError("A schedule's betas must leave some signal at the last time.")
    if zero_snr:
        root = signal.sqrt()
        signal = ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
        return ((1 - signal) / signal).sqrt().clamp(max=PURE_NOISE)
    return ((1 - signal) / signal).sqrt()
