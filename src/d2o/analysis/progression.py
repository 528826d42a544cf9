"""Which frequencies change from one output of a denoiser to the next: D_FFT, centroids and band energies."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from .frequency import Band, by_octave, centroid, normalise, octaves, ring_power
from .intervals import Interval, mean_rank_correlation, spearman


@dataclass(frozen=True, eq=False)
class Progression:
    """The power [N, T, K] on rings of the changes O_t - O_(t-1), t = 1 ... T, of N sequences of outputs.

    `sigmas` [T] is the noise level of the later output, `ring_sizes` [K] how many coefficients a ring has. A change
    that is all zero has no spectrum: it is NaN in what follows, and counts for nothing in means.
    """

    name: str
    sigmas: np.ndarray
    power: np.ndarray
    ring_sizes: np.ndarray

    @cached_property
    def spectrum(self) -> np.ndarray:
        """D_FFT [T, K]: the spectra, each normalised to sum 1, mean over sequences."""
        return mean(normalise(self.power))

    @cached_property
    def centroids(self) -> np.ndarray:
        """The centroids [N, T] in cycles per image."""
        return centroid(self.power)

    @cached_property
    def energies(self) -> np.ndarray:
        """The shares [N, T, B] of the octave bands in the energy of the changes."""
        return normalise(by_octave(np.sum, self.power * self.ring_sizes))

    @property
    def frequencies(self) -> np.ndarray:
        return np.arange(self.power.shape[2])

    @property
    def bands(self) -> list[Band]:
        return octaves(self.power.shape[2])

    def rise(self) -> Interval:
        """Return the rank correlation of centroid with step, mean over the sequences; its interval is over them."""
        steps = range(self.power.shape[1])
        return mean_rank_correlation([spearman(steps, row) for row in self.centroids], len(steps))

    def dominant(self) -> Band | None:
        """Return the band with the largest share of energy, mean over sequences and changes; None without any."""
        shares = np.nan_to_num(self.energies).mean((0, 1))
        return self.bands[int(shares.argmax())] if shares.any() else None

    def as_dict(self) -> dict:
        return {
            "name": self.name,
            "sequences": len(self.power),
            "sigma": self.sigmas,
            "frequencies_cycles_per_image": self.frequencies,
            "d_fft": self.spectrum,
            "centroid_mean": mean(self.centroids),
            "centroid_deviation": deviation(self.centroids),
            "bands_cycles_per_image": [str(band) for band in self.bands],
            "band_energy_mean": mean(self.energies),
            "band_energy_deviation": deviation(self.energies),
            "rank_correlation_of_centroid_with_step": self.rise()._asdict(),
        }


def follow(outputs: Iterable[Tensor]) -> tuple[np.ndarray, Tensor, Tensor]:
    """Return the power [n, T, K] of the changes between outputs [n,C,H,W], the first output and the last one."""
    outputs = iter(outputs)
    first = before = next(outputs)
    powers = []
    for output in outputs:  # two at a time are in memory
        powers.append(ring_power(output - before))
        before = output
    return np.stack(powers, 1), first, before


def mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over sequences [N, ...], NaN left out, and NaN where nothing is left."""
    return np.ma.filled(np.ma.masked_invalid(values).mean(0).astype(float), np.nan)


def deviation(values: np.ndarray) -> np.ndarray:
    """Return the standard deviation over sequences [N, ...], NaN left out, and NaN where fewer than two are left."""
    return np.ma.filled(np.ma.masked_invalid(values).std(0, ddof=1).astype(float), np.nan)
