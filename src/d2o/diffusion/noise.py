"""Noise levels and unit noise: which sigmas a sampler visits, and noise that is a function of its seed alone."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
ONE_STEP = (SIGMA_MAX, 0.0)
"""The list of sigmas of a one-step generator: a single interval."""
FEW = 8
PURE_NOISE = 2.0**29
"""Stands for an infinite noise level.

As it is a power of two, x = sigma noise and x / (1 + sigma) are exact in float32: a network that sees x / (1 + sigma)
is given the noise itself, to the bit, at the time 1.
"""


def name_level(sigma: float) -> str:
    """Return what people call a noise level."""
    return "pure noise" if sigma == PURE_NOISE else f"the noise level {sigma:.3g}"


def karras_sigmas(
    steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = 7.0
) -> tuple[float, ...]:
    """Return `steps` noise levels from `sigma_max` down to `sigma_min`, and a final 0 (arXiv 2206.00364, equation 5).

    One step gives `(sigma_max, 0)`: the one-step generator.
    """
    if steps < 1:
        raise ValueError(f"A sampler needs at least one step, not {steps}.")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"Noise levels need 0 < sigma_min < sigma_max, not {sigma_min} and {sigma_max}.")
    first, last = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    inner = [float(root**rho) for root in np.linspace(first, last, steps)[1:-1]]
    return (sigma_max, *inner, *([sigma_min] if steps > 1 else []), 0.0)


def flow_sigmas(
    steps: int, shift: float = 1.0, sigma_max: float = PURE_NOISE, last_time: float | None = None
) -> tuple[float, ...]:
    """Return `steps` noise levels whose times sigma / (shift + sigma) fall evenly, and a final 0.

    The first is `sigma_max`; the last time before 0 is as long as a step, or `last_time`. `shift` is that of flow
    models' schedules, t' = shift t / (1 + (shift - 1) t): it multiplies every noise level but pure noise.
    """
    if steps < 1:
        raise ValueError(f"A sampler needs at least one step, not {steps}.")
    first = 1.0 if sigma_max == PURE_NOISE else sigma_max / (shift + sigma_max)
    times = np.linspace(first, first / steps if last_time is None else last_time, steps).tolist()
    return (sigma_max, *(shift * time / (1 - time) for time in times[1:]), 0.0)


def sampler_sigmas(steps: int, sigma_max: float = SIGMA_MAX) -> tuple[float, ...]:
    """Return the noise levels [steps + 1] of EDM's sampler (`karras_sigmas`); with up to FEW steps each of them counts.

    From SIGMA_MIN to 0 nothing is left to do, so few levels fall to a flow's last one, of the time 1 / steps, instead.
    """
    last = flow_sigmas(steps, sigma_max=sigma_max)[-2] if 1 < steps <= FEW else SIGMA_MIN
    return karras_sigmas(steps, last, sigma_max)


def log_normal_sigmas(level: Tensor, mean: float = -1.2, deviation: float = 1.2) -> Tensor:
    """Map uniform numbers [N] in (0, 1) to noise levels [N] with ln(sigma) ~ N(mean, deviation^2)."""
    return (mean + deviation * torch.special.ndtri(level)).exp()


def streams(seeds: Iterable[int]) -> list[np.random.Generator]:
    """Return one random generator a seed (0 to 2^128 - 1): counter-based Philox, the same on every device."""
    return [np.random.Generator(np.random.Philox(key=seed)) for seed in seeds]


def draw(generators: Sequence[np.random.Generator], shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Draw the next unit normal noise [N, *shape] from every generator."""
    return fill(generators, len(generators), shape).to(device)


def noise_for(seeds: Iterable[int], shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Return unit normal noise [N, *shape] of which image i depends on seed i only."""
    seeds = list(seeds)
    return fill(restart_streams(seeds), len(seeds), shape).to(device)


def fill(generators: Iterable[np.random.Generator], count: int, shape: Sequence[int]) -> Tensor:
    noise = np.empty((count, *shape), np.float32)
    for generator, row in zip(generators, noise, strict=True):
        generator.standard_normal(out=row, dtype=np.float32)
    return torch.from_numpy(noise)


def uniform_for(seeds: Iterable[int], count: int, device: torch.device | str = "cpu") -> Tensor:
    """Return uniform numbers [N, count] in (0, 1) of which row i depends on seed i only."""
    rows = [generator.random(count, dtype=np.float32) for generator in restart_streams(seeds)]
    tiny = np.float32(2.0**-25)  # draws are multiples of 2^-24 from 0 on, and 0 has no normal quantile;
    return torch.from_numpy(np.maximum(np.stack(rows), tiny)).to(device)  # adding it would round the largest to 1


def restart_streams(seeds: Iterable[int]) -> Iterator[np.random.Generator]:
    """Yield one generator again and again, as `streams` makes it for each seed: eight times as fast as new ones."""
    philox = np.random.Philox(key=0)
    generator, state = np.random.Generator(philox), philox.state
    for seed in seeds:
        state["state"]["key"][:] = seed & (2**64 - 1), seed >> 64
        philox.state = state
        yield generator
