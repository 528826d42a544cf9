"""Data N(0, DEVIATION^2), for which every network that an objective asks has a closed form; all in float64."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from d2o.diffusion.families import EDM
from d2o.diffusion.noise import SIGMA_MAX, SIGMA_MIN, noise_for
from d2o.objectives.objective import Batch, Networks

DEVIATION = 0.5
SHAPE = (1, 4, 4)


class Exact:
    """What stands in for a denoiser: a function of (x, sigma) or (x, sigma, told), sigma as [N,1,1,1]."""

    image_shape, sigma_max, backbone, preconditioning = SHAPE, SIGMA_MAX, None, EDM()

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def __call__(self, x: Tensor, sigma: Tensor, label: Any = None, told: Tensor | None = None) -> Tensor:
        sigma = sigma.view(-1, 1, 1, 1)
        return self.function(x, sigma) if told is None else self.function(x, sigma, told)

    def replace(self, **changes: Any) -> "Exact":
        del changes
        return self

    def encode(self, images: Tensor) -> Tensor:
        return images


def spread(sigma: Tensor | float) -> Any:
    """Return the variance of data with noise."""
    return DEVIATION**2 + torch.as_tensor(sigma) ** 2


def denoised(x: Tensor, sigma: Tensor) -> Tensor:
    """Return the posterior mean: the exact teacher."""
    return DEVIATION**2 / spread(sigma) * x


def carried(x: Tensor, sigma: Tensor, sigma_next: Tensor | float) -> Tensor:
    """Return where the exact trajectory through (x, sigma) is at sigma_next."""
    return x * (spread(sigma_next) / spread(sigma)).sqrt()


def consistent(x: Tensor, sigma: Tensor) -> Tensor:
    """Return the exact consistency function: where the trajectory begins."""
    return carried(x, sigma, SIGMA_MIN)


def scene(student: Callable[..., Tensor], count: int = 200) -> tuple[Networks, Batch]:
    """Return exact networks with this student, and a batch in float64."""
    one: Any = Exact(student)
    teacher: Any = Exact(denoised)
    x0 = DEVIATION * noise_for(range(10**6, 10**6 + count), SHAPE).double()
    return Networks(one, one, teacher), Batch(x0, None, range(count), seed=1)
