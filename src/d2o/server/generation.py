"""What the page shows: one-step images on the way between seeds, and the teacher's sampler step by step, both timed."""

import math
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Annotated, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from d2o.data.files import MAX_SEED, to_uint8
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.noise import karras_sigmas, noise_for
from d2o.diffusion.sampling import heun_step, sample
from d2o.records import Real, Whole

Seed = Annotated[Whole, Field(ge=0, le=MAX_SEED)]
BATCH = 64
"""Images that are made in one forward pass."""


class Point(NamedTuple):
    """A place in noise space: at `share` of the way from one seed's noise to another's."""

    seed: Seed
    other: Seed
    share: Annotated[Real, Field(ge=0, le=1)]


class Stage(NamedTuple):
    """Where the sampler stands after the step from the noise level `sigma` to `sigma_next`.

    Pictures are uint8 [H,W,C]: `x` at sigma, scaled to the size of clean images; `guess`, the image that the network
    predicted from it; `result`, x at sigma_next, which is the image at sigma_next = 0. Of latent images, which are slow
    to decode, all but the last result are shown by their first channel. `calls` and `seconds` count from the start.
    """

    sigma: float
    sigma_next: float
    x: np.ndarray
    guess: np.ndarray
    result: np.ndarray
    calls: int
    seconds: float


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Return the noise at `share` of the way from one noise to another of its shape, along a great circle.

    Unit normal noises are nearly orthogonal, so what lies between them is as large as they are, where a straight line
    would pass through shorter vectors that no network was trained on (Shoemake 1985).
    """
    cosine = torch.nn.functional.cosine_similarity(first.double().flatten(), second.double().flatten(), dim=0)
    angle = math.acos(min(max(cosine.item(), -1.0), 1.0))
    if math.sin(angle) < 1e-6:  # the same direction, or opposite ones, between which every great circle leads
        return torch.lerp(first, second, share)
    return (math.sin((1 - share) * angle) * first + math.sin(share * angle) * second) / math.sin(angle)


def noise_at(points: Sequence[Point], shape: Sequence[int]) -> Tensor:
    """Return the noise [N, *shape] of points."""
    ends = noise_for([seed for point in points for seed in point[:2]], shape).unflatten(0, (len(points), 2))
    return torch.stack([slerp(pair[0], pair[1], point.share) for pair, point in zip(ends, points, strict=True)])


@torch.no_grad()
def make_images(denoiser: Denoiser, points: Sequence[Point], labels: Tensor | None) -> tuple[np.ndarray, float]:
    """Return one-step images uint8 [N,H,W,C] of points and classes [N], and the seconds of network and codec."""
    device = device_of(denoiser)
    noise = noise_at(points, denoiser.image_shape)
    images, seconds = [], 0.0
    for first in range(0, len(points), BATCH):
        part = slice(first, first + BATCH)
        start = noise[part].to(device)
        label = None if labels is None else labels[part].to(device)
        began = clock(device)
        x0 = sample(lambda x, sigma, c=label: denoiser(x, sigma, c), start, (denoiser.sigma_max, 0.0))
        decoded = denoiser.decode(x0)
        seconds += clock(device) - began
        images.append(to_uint8(decoded))
    return np.concatenate(images), seconds


@torch.no_grad()
def sample_stages(denoiser: Denoiser, point: Point, label: Tensor | None, steps: int) -> Iterator[Stage]:
    """Yield the stages of EDM's sampler from the noise of a point: `steps` intervals, 2 `steps` - 1 calls."""
    device = device_of(denoiser)
    label = None if label is None else label.to(device)
    guesses: list[Tensor] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        guesses.append(denoiser(x, sigma, label))
        return guesses[-1]

    sigmas = karras_sigmas(steps, sigma_max=denoiser.sigma_max)
    x = noise_at([point], denoiser.image_shape).to(device).double() * sigmas[0]
    seconds, calls = 0.0, 0
    preview = denoiser.decode if denoiser.codec is None else first_channel
    for sigma, sigma_next in pairwise(sigmas):
        began = clock(device)
        after = heun_step(denoise, x, sigma, sigma_next)
        scaled = unit_scale(after, sigma_next)
        result = preview(scaled) if sigma_next else denoiser.decode(scaled)
        seconds += clock(device) - began
        calls += len(guesses)
        held, guess = preview(unit_scale(x, sigma)), preview(guesses[0].float())
        x_picture, guess_picture, result_picture = (to_uint8(image)[0] for image in (held, guess, result))
        yield Stage(sigma, sigma_next, x_picture, guess_picture, result_picture, calls, seconds)
        guesses.clear()
        x = after


def unit_scale(x: Tensor, sigma: float) -> Tensor:
    """Return x at a noise level as float32, scaled down to about the size of clean images."""
    return x.float() / (1 + sigma**2) ** 0.5


def first_channel(latents: Tensor) -> Tensor:
    """Return the first channel of latent images, which is somewhat like their brightness."""
    return latents[:, :1]


def device_of(denoiser: Denoiser) -> torch.device:
    """Return where a denoiser computes."""
    return next((p.device for p in denoiser.parameters()), torch.device("cpu"))


def clock(device: torch.device) -> float:
    """Return the time in seconds at which a device has done all that it was asked."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
