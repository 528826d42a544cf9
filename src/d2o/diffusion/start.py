"""Where a one-step generator starts: the largest noise level from which its untrained images are images.

One call multiplies the error of a network that predicts the noise by sigma. From 80, the images of a small one are
noise of many times the images' deviation, which fine-tuning must undo first; from a lower level they are blurred.
"""

import torch
from torch import Tensor

from .denoiser import Denoiser
from .noise import karras_sigmas, noise_for
from .sampling import condition_for, sample

LEVELS, LOWEST = 24, 1.0
"""Of the levels that are tried: their number, and the smallest."""
IMAGES = 64
TOO_MUCH = 1.2
"""Times the data's deviation from which one-step images are called noise."""
USUAL_DEVIATION = 0.5
"""Of the pixels of data that is not at hand, in image units (arXiv 2206.00364)."""


def deviation_of(x0: Tensor) -> float:
    """Return the standard deviation over images [N,C,H,W], root mean square over pixels."""
    return x0.var(0).mean().sqrt().item()


@torch.no_grad()
def find_start(denoiser: Denoiser, deviation: float = USUAL_DEVIATION) -> float:
    """Return the largest noise level from which images of one call deviate about as the data does, or less.

    `deviation` is that of the data, as `deviation_of` tells. The lowest level tried is 1.
    """
    noise = noise_for(range(IMAGES), denoiser.image_shape, denoiser.device)
    condition = condition_for(denoiser, range(IMAGES))
    condition = None if condition is None else condition.to(noise.device)
    own = denoiser.sigma_max
    tried = (own, *(sigma for sigma in karras_sigmas(LEVELS, LOWEST, 200.0)[:-1] if sigma < own))
    for sigma in tried:
        x0 = sample(lambda x, sigma: denoiser(x, sigma, condition), noise, (sigma, 0.0))
        if deviation_of(x0) <= TOO_MUCH * deviation:
            return sigma
    return tried[-1]
