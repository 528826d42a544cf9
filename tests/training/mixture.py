"""Eight Gaussians in the plane, a perceptron that can be told where a jump ends, and how far two clouds are apart."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from d2o.diffusion.denoiser import Denoiser
from d2o.diffusion.families import EDM
from d2o.diffusion.noise import noise_for
from d2o.objectives.trajectory import SECOND_TIME

ANGLES = torch.arange(8) * torch.pi / 4
MODES, SPREAD = 0.7 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1), 0.1
BATCH = 256


class Perceptron(nn.Module):
    """Predicts points [N,2,1,1] from points and the noise number; the labels of jumps enter without weight."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.config = {"augmentation_dim": SECOND_TIME}
        self.first = nn.Linear(3, width)
        self.told = nn.Linear(SECOND_TIME, width, bias=False)
        nn.init.zeros_(self.told.weight)
        self.rest = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2))

    def forward(self, x: Tensor, noise: Tensor, label: Any = None, augmentation: Tensor | None = None) -> Tensor:
        hidden = self.first(torch.cat([x.flatten(1), noise[:, None]], 1))
        if augmentation is not None:
            hidden = hidden + self.told(augmentation.float())
        return self.rest(hidden)[:, :, None, None]


def untrained(seed: int = 0) -> Denoiser:
    """Return a denoiser of points with fresh weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Denoiser(Perceptron(), EDM(), (2, 1, 1))


def stream() -> Iterator[tuple[Tensor, None, Tensor]]:
    """Yield batches of points of the mixture; the same places again and again, which noise makes new."""
    index = torch.arange(8192)
    points = (MODES[index % 8] + SPREAD * noise_for((10**9 + index).tolist(), (2,)))[:, :, None, None]
    for start in count(0, BATCH):
        yield points[start % 8192 :][:BATCH], None, torch.arange(start, start + BATCH)


def exact(x: Tensor, sigma: Any, label: Any = None) -> Tensor:
    """Return the posterior mean of the mixture: the best that a denoiser can say."""
    sigma = torch.as_tensor(sigma, dtype=x.dtype).view(-1, 1)
    variance, modes = SPREAD**2 + sigma**2, MODES.to(x.dtype)
    points = x.flatten(1)
    weight = (-(torch.cdist(points, modes) ** 2) / (2 * variance)).softmax(1)
    return x + (sigma**2 / variance * (weight @ modes - points))[:, :, None, None]


def energy(one: Tensor, other: Tensor) -> float:
    """Return the energy distance of two clouds [N,2], 0 for equal distributions: 2 E|a - b| - E|a - a'| - E|b - b'|."""

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a, b).mean()

    return float(2 * mean(one, other) - mean(one, one) - mean(other, other))
