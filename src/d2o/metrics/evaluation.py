"""Judge images against a reference: a judge looks at the reference once, then compares as many generators as you like.

judge = Judge("cifar10.zip", images=1000);  evaluation = judge("student.safetensors")
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2o.features.embedding import Embedding, embedding

from .counting import Counted, unshown
from .distances import SMALLEST, Distances, distances
from .diversity import Diversity
from .look import Look, look, look_at_statistics
from .sources import Source, Stream, open_source
from .spaces import overlap
from .statistics import Features

COLLAPSE, LOW_RECALL = 0.75, 0.1
"""Images that vary less than this share of the reference's variation, or cover less of it, earn a warning."""
RANDOM = "The feature network has random weights: its numbers are for tests of the software alone."


@dataclass(frozen=True)
class Pairs:
    """How alike two generators' images from one seed are, beside images from two different seeds.

    `pixels` is the root mean square difference of a pair in image units, `features` its Euclidean feature distance,
    both averaged over pairs; `unpaired_*` compare the image of each seed with that of the next seed of the same class,
    and are None where every image is the only one of its class.
    """

    images: int
    pixels: float
    features: float
    unpaired_pixels: float | None
    unpaired_features: float | None


@dataclass(frozen=True)
class Evaluation:
    """How far a sample is from the reference, and the facts needed to read the numbers.

    `floor` compares two disjoint halves of the reference itself: no generator can be asked to do better.
    """

    name: str
    reference: str
    space: str
    distances: Distances
    floor: Distances | None
    diversity: Diversity
    reference_diversity: Diversity
    pairs: Pairs | None = None
    warnings: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain dicts, lists, numbers and strings, for JSON."""
        return asdict(self) | {"warnings": list(self.warnings)}


class Judge:
    """Hold a feature network and a reference, for repeated evaluation.

    Generators make one image for each of `seeds` (default 0 to `images` - 1); of data sets, as many are chosen, and as
    many again from the reference for the floor. `steps` is the reference's own where the reference is a generator.
    `features` is by default the space of stored statistics, else `lite2`; `weights` goes to `embedding`.
    `judged_by` names feature networks of a discriminator, in addition to those that a generator's file tells. Images
    pass through `counted`, which may show how far they are.
    """

    def __init__(
        self,
        reference: Source,
        *,
        features: str | None = None,
        images: int = 1000,
        seeds: Sequence[int] | None = None,
        steps: int = 1,
        batch_size: int = 64,
        weights: str = "auto",
        device: torch.device | str = "cpu",
        judged_by: Sequence[str] = (),
        counted: Counted = unshown,
    ) -> None:
        self.counted = counted
        self.seeds = tuple(range(images) if seeds is None else seeds)
        self.batch_size, self.weights, self.device, self.judged_by = batch_size, weights, device, tuple(judged_by)
        if batch_size < 1:
            raise ValueError(f"The batch size must be at least 1, not {batch_size}.")
        if len(self.seeds) < SMALLEST:
            raise ValueError(f"An evaluation needs at least {SMALLEST} images, not {len(self.seeds)}.")
        opened = self._open(reference, steps, 2 * len(self.seeds))
        self.space = features or (opened.space if isinstance(opened, Features) else "lite2")
        everything = self._look(opened, _name(reference, opened), paired=True)
        self.floor = _floor(everything.features, len(self.seeds))
        self.reference = everything.first(len(self.seeds)) if isinstance(opened, Stream) else everything

    @cached_property
    def embedding(self) -> Embedding:
        """The feature network, loaded when the first image needs it: stored statistics never do."""
        return embedding(self.space, self.weights).to(self.device)

    def __call__(self, source: Source, *, name: str | None = None, steps: int = 1) -> Evaluation:
        """Compare images, or a generator's from the judge's seeds in `steps` steps, with the reference.

        Raises ValueError for images of another shape than the reference's and for a generator of NaNs.
        """
        reference, opened = self.reference, self._open(source, steps, len(self.seeds))
        name = name or _name(source, opened)
        if isinstance(opened, Stream) and reference.image_shape not in (None, opened.image_shape):
            raise ValueError(
                f"The images of {name} are {_size(opened.image_shape)} but those of {reference.name} are "
                f"{_size(reference.image_shape)}: prepare one of them in the other's size and channels."
            )
        paired = isinstance(opened, Stream) and opened.seeds is not None and opened.seeds == reference.seeds
        sample = self._look(opened, name, paired)
        judged_by = tuple(dict.fromkeys((*self.judged_by, *sample.judged_by)))
        found = distances(sample.features, reference.features)
        return Evaluation(
            name=name,
            reference=reference.name,
            space=reference.features.space,
            distances=found,
            floor=self.floor,
            diversity=sample.diversity,
            reference_diversity=reference.diversity,
            pairs=pair_up(sample, reference) if paired else None,
            warnings=(
                *([RANDOM] if self.weights.startswith("random") else []),
                *overlap(reference.features.space, judged_by),
                *_collapse(name, found.recall, sample.diversity, reference.diversity),
            ),
        )

    def _open(self, source: Source, steps: int, images: int) -> Stream | Features:
        return open_source(
            source, images=images, seeds=self.seeds, steps=steps, batch_size=self.batch_size, device=self.device
        )

    def _look(self, opened: Stream | Features, name: str, paired: bool) -> Look:
        if isinstance(opened, Features):
            return look_at_statistics(opened, name)
        if opened.count < SMALLEST:
            raise ValueError(f"{name} has only {opened.count} images: an evaluation needs at least {SMALLEST}.")
        keep_pixels = paired and opened.seeds is not None
        opened = replace(opened, batches=self.counted(opened.batches, opened.count, name))
        return look(opened, name, self.embedding.name, self.embed, keep_pixels=keep_pixels)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Return the features [N,D] of uint8 images [N,H,W,C]."""
        return self.embedding(images).float().cpu().numpy()


