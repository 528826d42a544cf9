"""Two generators' images of the same seeds, compared pair by pair."""

from dataclasses import dataclass

import numpy as np

from .sample import Sample


@dataclass(frozen=True)
class Pairs:
    """How alike two generators' images of one seed are, beside images of two different seeds.

    `pixels` is the root mean square difference of a pair in image units, `features` its Euclidean feature distance,
    both averaged over pairs; `unpaired_*` compare the image of each seed with that of the next seed of the same class,
    and are None where every image is the only one of its class.
    """

    images: int
    pixels: float
    features: float
    unpaired_pixels: float | None
    unpaired_features: float | None


def pair_up(sample: Sample, reference: Sample) -> Pairs:
    """Compare the images of two generators seed by seed; both samples have the same seeds, with their pixels kept."""
    pixels, features = sample.pixels, sample.features.values
    others, other_features = reference.pixels, reference.features.values
    assert pixels is not None and features is not None and others is not None and other_features is not None

    def average(partners: np.ndarray, known: np.ndarray) -> tuple[float, float]:
        pairs = zip(pixels[known], others[partners], strict=True)
        roots = [np.sqrt(np.square(one.astype(np.float64) - other).mean()) for one, other in pairs]
        differences = features[known].astype(np.float64) - other_features[partners]
        return float(np.mean(roots) / 127.5), float(np.linalg.norm(differences, axis=1).mean())

    every = np.arange(len(pixels))
    partners = find_next_of_class(sample.labels, reference.labels, len(pixels))
    known = every[partners != every]
    unpaired = average(partners[known], known) if len(known) else (None, None)
    return Pairs(len(pixels), *average(every, every), *unpaired)


def find_next_of_class(labels: np.ndarray | None, others: np.ndarray | None, count: int) -> np.ndarray:
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
