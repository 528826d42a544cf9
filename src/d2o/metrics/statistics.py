"""The statistics of a set of images in a feature space: mean, covariance, count, and the features where kept."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from d2o.data.arrays import load_arrays
from d2o.errors import LONGEST, printable
from d2o.files import atomic

CHUNK = 4096
KINDS = {"mu": "fiu", "sigma": "fiu", "space": "U", "count": "iu", "features": "fiu"}  # numpy's letters of types
INCEPTION, INCEPTION_DIM = "inception@299", 2048
"""Public reference files have `mu` and `sigma` only; 2,048 features are Inception's and no other space's here."""


@dataclass(frozen=True, eq=False)
class Features:
    """The features of a set of images: `mean` [D] and `covariance` [D,D] (divided by count - 1) in float64.

    `count` is None when a file does not tell it; `values` [N,D] float32 is None when only the moments were kept.
    """

    space: str
    mean: np.ndarray
    covariance: np.ndarray
    count: int | None
    values: np.ndarray | None = None

    @property
    def dim(self) -> int:
        return len(self.mean)

    def rows(self, first: int, last: int) -> "Features":
        """Return the features of some of the images, with their own moments."""
        assert self.values is not None, "only moments were stored"
        return features_of(self.values[first:last], self.space)


def features_of(values: np.ndarray, space: str) -> Features:
    """Return the record of features [N,D] that are in memory."""
    values = np.ascontiguousarray(values, np.float32)
    return replace(accumulate(np.split(values, range(CHUNK, len(values), CHUNK)), space), values=values)


def accumulate(batches: Iterable[np.ndarray], space: str) -> Features:
    """Return the moments of a stream of feature batches [n,D], whose values are not kept."""
    count, (origin, total, scatter) = 0, np.zeros((3, 1))
    for batch in batches:
        values = np.asarray(batch, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("Some features are NaN or infinite: images or weights are broken.")
        if count == 0 and len(values):
            origin = values.mean(0)  # far from the mean, sums of squares lose their digits
        centred = values - origin
        count, total, scatter = count + len(values), total + centred.sum(0), scatter + centred.T @ centred
    if count < 2:
        raise ValueError(f"Statistics need at least 2 images, not {count}: give more images.")
    return Features(space, origin + total / count, (scatter - np.outer(total, total) / count) / (count - 1), count)


def save(path: str | Path, features: Features) -> None:
    """Write `mu`, `sigma`, `space`, `count` and, when kept, `features` to one .npz file, atomically."""
    arrays = {"mu": features.mean, "sigma": features.covariance, "space": features.space}
    arrays |= {"count": features.count, "features": features.values}
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{name: array for name, array in arrays.items() if array is not None})


def load(path: str | Path) -> Features:
    """Read stored statistics: our own, or a public FID reference file with `mu` and `sigma` alone."""
    arrays = load_arrays(path, KINDS)
    for name, array in arrays.items():
        if array.dtype.kind not in KINDS[name] or (name in ("space", "count") and array.ndim):
            wrong = f"`{name}` of the type {array.dtype} and the shape {array.shape}"
            raise ValueError(f"{path} has {wrong}: store statistics with `d2o statistics`.")
    if missing := {"mu", "sigma"} - set(arrays):
        raise ValueError(f"{path} has no {' or '.join(sorted(missing))}: stored statistics need both mu and sigma.")
    mean, covariance = (np.asarray(arrays[name], np.float64) for name in ("mu", "sigma"))
    values = arrays.get("features")
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape or (values is not None and values.shape[1:] != mean.shape):
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"{path} has arrays of the shapes {shapes}: mu must be [D], sigma [D,D], features [N,D].")
    if not all(np.isfinite(array).all() for array in (mean, covariance, values) if array is not None):
        raise ValueError(f"{path} has NaN or infinite numbers: compute the statistics again.")
    if "space" not in arrays and len(mean) != INCEPTION_DIM:
        raise ValueError(f"{path} does not say its feature space: add a `space` entry such as 'lite2@64'.")
    count = int(arrays["count"].item()) if "count" in arrays else None
    values = None if values is None else values.astype(np.float32)
    return Features(printable(str(arrays.get("space", INCEPTION)))[:LONGEST], mean, covariance, count, values)
