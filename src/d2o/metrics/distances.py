"""How far two sets of features are from each other: Frechet distance, KID, precision and recall.

The estimates are torch-fidelity's; here they are seeded, quiet, in float64 and defined for small samples.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from .statistics import Features

NEIGHBOURS = 3
SMALLEST = 2 * (NEIGHBOURS + 1)
"""Fewer images than this have neither neighbourhoods nor halves to compare."""


class Kid(NamedTuple):
    """The kernel distance, its standard deviation over random subsets, and their size."""

    mean: float
    deviation: float
    subset_size: int


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
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    pair = ({"mu": side.mean, "sigma": side.covariance} for side in (sample, reference))
    return max(0.0, fid_statistics_to_metric(*pair, verbose=False)[KEY_METRIC_FID])  # rounding can dip below zero


def kid(sample: np.ndarray, reference: np.ndarray, *, subsets: int = 50, subset_size: int = 500, seed: int = 0) -> Kid:
    """Return the unbiased squared MMD with the kernel (x.y / D + 1)^3 of features [N,D] and [M,D] (arXiv 1801.01401).

    Subsets hold at most half of the smaller side: the whole of it every time would feign a deviation of 0.
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    size = min(subset_size, min(len(sample), len(reference)) // 2)
    if size < 2:
        raise ValueError(f"KID needs at least 4 images a side, not {len(sample)} and {len(reference)}.")
    result = kid_features_to_metric(
        _double(sample), _double(reference), kid_subsets=subsets, kid_subset_size=size,
        kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1.0,
        rng_seed=seed, verbose=False,
    )  # fmt: skip
    return Kid(result[KEY_METRIC_KID_MEAN], result[KEY_METRIC_KID_STD], size)


def precision_recall(sample: np.ndarray, reference: np.ndarray, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """Return the shares of samples near a reference and of references near a sample (arXiv 1904.06991), each in 0..1.

    "Near" is within the distance of an image's k-th nearest neighbour in its own set.
    """
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    if min(len(sample), len(reference)) <= neighbours:
        raise ValueError(f"Precision and recall need more than {neighbours} images a side: give more images.")
    centre = reference.mean(0, dtype=np.float64)  # distances are the same, and lose fewer digits near the origin
    result = prc_features_to_metric(
        _double(sample - centre), _double(reference - centre),
        prc_neighborhood=neighbours, prc_batch_size=1000, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    return round(result[KEY_METRIC_PRECISION], 6), round(result[KEY_METRIC_RECALL], 6)  # float32 shares of counts


def distances(sample: Features, reference: Features) -> Distances:
    """Return every distance that the two records allow: without the features themselves, the Frechet distance alone."""
    if sample.space != reference.space or sample.dim != reference.dim:
        raise ValueError(
            f"Features of {sample.space} ({sample.dim}) cannot be compared with those of {reference.space} "
            f"({reference.dim}): compute both sides in one feature space."
        )
    counts = sample.count, reference.count
    if any(count is not None and count < SMALLEST for count in counts):
        raise ValueError(f"A comparison needs at least {SMALLEST} images a side, not {counts[0]} and {counts[1]}.")
    if sample.values is None or reference.values is None:
        return Distances(*counts, frechet(sample, reference))
    kernel = kid(sample.values, reference.values)
    return Distances(*counts, frechet(sample, reference), *kernel, *precision_recall(sample.values, reference.values))


def _double(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float64))
