"""Which frequencies change from step to step: D_FFT, centroid and band energies, gathered batch by batch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .correlation import Interval, mean_rank_correlation, spearman
from .frequency import Band, centroid, in_bands, normalised, octaves, ring_power, ring_sizes


@dataclass(frozen=True, eq=False)
class Progression:
    """N sequences of outputs O_0 ... O_T, seen through their changes O_t - O_(t-1), t = 1 ... T.

    `sigmas` [T] is the noise level of the later output; `spectrum` [T, K] is D_FFT(t), mean over the sequences;
    `centroids` [N, T] are in cycles per image; `energies` [N, T, B] are the shares of the octave `bands`.
    """

    name: str
    sigmas: np.ndarray
    spectrum: np.ndarray
    centroids: np.ndarray
    energies: np.ndarray

    @property
    def frequencies(self) -> np.ndarray:
        """The frequencies [K] in cycles per image."""
        return np.arange(self.spectrum.shape[1])

    @property
    def bands(self) -> list[Band]:
        """The octave bands [B]."""
        return octaves(self.spectrum.shape[1])

    def rise(self) -> Interval:
        """Return the rank correlation of centroid with step, mean over the sequences; its interval is over them."""
        steps = np.arange(self.centroids.shape[1])
        return mean_rank_correlation([spearman(steps, row) for row in self.centroids], len(steps))

    def dominant(self) -> Band | None:
        """Return the band with the largest share of energy, mean over sequences and changes; None without any."""
        shares = np.nan_to_num(self.energies).mean((0, 1))
        return self.bands[int(shares.argmax())] if shares.any() else None

    def as_dict(self) -> dict:
        """Return what goes into JSON: everything but the single sequences."""
        return {
            "name": self.name,
            "sequences": len(self.centroids),
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


NOTHING = 1e-12
"""A share of the power below which a spectrum is rounding."""


class Tally:
    """Gather the changes of many sequences: the spectra as sums, centroids and energies one by one.

    Rings below `first` are left out: with `first` 1 the mean of an output counts for nothing.
    """

    def __init__(self, first: int = 0) -> None:
        self.first = first
        self.sums: dict[int, np.ndarray] = {}
        self.counts: dict[int, np.ndarray] = {}
        self.rows: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}

    def add(self, step: int, change: Tensor) -> None:
        """Count the changes [n,C,H,W] of step `step`; one that is all zero has no spectrum and counts for nothing."""
        power = ring_power(change)
        total = power.sum(1)
        power[:, : self.first] = 0
        power[power.sum(1) <= NOTHING * total] = 0
        spectra = normalised(power)
        known = np.isfinite(spectra).all(1)
        self.sums[step] = self.sums.get(step, 0) + spectra[known].sum(0)
        self.counts[step] = self.counts.get(step, 0) + known.sum()
        energies = normalised(in_bands(power, ring_sizes(*change.shape[-2:])))
        self.rows.setdefault(step, []).append((centroid(power), energies))

    def progression(self, name: str, sigmas: Sequence[float]) -> Progression:
        """Return the record of everything that was added; `sigmas` has one entry a change."""
        steps = sorted(self.sums)
        assert len(steps) == len(sigmas), (name, len(steps), len(sigmas))
        centroids, energies = (
            np.stack([np.concatenate([row[part] for row in self.rows[step]]) for step in steps], 1) for part in (0, 1)
        )
        spectrum = np.stack([divided(self.sums[step], self.counts[step]) for step in steps])
        return Progression(name, np.asarray(sigmas, np.float64), spectrum, centroids, energies)


def progression(name: str, sigmas: Sequence[float], batches: Iterable[Iterable[Tensor]]) -> Progression:
    """Return the record of batches of sequences: each batch yields O_0 ... O_T [n,C,H,W], at noise levels `sigmas`.

    Two outputs of one batch are held at a time.
    """
    tally = Tally()
    for outputs in batches:
        before = None
        for step, output in enumerate(outputs):
            if before is not None:
                tally.add(step, output - before)
            before = output
    if not tally.sums:
        raise ValueError(f"{name}: a progression needs at least two outputs.")
    return tally.progression(name, sigmas[1:])


def mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over sequences [N, ...], NaN left out, and NaN where nothing is left."""
    known = np.isfinite(values)
    return divided(np.where(known, values, 0).sum(0), known.sum(0))


def deviation(values: np.ndarray) -> np.ndarray:
    """Return the standard deviation over sequences [N, ...], NaN left out, and NaN where nothing is left."""
    known = np.isfinite(values)
    count = known.sum(0)
    squares = np.where(known, values - mean(values), 0) ** 2
    return np.where(count, np.sqrt(squares.sum(0) / np.maximum(count - 1, 1)), np.nan)


def divided(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return sums / counts, NaN where the count is 0."""
    return np.where(counts, sums / np.maximum(counts, 1), np.nan)
