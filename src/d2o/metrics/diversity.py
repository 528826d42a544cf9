"""How much images differ among themselves, beside how good they are: a collapsed generator can lower every distance."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

LARGEST = 2000  # pairs grow with the square of the images: of more, the first ones stand for all


@dataclass(frozen=True)
class Diversity:
    """How much a set of images varies; `within` classes when labels are known, None where the images are not.

    `pixel_deviation` is the standard deviation over images, mean over pixels, in image units ([-1, 1] is 2 wide);
    `feature_distance` is the mean Euclidean distance of two different images in feature space.
    """

    pixel_deviation: float | None = None
    pixel_deviation_within: float | None = None
    feature_distance: float | None = None
    feature_distance_within: float | None = None


class PixelSums:
    """Counts, sums and sums of squares of uint8 pixels, one row a class: integers, so exact in any batching."""

    def __init__(self) -> None:
        self._rows: dict[int, tuple[int, Any, Any]] = {}

    def add(self, images: np.ndarray, labels: np.ndarray | None = None) -> None:
        classes = np.zeros(len(images), np.int64) if labels is None else labels
        for label in np.unique(classes).tolist():
            pixels = images[classes == label].astype(np.uint16)  # 255^2 fits, and it is ten times as fast as int64
            total, squares = (powers.sum(0, dtype=np.int64) for powers in (pixels, pixels * pixels))
            before = self._rows.get(label, (0, 0, 0))
            self._rows[label] = (before[0] + len(pixels), before[1] + total, before[2] + squares)

    def deviation(self) -> float:
        """Return the standard deviation over all images, mean over pixels, in image units."""
        counts, totals, squares = zip(*self._rows.values(), strict=True)
        return _deviation(sum(counts), np.sum(totals, axis=0), np.sum(squares, axis=0))

    def deviation_within(self) -> float | None:
        """Return the same within each class, mean over classes weighted by images; None without two images of one."""
        return _average([(row[0], _deviation(*row)) for row in self._rows.values() if row[0] > 1])


def _deviation(count: int, total: np.ndarray, squares: np.ndarray) -> float:
    """Return the mean over pixels of the unbiased standard deviation; count * squares - total^2 is an exact integer."""
    return float(np.sqrt((count * squares - total**2) / (count * (count - 1))).mean() / 127.5)


def _average(classes: list[tuple[int, float]]) -> float | None:
    """Return the mean of numbers of classes, weighted by their images."""
    return float(np.average([value for _, value in classes], weights=[n for n, _ in classes])) if classes else None


def feature_distance(values: np.ndarray) -> float:
    """Return the mean Euclidean distance over all pairs of different rows of features [N,D], N >= 2."""
    rows = torch.from_numpy(values[:LARGEST].astype(np.float64))
    rows -= rows.mean(0)  # the same distances, with fewer digits lost in the matrix product behind `cdist`
    distances = torch.cdist(rows, rows).fill_diagonal_(0.0)
    return float(distances.sum() / (len(rows) * (len(rows) - 1)))


def feature_distance_within(values: np.ndarray, labels: np.ndarray) -> float | None:
    """Return the same within each class, mean over classes weighted by images; None without two images of one."""
    groups = [values[labels == label] for label in np.unique(labels)]
    return _average([(len(group), feature_distance(group)) for group in groups if len(group) > 1])
