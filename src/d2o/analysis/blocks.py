"""Which block works on which frequencies, at which noise level, and what fine-tuning changed of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from d2o.diffusion.denoiser import Denoiser
from d2o.metrics.counting import Counted, unshown

from . import weight_change
from .correlation import rank_correlation, verdict
from .findings import Cell, Findings, Table, measured
from .frequency import Band, band_mean, centroid, normalised, octaves, ring_power
from .network import places, taps
from .paths import Path, ask, levels, sampled
from .progression import NOTHING, Progression, Tally, deviation, mean
from .weight_change import WeightChange, check_alike, weight_changes

DEFINITIONS = (
    "Change: D_FFT of a block's output, B_t - B_(t-1) at successive noise levels on the teacher's way, mean over its "
    "channels, without ring 0; its band is the octave with the largest share of energy, mean over images and levels.",
    "Shift: the share of ring 0 in the energy of that change. It is large because the embedding of the noise level "
    "moves whole channels of every block up and down, which is no content of the image; so bands and centroids leave "
    "it out.",
    "Response at sigma: R(k) = P_out(k) / P_in(k), the radially averaged power of what leaves a block over that of "
    "what enters it, over the rings from 1 on that both have, normalised to sum 1; its band has the largest mean R, "
    "but where the means of all bands differ by less than 1 % of their mean it is flat.",
    "A dash instead of a band: the output does not change beyond its channels' means, or nothing comes through.",
    "Both networks see the same inputs: the noisy images x_t that the first one visits.",
    "Frequencies are cycles per image at every resolution: a 4x4 map reaches no further than ring 3.",
    "Blocks resemble their neighbours on the way through the network: N of them count as N (1 - ab) / (1 + ab) "
    "independent ones in an interval, a and b being the autocorrelations of the ranks of both sides at lag 1.",
    "Relative weight change: |W_after - W_before| / |W_before|, Euclidean norms over all parameters of a row.",
)
FLAT = "flat"
"""Stands for the band of a response that raises no band above the others."""
ALIKE = 0.01
"""Mean responses of bands that differ by a smaller share of their mean are rounding, and flat."""


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
        means = band_mean(self.response).mean(0)
        if not means.any():
            return None
        told = means[1:]  # ring 0 is left out
        if len(told) > 1 and np.ptp(told) < ALIKE * told.mean():
            return FLAT
        return octaves(self.response.shape[1])[int(means.argmax())]

    def as_dict(self) -> dict:
        """Return what goes into JSON."""
        return {
            "name": self.name,
            "place": self.place,
            "size": self.size,
            "change_band": written(self.change_band),
            "response_band": written(self.response_band),
            "change_centroid": self.change_centroid,
            "response_centroid": self.response_centroid,
            "shift": self.shift,
            "response": self.response,
            "change": self.change.as_dict(),
        }


def written(band: Band | str | None) -> str | None:
    """Return a band as it is written in tables and JSON."""
    return None if band is None else str(band)


@dataclass(frozen=True, eq=False)
class BlocksStudy:
    """The blocks of a network, in the order in which they are called, before and, where it is given, after.

    `news` are sentences on parameters that only the second network has.
    """

    before: tuple[BlockSpectra, ...]
    after: tuple[BlockSpectra, ...]
    weights: tuple[WeightChange, ...]
    sigmas: tuple[float, ...]
    news: tuple[str, ...] = ()


def blocks(
    before: Denoiser,
    after: Denoiser | None = None,
    *,
    seeds: Sequence[int] = range(64),
    steps: int = 18,
    sampler: str = "heun",
    batch_size: int = 64,
    counted: Counted = unshown,
) -> BlocksStudy:
    """Watch every block on the way from noise to images, and those of a fine-tuned copy on the same way."""
    if after is not None:
        check_alike(before, after, but=weight_change.AUGMENTATION)
    models = {"network": before} if after is None else {"teacher": before, "student": after}
    sigmas, first = levels(before, steps), next(iter(models))
    watched = [
        watch(model, sampled(before, seeds, steps, sampler, batch_size, counted, first), sigmas, who)
        for who, model in models.items()
    ]
    if after is None:
        return BlocksStudy(watched[0], (), (), sigmas)
    news = weight_change.news(before, after)
    return BlocksStudy(watched[0], watched[1], weight_changes(before, after), sigmas, tuple(news))


@torch.no_grad()
def watch(
    denoiser: Denoiser, paths: Iterable[Path], sigmas: Sequence[float], who: str = "teacher"
) -> tuple[BlockSpectra, ...]:
    """Return the spectra of all blocks along paths through the noise levels `sigmas`, in the order of their calls.

    Of a block that is called more than once in a call of the network, the last call counts; one that is not called at
    every noise level is left out. `who` is what errors call the denoiser.
    """
    network = denoiser.backbone
    always: set[str] | None = None
    tallies: dict[str, Tally] = {}
    passed: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    size: dict[str, tuple[int, int]] = {}
    shifts: dict[str, list[np.ndarray]] = {}
    for path in paths:
        earlier: dict = {}
        for step, (sigma, x) in enumerate(path.points):
            with taps(network) as seen:
                ask(denoiser, x, sigma, path.label, who)
            always = set(seen) if always is None else always & set(seen)
            for name, (entered, left) in seen.items():
                if name not in always:
                    continue
                size[name] = left.shape[-2], left.shape[-1]
                powers = [ring_power(value).sum(0) for value in (entered, left)]
                rows = passed.setdefault(name, [])
                if len(rows) == step:
                    rows.append((powers[0], powers[1]))
                else:
                    rows[step] = rows[step][0] + powers[0], rows[step][1] + powers[1]
                if name in earlier:
                    change = left - earlier[name]
                    tallies.setdefault(name, Tally(first=1)).add(step, change)
                    shifts.setdefault(name, []).append(shift(change))
            earlier = {name: left for name, (_, left) in seen.items()}
    if not always:
        raise ValueError("This network has no blocks whose outputs are maps or tokens.")
    place = places(network)
    return tuple(
        BlockSpectra(
            name,
            place[name],
            size[name],
            tally.progression(name, sigmas[1:]),
            float(np.concatenate(shifts[name]).mean()),
            response(passed[name]),
        )
        for name, tally in tallies.items()
        if name in always
    )


def shift(change: Tensor) -> np.ndarray:
    """Return the share [N] of the channels' means in the energy of changes [N, C, h, w]."""
    energy = change.double().square().mean((1, 2, 3))
    means = change.double().mean((2, 3)).square().mean(1)
    return torch.where(energy > 0, means / energy, 0).cpu().numpy()


