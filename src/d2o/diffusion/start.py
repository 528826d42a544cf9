"""Where a one-step generator starts: from a level at which its untrained images are images, and not noise.

One call multiplies the error of a network that predicts the noise by the level, and what a step of training changes,
too. From 80, the images of a small one are noise of many times the images' deviation, which fine-tuning must undo.
"""

import torch
from torch import Tensor

from .denoiser import Denoiser
from .families import amplification
from .noise import noise_for
from .sampling import condition_for, sample

IMAGES = 64
SHARE = 0.05
"""Of the data's deviation: the error that images of one call may have."""
LOWEST = 1.0
"""Up to it nothing is multiplied."""
USUAL_DEVIATION = 0.5
"""Of the pixels of data that is not at hand, in image units (arXiv 2206.00364)."""


def deviation_of(x0: Tensor) -> float:
    """Return the standard deviation over images [N,C,H,W], root mean square over pixels."""
    return x0.var(0).mean().sqrt().item()


@torch.no_grad()
def find_start(denoiser: Denoiser, deviation: float = USUAL_DEVIATION) -> float:
    """Return the level from which images of one call have an error of SHARE of the data's deviation; LOWEST at least.

    `deviation` is that of the data, as `deviation_of` tells. The error is measured in one call from the denoiser's own
    start, from where all images of a class should be the same. Denoisers that do not multiply their error by the level
    keep their start, and so do one-step generators.
    """
    own = denoiser.sigma_max
    if denoiser.one_step or amplification(denoiser.preconditioning) < own:
        return own
    free = denoiser.replace(clip=None)  # as students are
    noise = noise_for(range(IMAGES), free.image_shape, free.device)
    condition = condition_for(free, range(IMAGES))
    condition = None if condition is None else condition.to(noise.device)
    error = deviation_of(sample(lambda x, sigma: free(x, sigma, condition), noise, (own, 0.0))) / own
    return min(own, max(LOWEST, SHARE * deviation / max(error, 1e-9)))
