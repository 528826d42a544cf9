"""How far two sets of features are from each other: Frechet distance, KID, precision and recall.

The estimates are torch-fidelity's, several times as fast: seeded, quiet, and defined for small samples.
"""

from dataclasses import dataclass

import numpy as np
import torch

from .statistics import Features

NEIGHBOURS = 3
ROWS = 1000  # of a matrix of distances that are in memory at once
SMALLEST = 2 * (NEIGHBOURS + 1)  # fewer images have neither neighbourhoods nor halves to compare


@dataclass(frozen=True)
class Distances:
    """How far `images` images are from `reference_images` others; None where stored statistics do not tell.

    The Frechet distance grows as samples shrink, so it means something only beside both counts. KID is unbiased at
    every size: near 0 (also below) for equal distributions. Its subsets overlap, so its deviation is no standard error.
    """

    images: int | None
    reference_images: int | None
    frechet: float
    kid: float | None = None
    kid_deviation: float | None = None
    kid_subset_size: int | None = None
    precision: float | None = None
    recall: float | None = None


def frechet(sample: Features, reference: Features) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the squared 2-Wasserstein distance of two Gaussians.

    It is FID when, and only when, the features are Inception's.
    """
    shift, traces = sample.mean - reference.mean, sample.covariance.trace() + reference.covariance.trace()
    return max(0.0, float(shift @ shift + traces - 2 * _overlap(sample, reference)))  # rounding can dip below zero


def _overlap(*sides: Features) -> float:
    """Return tr (C1 C2)^(1/2), from the side of fewer images if they are fewer than features: its root is as small."""
    few, other = sorted(sides, key=lambda side: float("inf") if side.values is None else len(side.values))
    if few.values is not None and len(few.values) < few.dim:
        root = torch.from_numpy((few.values - few.mean) / (len(few.values) - 1) ** 0.5)
    else:
        try:
            variances, axes = torch.linalg.eigh(torch.from_numpy(np.ascontiguousarray(few.covariance)))
        except RuntimeError:  # torch's may not converge where images hardly vary; NumPy's takes longer
            variances, axes = map(torch.from_numpy, np.linalg.eigh(few.covariance))
        root = variances.clamp(min=0).sqrt()[:, None] * axes.T
    return torch.linalg.eigvalsh(root @ torch.from_numpy(other.covariance) @ root.T).clamp(min=0).sqrt().sum().item()


def kid(
    sample: np.ndarray, reference: np.ndarray, *, subsets: int = 50, subset_size: int = 500, seed: int = 0
) -> tuple[float, float, int]:
    """Return mean and deviation of the squared MMD, unbiased, over random subsets, and their size (arXiv 1801.01401).

    The kernel is (x.y / D + 1)^3 of features [N,D] and [M,D]. Subsets contain at most half of the smaller side: the
    whole of it every time would feign a deviation of 0.
    """
    size = min(subset_size, len(sample) // 2, len(reference) // 2)
    if size < 2:
        raise ValueError(f"KID needs at least 4 images on each side, not {len(sample)} and {len(reference)}.")
    random = np.random.RandomState(seed)
    found = []
    for _ in range(subsets):
        one, other = (
            torch.from_numpy(side[random.choice(len(side), size, replace=False)].astype(np.float64))
            for side in (sample, reference)
        )
        inner = sum(kernel.sum() - kernel.trace() for kernel in (_kernel(one, one), _kernel(other, other)))
        found.append(float(inner / (size * (size - 1)) - 2 * _kernel(one, other).mean()))
    return float(np.mean(found)), float(np.std(found)), size


def _kernel(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    base = torch.addmm(torch.ones((), dtype=one.dtype), one, other.T, alpha=1 / one.shape[1])
    return base * base * base


def precision_recall(sample: np.ndarray, reference: np.ndarray, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Return the shares of samples near a reference and of references near a sample (arXiv 1904.06991), each in 0..1.

    "Near" is within the distance of an image's k-th nearest neighbour in its own set.
    """
    if min(len(sample), len(reference)) <= neighbours:
        raise ValueError(f"Precision and recall need more than {neighbours} images on each side: give more images.")
    centre = reference.mean(0, dtype=np.float64)  # distances are the same, and lose fewer digits near the origin
    made, real = (torch.from_numpy((side - centre).astype(np.float32)) for side in (sample, reference))
    radius, real_radius = (_reach(side, neighbours) for side in (made, real))
    near, real_near = 0, torch.zeros(len(real), dtype=torch.bool)
    for rows, reach in zip(made.split(ROWS), radius.split(ROWS), strict=True):
        distance = _squared(rows, real)
        near += int((distance <= real_radius).any(1).sum())
        real_near |= (distance <= reach[:, None]).any(0)
    return round(near / len(made), 6), round(float(real_near.double().mean()), 6)


def _reach(points: torch.Tensor, neighbours: int) -> torch.Tensor:
    """Return every point's squared distance [N] to its k-th nearest neighbour; the nearest is the point itself."""
    nearest = [_squared(rows, points).topk(neighbours + 1, largest=False).values for rows in points.split(ROWS)]
    return torch.cat(nearest)[:, -1]


def _squared(rows: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    products = torch.addmm(points.square().sum(1), rows, points.T, alpha=-2)
    return products.add_(rows.square().sum(1)[:, None]).clamp_(min=0)


def distances(sample: Features, reference: Features) -> Distances:
    """Return every distance that the two records allow: without the features themselves, the Frechet distance alone.

    Neighbours come closer as a set grows, so precision and recall compare sets of one size: of the larger side as many
    images are taken, evenly spread, as the smaller has.
    """
    if (sample.space, sample.dim) != (reference.space, reference.dim):
        sides = " and ".join(f"{side.space} ({side.dim})" for side in (sample, reference))
        raise ValueError(f"Features of {sides} cannot be compared: compute both in one feature space.")
    counts = sample.count, reference.count
    if any(count is not None and count < SMALLEST for count in counts):
        raise ValueError(f"A comparison needs {SMALLEST} or more images on each side, not {counts[0]} and {counts[1]}.")
    if sample.values is None or reference.values is None:
        return Distances(*counts, frechet(sample, reference))
    sides = sample.values, reference.values
    size = min(map(len, sides))
    one, other = (side[np.arange(size) * len(side) // size] for side in sides)
    return Distances(*counts, frechet(sample, reference), *kid(*sides), *precision_recall(one, other))