def evaluate(
    a: Source,
    b: Source,
    *,
    features: str | None = None,
    images: int = 1000,
    seeds: Sequence[int] | None = None,
    steps: int = 1,
    reference_steps: int | None = None,
    batch_size: int = 64,
    weights: str = "auto",
    device: torch.device | str = "cpu",
    judged_by: Sequence[str] = (),
    counted: Counted = unshown,
) -> Evaluation:
    """Judge `a` against the reference `b`, usually real images; options as for `Judge`.

    Two generators use the same seeds and are also compared pair by pair; `reference_steps` is `steps` when not given.
    """
    judge = Judge(
        b, features=features, images=images, seeds=seeds, steps=reference_steps or steps, batch_size=batch_size,
        weights=weights, device=device, judged_by=judged_by, counted=counted,
    )  # fmt: skip
    return judge(a, steps=steps)


def _name(source: Source, opened: Stream | Features) -> str:
    if isinstance(source, str | Path):
        return Path(source).name
    return opened.name if isinstance(opened, Stream) else "stored statistics"


def _size(shape: tuple[int, int, int] | None) -> str:
    assert shape is not None
    channels, height, width = shape
    return f"{width}x{height} with {channels} channel{'s' * (channels > 1)}"


def _floor(everything: Features, images: int) -> Distances | None:
    """Compare as many images as are judged with as many others; where there are fewer, half with half."""
    if everything.values is None or len(everything.values) < 2 * SMALLEST:
        return None
    half = min(images, len(everything.values) // 2)
    return distances(everything.rows(0, half), everything.rows(half, 2 * half))


def pair_up(sample: Look, reference: Look) -> Pairs:
    """Compare the images of two generators seed by seed; both were looked at from the same seeds, with pixels kept."""
    pixels, features = sample.pixels, sample.features.values
    others, other_features = reference.pixels, reference.features.values
    assert pixels is not None and features is not None and others is not None and other_features is not None

    def apart(partners: np.ndarray, known: np.ndarray) -> tuple[float, float]:
        pairs = zip(pixels[known], others[partners], strict=True)
        roots = [np.sqrt(np.square(one.astype(np.float64) - other).mean()) for one, other in pairs]
        differences = features[known].astype(np.float64) - other_features[partners]
        return float(np.mean(roots) / 127.5), float(np.linalg.norm(differences, axis=1).mean())

    every = np.arange(len(pixels))
    partners = next_of_class(sample.labels, reference.labels, len(pixels))
    known = every[partners != every]
    return Pairs(len(pixels), *apart(every, every), *(apart(partners[known], known) if len(known) else (None, None)))


def next_of_class(labels: np.ndarray | None, others: np.ndarray | None, count: int) -> np.ndarray:
    """Return the place [count] of the next image with the same labels, after the last one the first.

    A control across classes would differ for the class alone, whatever the seeds do.
    """
    known = [one for one in (labels, others) if one is not None]
    kinds = np.unique(np.stack(known, 1), axis=0, return_inverse=True)[1].ravel() if known else np.zeros(count, int)
    partners = np.arange(count)
    for kind in range(int(kinds.max()) + 1):
        members = np.flatnonzero(kinds == kind)
        partners[members] = np.roll(members, -1)
    return partners


def _collapse(name: str, recall: float | None, sample: Diversity, reference: Diversity) -> list[str]:
    measures = (
        ("deviation per pixel", sample.pixel_deviation, reference.pixel_deviation),
        ("mean feature distance", sample.feature_distance, reference.feature_distance),
    )
    signs = [
        f"vary less than the reference's ({words} {here:.3g} against {wanted:.3g})"
        for words, here, wanted in measures
        if here is not None and wanted is not None and here < COLLAPSE * wanted
    ]
    if recall is not None and recall < LOW_RECALL:
        signs.append(f"cover little of the reference (recall {recall:.3g})")
    sentence = f"The images of {name} {', and '.join(signs)}: look at them for collapse, which the distances can hide."
    return [sentence] if signs else []
