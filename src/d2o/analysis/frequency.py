"""Frequencies of images: power on rings of the Fourier plane, centroids, octave bands.

All are in cycles per image, so that feature maps of any size share one axis.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from d2o.devices import widen


class Band(NamedTuple):
    """Rings `low` to `high` (both included), in cycles per image."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


@lru_cache(maxsize=32)
def rings(height: int, width: int) -> Tensor:
    """Return the ring [H, W] of every coefficient of a discrete Fourier transform: its radius to the nearest integer.

    Ring 0 is the mean; the last ring holds the corners, beyond the Nyquist frequency of the axes, so that none is lost.
    """
    rows, columns = (torch.fft.fftfreq(side, 1 / side, dtype=torch.float64) for side in (height, width))
    return torch.hypot(rows[:, None], columns).round().long()


def ring_sizes(height: int, width: int) -> np.ndarray:
    """Return the number of coefficients [K] of every ring."""
    return torch.bincount(rings(height, width).flatten()).numpy()


def ring_power(images: Tensor) -> np.ndarray:
    """Return the radially averaged power spectrum [N, K] float64 of images [N, C, H, W], mean over channels.

    P(k) = mean over the ring |f| ~ k of |F(f)|^2 / (H W)^2. Parseval: P summed with `ring_sizes` is the mean square of
    the pixels. White noise of variance v is flat: P(k) = v / (H W) at every k.
    """
    count, _, height, width = images.shape
    index = rings(height, width).to(images.device).flatten()
    power = torch.fft.fft2(widen(images.detach()) / (height * width)).abs().square().mean(1).flatten(1)
    sums = power.new_zeros(count, int(index.max()) + 1).index_add_(1, index, power)
    return (sums / torch.bincount(index)).cpu().numpy()


def normalise(power: np.ndarray) -> np.ndarray:
    """Return spectra [..., K] of sum 1; those without any power become NaN."""
    total = power.sum(-1, keepdims=True)
    return np.divide(power, total, out=np.full_like(power, np.nan), where=total > 0)


def centroid(spectrum: np.ndarray) -> np.ndarray:
    """Return the mean frequency [...] of spectra [..., K] in cycles per image: sum of k P(k) / sum of P(k)."""
    return normalise(spectrum) @ np.arange(spectrum.shape[-1])


def octaves(count: int) -> list[Band]:
    """Return the bands 0, 1, 2-3, 4-7, 8-15 ... that `count` rings reach into; natural images fill them evenly."""
    lows = (2**power for power in range((count - 1).bit_length()))
    return [Band(0, 0), *(Band(low, 2 * low - 1) for low in lows)]


def by_octave(combine: Callable[..., np.ndarray], values: np.ndarray) -> np.ndarray:
    """Return every octave [..., B] of values [..., K] on rings: the sum of energies, the mean of what is none."""
    return np.stack([combine(values[..., b.low : b.high + 1], axis=-1) for b in octaves(values.shape[-1])], -1)
