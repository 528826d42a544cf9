"""Sets of images: a stream that is still to be measured, and a sample, whose features and diversity are known."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from d2o.diffusion.denoiser import use_full_float32
from d2o.features.embedding import Embedding, OwnSpace

from .diversity import Diversity, PixelSums, feature_distance, feature_distance_within
from .statistics import Features, features_of


@dataclass(frozen=True)
class Stream:
    """Images that pass once: `count` of them in uint8 batches [n,H,W,C]; `image_shape` is (C, H, W).

    `labels` [N] are the data's classes, or those that a generator was asked for. `seeds` is None unless a generator
    makes the images; `judged_by` names its discriminator's feature networks.
    """

    name: str
    count: int
    image_shape: tuple[int, int, int]
    batches: Iterator[np.ndarray]
    labels: np.ndarray | None = None
    seeds: tuple[int, ...] | None = None
    judged_by: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Sample:
    """What is kept of a set of images; `pixels` uint8 [N,H,W,C] only where images are compared pair by pair."""

    name: str
    features: Features
    diversity: Diversity
    image_shape: tuple[int, int, int] | None = None
    labels: np.ndarray | None = None
    seeds: tuple[int, ...] | None = None
    judged_by: tuple[str, ...] = ()
    pixels: np.ndarray | None = None

    def first(self, images: int) -> "Sample":
        """Return the same with the features of the first `images` images only; the diversity stays that of all."""
        if self.features.values is None or len(self.features.values) <= images:
            return self
        labels, pixels = (None if rows is None else rows[:images] for rows in (self.labels, self.pixels))
        return replace(self, features=self.features.rows(0, images), labels=labels, pixels=pixels)


def measure(stream: Stream, network: Embedding | OwnSpace, *, keep_pixels: bool = False) -> Sample:
    """Pass over a stream of images once."""
    use_full_float32()
    sums, rows, kept, labels, first = PixelSums(), [], [], stream.labels, 0
    for batch in stream.batches:
        sums.add(batch, None if labels is None else labels[first : first + len(batch)])
        rows.append(network(batch).cpu().numpy())
        kept += [batch] if keep_pixels else []
        first += len(batch)
    values = np.concatenate(rows)
    diversity = Diversity(
        pixel_deviation=sums.deviation(),
        pixel_deviation_within=None if labels is None else sums.deviation_within(),
        feature_distance=feature_distance(values),
        feature_distance_within=None if labels is None else feature_distance_within(values, labels),
    )
    facts = stream.image_shape, labels, stream.seeds, stream.judged_by, np.concatenate(kept) if kept else None
    return Sample(stream.name, features_of(values, network.name), diversity, *facts)


def from_statistics(features: Features, name: str) -> Sample:
    distance = None if features.values is None else feature_distance(features.values)
    return Sample(name, features, Diversity(feature_distance=distance))
