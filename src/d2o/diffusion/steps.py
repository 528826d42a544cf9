"""The steps of samplers: from x at one noise level to x at the next."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from .noise import draw

Denoise = Callable[[Tensor, Any], Tensor]
"""x [N,C,H,W], sigma -> x0 [N,C,H,W]: a denoiser whose label is already chosen."""
Step = Callable[[Denoise, Tensor, Any, Any], Tensor]
"""denoise, x, sigma, sigma_next -> the x at sigma_next."""
Level = float | Tensor
"""One noise level for all images, or a tensor [N,1,1,1] of one for each."""


def euler_step(denoise: Denoise, x: Tensor, sigma: Level, sigma_next: Level) -> Tensor:
    """Move x in a straight line towards its denoised image; exactly that image at `sigma_next` = 0."""
    x0 = denoise(x, sigma)
    return x0 + (sigma_next / sigma) * (x - x0)


def heun_step(denoise: Denoise, x: Tensor, sigma: Level, sigma_next: Level) -> Tensor:
    """Move x along the mean of the slopes at both ends: second order (arXiv 2206.00364, algorithm 1).

    A tensor `sigma_next` must be positive; the number 0 is reached by an Euler step.
    """
    if not isinstance(sigma_next, Tensor) and sigma_next == 0:
        return euler_step(denoise, x, sigma, sigma_next)
    slope = (x - denoise(x, sigma)) / sigma
    guess = x + (sigma_next - sigma) * slope
    slope_there = (guess - denoise(guess, sigma_next)) / sigma_next
    return x + (sigma_next - sigma) * (slope + slope_there) / 2


def timed_heun_step(denoise: Denoise, x: Tensor, sigma: Level, sigma_next: Level) -> Tensor:
    """Move x by Heun's rule in the time t = sigma / (1 + sigma) of flows, along x / (1 + sigma) = (1 - t) x0 + t noise.

    Its velocity, noise - x0, stays finite where sigma does not, so that the first step may start from pure noise.
    A tensor `sigma_next` must be positive; the number 0 is reached by an Euler step.
    """
    x0 = denoise(x, sigma)
    if not isinstance(sigma_next, Tensor) and sigma_next == 0:
        return x0
    noise = (x - x0) / sigma
    guess = x0 + sigma_next * noise
    x0_there = denoise(guess, sigma_next)
    velocity = (noise - x0 + (guess - x0_there) / sigma_next - x0_there) / 2
    passed = sigma_next / (1 + sigma_next) - sigma / (1 + sigma)
    return (x / (1 + sigma) + passed * velocity) * (1 + sigma_next)


def renoise_step(generators: Sequence[np.random.Generator]) -> Step:
    """Return a step that jumps to the clean image and adds fresh noise: few-step sampling of one-step generators.

    One generator an image, so that every image depends on its own seed only (arXiv 2303.01469, algorithm 1).
    """

    def step(denoise: Denoise, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        x0 = denoise(x, sigma)
        return x0 + sigma_next * draw(generators, x.shape[1:], x.device) if sigma_next else x0

    return step


class Churn(NamedTuple):
    """How much fresh noise the stochastic sampler adds before each step (arXiv 2206.00364, algorithm 2)."""

    amount: float = 40.0
    sigma_min: float = 0.05
    sigma_max: float = 50.0
    inflation: float = 1.003


def add_churn(step: Step, churn: Churn, intervals: int, generators: Sequence[np.random.Generator]) -> Step:
    """Return `step` preceded by a rise in noise level: the stochastic variant of any sampler."""
    rise = 1 + min(churn.amount / intervals, 2**0.5 - 1)

    def noisier_step(denoise: Denoise, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        if churn.sigma_min <= sigma <= churn.sigma_max:
            raised = rise * sigma
            noise = draw(generators, x.shape[1:], x.device)
            x = x + (raised**2 - sigma**2) ** 0.5 * churn.inflation * noise
            sigma = raised
        return step(denoise, x, sigma, sigma_next)

    return noisier_step
