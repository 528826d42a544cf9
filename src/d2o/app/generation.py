"""What the page draws: images in one call, and the teacher's walk stage by stage, with time and calls counted."""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from d2o.data.files import to_uint8
from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.noise import karras_sigmas
from d2o.diffusion.sampling import heun_step, sample

LARGEST = 2**24
"""Numbers of the images of one request: 341 of 128 x 128 pixels in colour, and about 64 MB."""


class Made(NamedTuple):
    """Images uint8 [N,H,W,C], and what they cost."""

    images: np.ndarray
    calls: int
    seconds: float


class Stage(NamedTuple):
    """Where the teacher's walk stands: it came from the noise level `sigma` and is at `sigma_next`.

    `x` uint8 [H,W,C] is what the walk held at sigma, brought to the size of images; `guess` the image that the network
    saw behind it; `result` what the walk holds now, the image itself at sigma_next = 0. Of latent images, which are
    slow to decode, all but the last result are shown by their first channel.
    """

    sigma: float
    sigma_next: float
    x: np.ndarray
    guess: np.ndarray
    result: np.ndarray
    calls: int
    seconds: float


def check_size(denoiser: Denoiser, count: int) -> None:
    """Raise a ValueError for more images than a page should ask for."""
    numbers = int(np.prod(denoiser.pixel_shape))
    if count * numbers > LARGEST:
        raise ValueError(f"{count} images of this model are too many at once; it may be {LARGEST // numbers}.")


@torch.no_grad()
def in_one_call(denoiser: Denoiser, noise: Tensor, labels: Tensor | None, batch: int = 64) -> Made:
    """Return the one-step images of noise [N,C,H,W] and classes [N]; calls and seconds are of all N together."""
    check_size(denoiser, len(noise))
    device = next((p.device for p in denoiser.parameters()), torch.device("cpu"))
    began = time.perf_counter()
    parts = []
    for first in range(0, len(noise), batch):
        part = slice(first, first + batch)
        label = None if labels is None else labels[part].to(device)
        x0 = sample(lambda x, sigma, c=label: denoiser(x, sigma, c), noise[part].to(device), (denoiser.sigma_max, 0.0))
        parts.append(to_uint8(denoiser.decode(x0)))
    return Made(np.concatenate(parts), len(parts), time.perf_counter() - began)


@torch.no_grad()
def stages(denoiser: Denoiser, noise: Tensor, label: Tensor | None, steps: int) -> Iterator[Stage]:
    """Yield the stages of EDM's sampler on one noise [1,C,H,W]: `steps` intervals, 2 `steps` - 1 calls.

    `seconds` counts the sampler alone, without the pictures of its stages.
    """
    device = next((p.device for p in denoiser.parameters()), torch.device("cpu"))
    label = None if label is None else label.to(device)
    guesses: list[Tensor] = []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        guesses.append(denoiser(x, sigma, label))
        return guesses[-1]

    sigmas = karras_sigmas(steps, sigma_max=denoiser.sigma_max)
    x = noise.to(device).double() * sigmas[0]
    seconds, calls = 0.0, 0
    for sigma, sigma_next in pairwise(sigmas):
        began = time.perf_counter()
        after = heun_step(denoise, x, sigma, sigma_next)
        seconds += time.perf_counter() - began
        calls += len(guesses)
        decode = denoiser.decode if denoiser.codec is None else first_channel
        result = picture(after, sigma_next, decode if sigma_next else denoiser.decode)
        held, guess = picture(x, sigma, decode), picture(guesses[0], 0.0, decode)
        yield Stage(sigma, sigma_next, held, guess, result, calls, seconds)
        guesses.clear()
        x = after


def picture(x: Tensor, sigma: float, decode: Callable[[Tensor], Tensor]) -> np.ndarray:
    """Return x [1,C,H,W] at a noise level as uint8 [H,W,C], scaled down to about the size of clean images."""
    return to_uint8(decode(x.float() / (1 + sigma**2) ** 0.5))[0]


def first_channel(latents: Tensor) -> Tensor:
    """Return the first channel of latent images, which is somewhat like their brightness."""
    return latents[:, :1]
