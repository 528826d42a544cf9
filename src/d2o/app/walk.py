"""A walk in noise space: along great circles from the noise of one seed to the noise of the next."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from d2o.diffusion.noise import noise_for


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Return the noise at `share` (0 to 1) of the way from one noise to another of its shape, along a great circle.

    Unit normal noises are nearly orthogonal, so what lies between them is as large as they are, where a straight line
    would pass through shorter vectors that no network was trained on (Shoemake 1985).
    """
    cosine = torch.nn.functional.cosine_similarity(first.double().flatten(), second.double().flatten(), dim=0)
    angle = math.acos(min(max(cosine.item(), -1.0), 1.0))
    if math.sin(angle) < 1e-6:  # the same direction, or opposite ones: every great circle is as good
        return torch.lerp(first, second, share)
    near, far = math.sin((1 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle)
    return near * first + far * second


def between(shape: Sequence[int], first: int, second: int, shares: Sequence[float]) -> Tensor:
    """Return noise [N, *shape] at shares of the way between two seeds."""
    start, end = noise_for([first, second], shape)
    return torch.stack([slerp(start, end, share) for share in shares])


def along(shape: Sequence[int], seed: int, position: float) -> Tensor:
    """Return noise [1, *shape] at a position on the walk through `seed`, `seed` + 1 ...: whole positions are seeds."""
    station = math.floor(position)
    return between(shape, seed + station, seed + station + 1, [position - station])
