"""Which block works on which frequencies, at which noise level, and what fine-tuning changed of it."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from d2o.diffusion.denoiser import Denoiser

from .frequency import Band, by_octave, centroid, normalise, octaves, ring_power, ring_sizes
from .intervals import Interval, rank_correlation
from .network import places, watch_blocks
from .paths import Sampling, predict, sampling_paths
from .progression import Progression, deviation, mean
from .weight_change import WeightChange, weight_changes

FLAT = "flat"
FLAT_SHARE = 0.01
"""A response is flat where the means of its bands differ by less than this share of their mean."""
ROUNDING = 1e-12
"""Power below this share of the whole is rounding."""


@dataclass(frozen=True, eq=False)
class BlockSpectra:
    """One block: the change of its output and its response [T, K] at T noise levels; `size` is that of its map, (h, w).

    Ring 0 is 0 in both; `shift` is its share in the energy of the changes.
    """

    name: str
    place: str
    size: tuple[int, int]
    change: Progression
    shift: float
    response: np.ndarray

    @property
    def change_centroid(self) -> tuple[float, float]:
        """Mean over noise levels: mean and standard deviation over images, in cycles per image."""
        per_image = mean(self.change.centroids.T)
        return float(mean(per_image)), float(deviation(per_image))

    @property
    def response_centroid(self) -> tuple[float, float]:
        """Mean and standard deviation over noise levels, in cycles per image."""
        per_level = centroid(self.response)
        return float(mean(per_level)), float(deviation(per_level))

    @property
    def change_band(self) -> Band | None:
        return self.change.dominant()

    @property
    def response_band(self) -> Band | str | None:
        """The octave of the largest response; FLAT where all respond alike, None where none does."""
        means = by_octave(np.mean, self.response).mean(0)
        if not means.any():
            return None
        beyond = means[1:]  # ring 0 is left out
        flat = len(beyond) > 1 and np.ptp(beyond) < FLAT_SHARE * beyond.mean()
        return FLAT if flat else octaves(self.response.shape[1])[int(means.argmax())]

    def as_dict(self) -> dict:
        derived = ("change_band", "response_band", "change_centroid", "response_centroid")
        return {**vars(self), **{name: getattr(self, name) for name in derived}, "change": self.change.as_dict()}


@dataclass(frozen=True, eq=False)
class BlocksStudy:
    """The blocks of a network, in the order of their calls, before and, where it is given, after fine-tuning."""

    before: tuple[BlockSpectra, ...]
    after: tuple[BlockSpectra, ...]
    weights: tuple[WeightChange, ...]
    sigmas: tuple[float, ...]


def blocks(before: Denoiser, sampling: Sampling, after: Denoiser | None = None) -> BlocksStudy:
    """Watch every block on the way from noise to images, and those of a fine-tuned copy at the same inputs."""
    sigmas = sampling.levels(before)
    if after is None:
        return BlocksStudy(block_spectra(before, sampling), (), (), sigmas)
    changes = weight_changes(before, after)
    return BlocksStudy(block_spectra(before, sampling), block_spectra(before, sampling, after), changes, sigmas)


@torch.no_grad()
def block_spectra(teacher: Denoiser, sampling: Sampling, student: Denoiser | None = None) -> tuple[BlockSpectra, ...]:
    """Return the spectra of the blocks of a teacher, or a student, at the inputs that the teacher's sampling visits.

    They are in the order of their calls; a block that is not called at every noise level is left out.
    """
    denoiser, who = (teacher, "teacher") if student is None else (student, "student")
    sigmas = sampling.levels(teacher)
    batches, powers = 0, defaultdict(list)  # of each block and batch: of input, output and its change, [n, T, K]
    sizes: dict[str, tuple[int, int]] = {}
    for path in sampling_paths(teacher, sampling):
        levels = defaultdict(list)
        before: dict[str, Tensor] = {}
        for sigma, x in path.points:
            with watch_blocks(denoiser.backbone) as seen:
                predict(denoiser, x, sigma, path.condition, who)
            for name, (entered, left) in seen.items():
                levels[name].append([ring_power(maps) for maps in (entered, left, left - before.get(name, left))])
                sizes[name] = (left.shape[-2], left.shape[-1])
            before = {name: left for name, (_, left) in seen.items()}
        batches += 1
        for name, rows in levels.items():
            if len(rows) == len(sigmas):
                powers[name].append([np.stack(part, 1) for part in zip(*rows, strict=True)])
    found, place = [], places(denoiser.backbone)
    for name, parts in powers.items():
        if len(parts) == batches:
            entered, left, change = map(np.concatenate, zip(*parts, strict=True))
            content, shift = split_mean(change[:, 1:], ring_sizes(*sizes[name]))
            progression = Progression(name, np.asarray(sigmas[1:]), content, ring_sizes(*sizes[name]))
            gain = response(entered, left)
            found.append(BlockSpectra(name, place[name], sizes[name], progression, shift, gain))
    if not found:
        raise ValueError("This network has no blocks whose outputs are maps or tokens.")
    return tuple(found)


def split_mean(power: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the power [N, T, K] of changes without ring 0, the mean of a channel, and its share in their energy."""
    energy, content = power @ sizes, power.copy()
    shift = np.divide(power[..., 0], energy, out=np.zeros_like(energy), where=energy > 0)
    content[..., 0] = 0
    content[content.sum(-1) <= ROUNDING * power.sum(-1)] = 0
    return content, float(shift.mean())


def response(entered: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Return the response [T, K] for the power [N, T, K] of input and output; 0 where nothing enters."""
    rings = min(entered.shape[-1], left.shape[-1])
    entered, left = (power.sum(0)[:, :rings] for power in (entered, left))
    lit = entered > ROUNDING * entered.sum(1, keepdims=True)
    lit[:, 0] = False
    gain = np.divide(left, entered, out=np.zeros_like(left), where=lit)
    return np.nan_to_num(normalise(gain))


def relations(found: Sequence[BlockSpectra]) -> dict[str, Interval]:
    """Return the rank correlation, over blocks, of the centroid of change with resolution, or with depth without any.

    A small map cannot contain high frequencies: the second divides by the centroid of white noise on the same map.
    """
    sides = [min(block.size) for block in found]
    centroids = np.array([block.change_centroid[0] for block in found])
    white = np.array([len(block.change.frequencies) / 2 for block in found])
    correlate = partial(rank_correlation, in_sequence=True)
    if len(set(sides)) == 1:
        return {"centroid with depth": correlate(range(len(found)), centroids)}
    return {
        "centroid with resolution": correlate(sides, centroids),
        "centroid relative to white noise with resolution": correlate(sides, centroids / white),
    }
