"""What a feature space knows of a set of images: mean, covariance and count, and the features themselves when kept."""

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2o.files import atomic

CHUNK = 4096
INCEPTION, INCEPTION_DIM = "inception@299", 2048
"""Public reference files hold `mu` and `sigma` only; 2,048 features are Inception's and no other space's here."""


@dataclass(frozen=True, eq=False)
class Features:
    """A set of images as one feature space sees it.

    `mean` [D] and `covariance` [D,D] (divided by count - 1) are float64; `count` is None when a file does not tell it;
    `values` [N,D] float32 is None when only the moments were kept.
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
        assert self.values is not None, "only moments were kept"
        return features_of(self.values[first:last], self.space)


def features_of(values: np.ndarray, space: str) -> Features:
    """Return the record of features [N,D] that are already in memory."""
    values = np.ascontiguousarray(values, np.float32)
    chunks = (values[first : first + CHUNK] for first in range(0, len(values), CHUNK))
    moments = accumulate(chunks, space, keep=False)
    return Features(space, moments.mean, moments.covariance, moments.count, values)


def accumulate(batches: Iterable[np.ndarray], space: str, *, keep: bool = True) -> Features:
    """Return the record of a stream of feature batches [n,D].

    With `keep` it holds N x D float32 numbers and its moments do not depend on the batch size at all; without, only
    the float64 moments, merged batch by batch (Chan, Golub, LeVeque 1979), equal up to rounding.
    """
    if keep:
        kept = [np.asarray(batch, np.float32) for batch in batches]
        return features_of(np.concatenate(kept) if kept else np.empty((0, 1)), space)
    count, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
    for batch in batches:
        values = np.asarray(batch, np.float64)
        if not np.isfinite(values).all():
            raise ValueError("Some features are NaN or infinite: images or weights are broken.")
        if count == 0:
            mean, scatter = np.zeros(values.shape[1]), np.zeros((values.shape[1],) * 2)
        total = count + len(values)
        batch_mean = values.mean(0)
        centred, shift = values - batch_mean, batch_mean - mean
        scatter += centred.T @ centred + np.outer(shift, shift) * (count * len(values) / total)
        mean = mean + shift * (len(values) / total)
        count = total
    if count < 2:
        raise ValueError(f"Statistics need at least 2 images, not {count}: give more images.")
    return Features(space, mean, scatter / (count - 1), count)


def save(path: str | Path, features: Features) -> None:
    """Write `mu`, `sigma`, `space`, `count` and, when kept, `features` to one .npz file, atomically."""
    arrays = {"mu": features.mean, "sigma": features.covariance, "space": np.array(features.space)}
    if features.count is not None:
        arrays["count"] = np.array(features.count)
    if features.values is not None:
        arrays["features"] = features.values
    with atomic(Path(path)) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def holds_statistics(path: Path) -> bool:
    """Tell whether a file is an .npz with stored statistics rather than with images."""
    if path.suffix != ".npz" or not path.is_file():
        return False
    try:
        with np.load(path, allow_pickle=False) as stored:
            return "mu" in stored
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False


def load(path: str | Path) -> Features:
    """Read stored statistics: our own, or a public FID reference file with `mu` and `sigma` alone."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in ("mu", "sigma", "space", "count", "features") if name in stored}
    except FileNotFoundError as error:
        raise ValueError(f"There is no statistics file {path}: check the path.") from error
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as stored statistics: it must be a .npz file of arrays.") from error
    if missing := {"mu", "sigma"} - set(arrays):
        raise ValueError(f"{path} holds no {' or '.join(sorted(missing))}: stored statistics need both mu and sigma.")
    mean, covariance = (np.asarray(arrays[name], np.float64) for name in ("mu", "sigma"))
    if mean.ndim != 1 or covariance.shape != (len(mean),) * 2:
        raise ValueError(f"{path} has mu {mean.shape} and sigma {covariance.shape}: they must be [D] and [D,D].")
    values = arrays.get("features")
    if values is not None and (values.ndim != 2 or values.shape[1] != len(mean)):
        raise ValueError(f"{path} has features {values.shape}, which do not fit mu {mean.shape}: store them again.")
    if not all(np.isfinite(array).all() for array in (mean, covariance, values) if array is not None):
        raise ValueError(f"{path} holds NaN or infinite numbers: compute the statistics again.")
    if "space" not in arrays and len(mean) != INCEPTION_DIM:
        raise ValueError(f"{path} does not say its feature space: add a `space` entry such as 'lite2@64'.")
    space = str(arrays["space"]) if "space" in arrays else INCEPTION
    count = int(arrays["count"]) if "count" in arrays else None
    return Features(space, mean, covariance, count, None if values is None else values.astype(np.float32))
