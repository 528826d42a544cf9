"""Which block works on which frequencies, at which noise level, and what fine-tuning changed of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from d2o.diffusion.denoiser import Denoiser

from .frequency import Band, band_means, centroid, normalise, octaves, ring_power, ring_sizes
from .intervals import Interval, rank_correlation
from .network import places, watch_blocks
from .paths import Sampling, predict, sampling_paths
from .progression import Progression, deviation, mean
from .weight_change import AUGMENTATION, WeightChange, check_alike, weight_changes

FLAT = "flat"
"""Stands for the band of a response that raises no band above the others by FLAT_SHARE of their mean."""
FLAT_SHARE = 0.01
ROUNDING = 1e-12
"""A share of the power below which a spectrum is rounding."""


@dataclass(frozen=True, eq=False)
class BlockSpectra:
    """One block: its name, place and map size (h, w); the change of its output; its response [T, K] at T levels.

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
        """The centroid in cycles per image, mean over noise levels: mean and standard deviation over images."""
        per_image = mean(self.change.centroids.T)
        return float(mean(per_image)), float(deviation(per_image))

    @property
    def response_centroid(self) -> tuple[float, float]:
        """The centroid of the response in cycles per image: mean and standard deviation over noise levels."""
        found = centroid(self.response)
        return float(mean(found)), float(deviation(found))

    @property
    def change_band(self) -> Band | None:
        """The octave in which its output changes most; None where it does not change."""
        return self.change.dominant()

    @property
    def response_band(self) -> Band | str | None:
        """The octave that it raises most; FLAT where it raises all alike, None where it answers to nothing."""
        means = band_means(self.response).mean(0)
        if not means.any():
            return None
        beyond = means[1:]  # ring 0 is left out
        flat = len(beyond) > 1 and np.ptp(beyond) < FLAT_SHARE * beyond.mean()
        return FLAT if flat else octaves(self.response.shape[1])[int(means.argmax())]

    def as_dict(self) -> dict:
        """Return what goes into JSON."""
        derived = ("change_band", "response_band", "change_centroid", "response_centroid")
        return {**vars(self), **{name: getattr(self, name) for name in derived}, "change": self.change.as_dict()}


@dataclass(frozen=True, eq=False)
class BlocksStudy:
    """The blocks of a network, in the order in which they are called, before and, where it is given, after."""

    before: tuple[BlockSpectra, ...]
    after: tuple[BlockSpectra, ...]
    weights: tuple[WeightChange, ...]
    sigmas: tuple[float, ...]


def blocks(before: Denoiser, sampling: Sampling, after: Denoiser | None = None) -> BlocksStudy:
    """Watch every block on the way from noise to images, and those of a fine-tuned copy on the same way."""
    if after is not None:
        check_alike(before, after, but=AUGMENTATION)
    found, sigmas = block_spectra(before, sampling), sampling.levels(before)
    if after is None:
        return BlocksStudy(found, (), (), sigmas)
    return BlocksStudy(found, block_spectra(before, sampling, after), weight_changes(before, after), sigmas)


class BlockPower(NamedTuple):
    """Power on rings [N, T, K] of what enters a block, of what leaves it, and of the change since the level before."""

    entered: np.ndarray
    left: np.ndarray
    change: np.ndarray


@torch.no_grad()
def block_spectra(teacher: Denoiser, sampling: Sampling, student: Denoiser | None = None) -> tuple[BlockSpectra, ...]:
    """Return the spectra of all blocks of a teacher, or a student, on the teacher's way, in the order of their calls.

    Of a block that is called more than once in a call of the network, the last call counts; one that is not called at
    every noise level is left out.
    """
    denoiser, who = (teacher, "teacher") if student is None else (student, "student")
    sigmas = sampling.levels(teacher)
    batches: list[dict[str, BlockPower]] = []
    sizes: dict[str, tuple[int, int]] = {}
    for path in sampling_paths(teacher, sampling):
        steps: dict[str, list[BlockPower]] = {}
        before: dict[str, Tensor] = {}
        for sigma, x in path.points:
            with watch_blocks(denoiser.backbone) as seen:
                predict(denoiser, x, sigma, path.label, who)
            for name, (entered, left) in seen.items():
                power = BlockPower(*map(ring_power, (entered, left, left - before.get(name, left))))
                steps.setdefault(name, []).append(power)
                sizes[name] = (left.shape[-2], left.shape[-1])
            before = {name: left for name, (_, left) in seen.items()}
        every = {name: rows for name, rows in steps.items() if len(rows) == len(sigmas)}
        batches.append({name: join(rows, partial(np.stack, axis=1)) for name, rows in every.items()})
    names = [name for name in batches[0] if all(name in batch for batch in batches)]
    if not names:
        raise ValueError("This network has no blocks whose outputs are maps or tokens.")
    found, place = [], places(denoiser.backbone)
    for name in names:
        power = join([batch[name] for batch in batches], np.concatenate)
        content, shift = split_mean(power.change[:, 1:], ring_sizes(*sizes[name]))
        change = Progression(name, np.asarray(sigmas[1:]), content, ring_sizes(*sizes[name]))
        found.append(BlockSpectra(name, place[name], sizes[name], change, shift, response(power.entered, power.left)))
    return tuple(found)


def join(powers: Sequence[BlockPower], combine: Callable[[Sequence[np.ndarray]], np.ndarray]) -> BlockPower:
    """Combine several powers into one, part by part."""
    return BlockPower(*map(combine, zip(*powers, strict=True)))


def split_mean(power: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the power [N, T, K] of changes without ring 0, the mean of a channel, and its share in their energy."""
    energy, content = power @ sizes, power.copy()
    shift = np.divide(power[..., 0], energy, out=np.zeros_like(energy), where=energy > 0)
    content[..., 0] = 0
    content[content.sum(-1) <= ROUNDING * power.sum(-1)] = 0
    return content, float(shift.mean())


def response(entered: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Return the response [T, K] for the power [N, T, K] of what enters and leaves; 0 where nothing enters."""
    rings = min(entered.shape[-1], left.shape[-1])
    entered, left = (power.sum(0)[:, :rings] for power in (entered, left))
    lit = entered > ROUNDING * entered.sum(1, keepdims=True)
    lit[:, 0] = False
    gain = np.divide(left, entered, out=np.zeros_like(left), where=lit)
    return np.nan_to_num(normalise(gain))


def relations(found: Sequence[BlockSpectra]) -> dict[str, Interval]:
    """Return the rank correlation, over blocks, of the centroid of change with resolution, or with depth without any.

    A small map cannot hold high frequencies at all: the second divides by the centroid of white noise on the same map.
    """
    sides = [min(block.size) for block in found]
    centroids = np.array([block.change_centroid[0] for block in found])
    if len(set(sides)) == 1:
        return {"centroid with depth": rank_correlation(range(len(found)), centroids, in_sequence=True)}
    flat = np.array([len(block.change.frequencies) / 2 for block in found])
    return {
        "centroid with resolution": rank_correlation(sides, centroids, in_sequence=True),
        "centroid relative to white noise with resolution": rank_correlation(sides, centroids / flat, in_sequence=True),
    }
