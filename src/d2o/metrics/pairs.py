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

    # The control is the next image with the same labels: one of another class would differ for the class alone.
    every = np.arange(len(pixels))
    labels = [known for known in (sample.labels, reference.labels) if known is not None]
    classes = np.unique(np.stack(labels, 1), axis=0, return_inverse=True)[1].ravel() if labels else 0 * every
    partners = every.copy()
    for members in (np.flatnonzero(classes == one) for one in range(classes.max() + 1)):
        partners[members] = np.roll(members, -1)
    known = every[partners != every]
    unpaired = average(partners[known], known) if len(known) else (None, None)
    return Pairs(len(pixels), *average(every, every), *unpaired)
