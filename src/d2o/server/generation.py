"""What the page shows: one-step images on the way between seeds, and the teacher's sampler step by step, both timed."""

import math
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from d2o.data.files import to_uint8
from d2o.devices import widen
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.noise import noise_for
from d2o.diffusion.sampling import heun_step_of, sample, trajectory

from .query import Point

BATCH = 64
"""Images that are made in one forward pass."""


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Return the noise at `share` of the way from one noise to another of its shape, along a great circle.

    Unit normal noises are nearly orthogonal, so what lies between them is as large as they are, where a straight line
    would pass through shorter vectors that no network was trained on (Shoemake 1985).
    """
    cosine = torch.nn.functional.cosine_similarity(widen(first).flatten(), widen(second).flatten(), dim=0)
    angle = math.acos(min(max(cosine.item(), -1.0), 1.0))
    if math.sin(angle) < 1e-6:  # the same direction, or opposite ones, between which every great circle leads
        return torch.lerp(first, second, share)
    return (math.sin((1 - share) * angle) * first + math.sin(share * angle) * second) / math.sin(angle)


def noise_at(points: Sequence[Point], shape: Sequence[int]) -> Tensor:
    """Return the noise [N, *shape] of points."""
    ends = [noise_for(point[:2], shape) for point in points]
    return torch.stack([slerp(pair[0], pair[1], point.share) for pair, point in zip(ends, points, strict=True)])


@torch.no_grad()
def make_images(denoiser: Denoiser, points: Sequence[Point], condition: Any) -> tuple[np.ndarray, float]:
    """Return one-step images uint8 [N,H,W,C] of points and a condition, and the seconds of network and codec."""
    device = denoiser.device
    images, seconds = [], 0.0
    for first in range(0, len(points), BATCH):
        part = slice(first, first + BATCH)
        noise = noise_at(points[part], denoiser.image_shape).to(device)
        rows = None if condition is None else condition[part].to(device)
        began = clock(device)
        x0 = sample(lambda x, sigma, c=rows: denoiser(x, sigma, c), noise, (denoiser.sigma_max, 0.0))
        decoded = denoiser.decode(x0)
        seconds += clock(device) - began
        images.append(to_uint8(decoded))
    return np.concatenate(images), seconds


@torch.no_grad()
def sample_stages(denoiser: Denoiser, point: Point, condition: Any, steps: int) -> Iterator[dict[str, Any]]:
    """Yield the stages of EDM's sampler from the noise of a point: `steps` intervals, 2 `steps` - 1 calls.

    A stage begins at the noise level `sigma`. Its pictures are uint8 [H,W,C]: `x` at sigma, scaled to the size of clean
    images; `guess`, the image that the network predicted from it; `result`, the next x and at last the image. Of latent
    images, slow to decode, all but the last result show their first channel. `calls` and `milliseconds` add up.
    """
    device = denoiser.device
    condition = None if condition is None else condition.to(device)
    guesses: list[Tensor] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        guesses.append(denoiser(x, sigma, condition))
        return guesses[-1]

    def preview(images: Tensor) -> np.ndarray:
        return to_uint8(images if denoiser.codec is None else images[:, :1])[0]

    def scale(x: Tensor, sigma: float) -> Tensor:
        return x.float() / (1 + sigma**2) ** 0.5

    family = denoiser.preconditioning
    sigmas = family.sigmas(steps)
    path = trajectory(denoise, noise_at([point], denoiser.image_shape).to(device), sigmas, heun_step_of(family))
    shown, seconds, calls = preview(scale(next(path), sigmas[0])), 0.0, 0
    for sigma, sigma_next in pairwise(sigmas):
        began = clock(device)
        x = scale(next(path), sigma_next)
        image = x if sigma_next else denoiser.decode(x)
        seconds += clock(device) - began
        result = preview(x) if sigma_next else to_uint8(image)[0]
        calls += len(guesses)
        pictures = {"x": shown, "guess": preview(guesses[0].float()), "result": result}
        yield {"sigma": sigma, **pictures, "calls": calls, "milliseconds": 1000 * seconds}
        guesses.clear()
        shown = result


def clock(device: torch.device) -> float:
    """Return the time in seconds at which a device has done all that it was asked."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