def response(passed: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Return the responses [T, K] of pairs of power spectra, in and out, at T noise levels; 0 where nothing enters."""
    rings = min(len(passed[0][0]), len(passed[0][1]))
    entered, left = (np.stack([pair[side][:rings] for pair in passed]) for side in (0, 1))
    lit = entered > NOTHING * entered.sum(1, keepdims=True)
    lit[:, 0] = False
    gain = np.divide(left, entered, out=np.zeros_like(left), where=lit)
    return np.nan_to_num(normalised(gain))


def findings(study: BlocksStudy) -> Findings:
    """Return what the study says, in words, tables and numbers."""
    sentences = [specialised(study.before, "before fine-tuning" if study.after else "in this network")]
    if study.after:
        sentences += [specialised(study.after, "after fine-tuning"), shifted(study)]
        sentences += [weight_change.sentence(study.weights), *study.news]
    return Findings(
        kind="blocks",
        title="Blocks: which part of the network works on which frequencies",
        question="Do the blocks specialise by frequency band, following their resolution, and what did fine-tuning do?",
        conclusion=tuple(sentences),
        tables=(table(study), *([weight_change.table(study.weights)] if study.weights else [])),
        numbers={
            "sigma": study.sigmas,
            "before": [block.as_dict() for block in study.before],
            "after": [block.as_dict() for block in study.after],
            "weight_changes": [vars(row) for row in study.weights],
        },
        definitions=DEFINITIONS,
    )


def specialised(found: Sequence[BlockSpectra], when: str) -> str:
    """Return whether a block's frequencies follow its resolution, as a sentence."""
    sides = [min(block.size) for block in found]
    middles = np.array([block.change_centroid[0] for block in found])
    bands = ", ".join(map(str, used(found)))
    kinds = f"The blocks' dominant bands, in cycles per image: {bands}." if bands else "No block has a dominant band."
    if len(set(sides)) == 1:
        depth = rank_correlation(range(len(found)), middles, in_sequence=True)
        return f"{verdict(depth, f'{when}, later blocks change at higher frequencies')} {kinds}"
    claim = f"{when}, blocks at higher resolution change at higher frequencies"
    flat = np.array([(block.change.spectrum.shape[1]) / 2 for block in found])  # of white noise on the same map
    plainly, beyond = (rank_correlation(sides, values, in_sequence=True) for values in (middles, middles / flat))
    return (
        f"{verdict(plainly, claim)} A small map cannot hold high frequencies at all; relative to white noise on a map "
        f"of the same size, the rank correlation is {beyond}. {kinds}"
    )


def used(found: Sequence[BlockSpectra]) -> list[Band]:
    """Return the bands in which some block changes most."""
    return sorted({block.change_band for block in found if block.change_band is not None})


def shifted(study: BlocksStudy) -> str:
    """Return how many blocks changed their band, and where the centroid moved most, as a sentence."""
    pairs = list(zip(study.before, study.after, strict=True))
    other = sum(old.change_band != new.change_band for old, new in pairs)
    told = f"Fine-tuning gave {other} of {len(pairs)} blocks another dominant band"
    moves = [abs(new.change_centroid[0] - old.change_centroid[0]) for old, new in pairs]
    if not np.isfinite(moves).any():
        return f"{told}; no block has a centroid before and after."
    old, new = pairs[int(np.nanargmax(moves))]
    return (
        f"{told}; the centroid moved most in {old.name}, from {old.change_centroid[0]:.2f} to "
        f"{new.change_centroid[0]:.2f} cycles per image."
    )


def table(study: BlocksStudy) -> Table:
    """Return the table block -> dominant band and centroids."""
    head = ("change band", "change centroid", "shift", "response band", "response centroid")
    columns = ("block", "place", "map", *head, *(f"{name}, after" for name in head if study.after))
    rows = []
    for index, block in enumerate(study.before):
        cells = describe(block) + (describe(study.after[index]) if study.after else ())
        rows.append((block.name, block.place, "x".join(map(str, block.size)), *cells))
    return Table(
        "Block by block (cycles per image; ± standard deviation over images, and over noise levels)", columns, rows
    )


def describe(block: BlockSpectra) -> tuple[Cell, ...]:
    """Return a block's bands and centroids as cells; a dash where there is none."""
    change, response = (
        measured(middle, deviation if np.isfinite(middle) else None)
        for middle, deviation in (block.change_centroid, block.response_centroid)
    )
    return written(block.change_band), change, f"{block.shift:.0%}", written(block.response_band), response
