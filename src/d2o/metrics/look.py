"""Pass over a set of images once, and keep what every comparison needs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from .diversity import Diversity, PixelSums, feature_distance, feature_distance_within
from .sources import Stream
from .statistics import Features, accumulate

Embed = Callable[[np.ndarray], np.ndarray]
"""uint8 images [n,H,W,C] -> features [n,D]."""


@dataclass(frozen=True, eq=False)
class Look:
    """What is kept of a set of images after looking at it once; `pixels` uint8 [N,H,W,C] only where pairs need them.

    `labels` [N] are the classes that a generator was asked for, or the data's own.
    """

    name: str
    features: Features
    diversity: Diversity
    image_shape: tuple[int, int, int] | None = None
    seeds: tuple[int, ...] | None = None
    pixels: np.ndarray | None = None
    labels: np.ndarray | None = None
    judged_by: tuple[str, ...] = ()

    def first(self, images: int) -> "Look":
        """Return the same with the features of the first `images` images only."""
        values = self.features.values
        if values is None or len(values) <= images:
            return self
        pixels = None if self.pixels is None else self.pixels[:images]
        labels = None if self.labels is None else self.labels[:images]
        return replace(self, features=self.features.rows(0, images), pixels=pixels, labels=labels)


def look(stream: Stream, name: str, space: str, embed: Embed, *, keep_pixels: bool = False) -> Look:
    """Return the features and the diversity of a stream of images."""
    sums, kept = PixelSums(), []

    def features() -> Iterator[np.ndarray]:
        first = 0
        for batch in stream.batches:
            sums.add(batch, None if stream.labels is None else stream.labels[first : first + len(batch)])
            if keep_pixels:
                kept.append(batch)
            first += len(batch)
            yield embed(batch)

    found = accumulate(features(), space)
    assert found.values is not None
    within = (None, None)
    if stream.labels is not None:
        within = (sums.deviation_within(), feature_distance_within(found.values, stream.labels))
    diversity = Diversity(sums.deviation(), within[0], feature_distance(found.values), within[1])
    pixels = np.concatenate(kept) if kept else None
    return Look(name, found, diversity, stream.image_shape, stream.seeds, pixels, stream.labels, stream.judged_by)


def look_at_statistics(features: Features, name: str) -> Look:
    """Return what stored statistics can tell."""
    distance = None if features.values is None else feature_distance(features.values)
    return Look(name, features, Diversity(feature_distance=distance))
