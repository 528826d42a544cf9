"""Distances of Gaussians are known; equal sets are at distance zero; collapse costs recall."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from d2o.metrics.distances import distances, frechet, kid, precision_recall
from d2o.metrics.statistics import Features, features_of
from refusal import refused

from .gaussians import gaussian, values


def moments(mean: np.ndarray, covariance: np.ndarray) -> Features:
    return Features("test", np.asarray(mean, np.float64), np.asarray(covariance, np.float64), None)


def test_frechet_distance_of_diagonal_gaussians() -> None:
    """For commuting covariances it is |m1 - m2|^2 + sum (s1 - s2)^2."""
    first, second = np.array([1.0, 2.0, 3.0]), np.array([4.0, 0.5, 3.0])
    found = frechet(moments(np.zeros(3), np.diag(first**2)), moments(np.full(3, 2.0), np.diag(second**2)))
    assert found == pytest.approx(12 + ((first - second) ** 2).sum(), rel=1e-12)


def test_frechet_distance_of_gaussians_that_do_not_commute() -> None:
    """In two dimensions tr (C1 C2)^(1/2) = sqrt(tr(C1 C2) + 2 sqrt(det(C1 C2)))."""
    first, second = np.array([[2.0, 1.0], [1.0, 3.0]]), np.array([[1.0, -0.5], [-0.5, 4.0]])
    root = np.sqrt(np.trace(first @ second) + 2 * np.sqrt(np.linalg.det(first @ second)))
    expected = np.trace(first) + np.trace(second) - 2 * root
    assert frechet(moments(np.zeros(2), first), moments(np.zeros(2), second)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [8, 20, 500])
def test_equal_sets_are_at_distance_zero_even_with_fewer_images_than_features(count: int) -> None:
    features = gaussian(count, dim=30)
    assert 0 <= frechet(features, features) < 1e-4


def test_frechet_distance_is_symmetric_and_moves_with_both_sides() -> None:
    one, other = gaussian(300, seed=1), gaussian(300, shift=1, scale=2, seed=2)
    moved = [features_of(values(side) + 5, "test") for side in (one, other)]
    assert frechet(one, other) == pytest.approx(frechet(other, one), rel=1e-9)
    assert frechet(*moved) == pytest.approx(frechet(one, other), rel=1e-4)


def test_shifting_a_set_by_d_is_a_distance_of_d_squared() -> None:
    one = gaussian(300, dim=4)
    assert frechet(features_of(values(one) + 3, "test"), one) == pytest.approx(4 * 9, rel=1e-4)


def test_frechet_distance_of_equal_distributions_shrinks_with_the_sample() -> None:
    """This bias is why it is never shown without N."""
    found = [frechet(gaussian(n, 20, seed=1), gaussian(n, 20, seed=2)) for n in (30, 300, 3000)]
    assert found[0] > 5 * found[1] > 25 * found[2] > 0


@pytest.mark.parametrize("counts", [(12, 9), (12, 300), (300, 9)])
def test_frechet_of_fewer_images_than_features_is_that_of_their_moments(counts) -> None:
    sides = [gaussian(count, 20, scale=count, shift=count / 50, seed=count) for count in counts]
    dense = [replace(side, values=None) for side in sides]
    assert frechet(*sides) == pytest.approx(frechet(*dense), rel=1e-9)


def test_kid_of_two_halves_of_one_gaussian_is_centred_on_zero() -> None:
    found = [kid(values(gaussian(200, seed=2 * i)), values(gaussian(200, seed=2 * i + 1)))[0] for i in range(12)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(12)
    assert min(found) < 0 < max(found)


def test_kid_is_the_unbiased_estimate() -> None:
    """Its mean over subsets is the definition's double sum over everything, without the diagonals."""
    one, other = values(gaussian(40, seed=1)), values(gaussian(40, shift=1.0, seed=2))

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x.astype(np.float64) @ y.T / x.shape[1] + 1) ** 3

    inner = [(k.sum() - np.trace(k)) / (40 * 39) for k in (kernel(one, one), kernel(other, other))]
    exact = sum(inner) - 2 * kernel(one, other).mean()
    assert kid(one, other, subsets=2000)[0] == pytest.approx(exact, rel=0.03)


def test_all_agree_with_torch_fidelity() -> None:
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    sides = gaussian(1200, 6, shift=0.4, scale=1.2, seed=1), gaussian(1100, 6, seed=2)
    rows = [torch.from_numpy(values(side).astype(np.float64)) for side in sides]
    their_frechet = fid_statistics_to_metric(*({"mu": s.mean, "sigma": s.covariance} for s in sides), verbose=False)
    their_kid = kid_features_to_metric(
        *rows, kid_subsets=5, kid_subset_size=500, kid_kernel="poly", kid_kernel_poly_degree=3,
        kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1.0, rng_seed=0, verbose=False,
    )  # fmt: skip
    theirs = prc_features_to_metric(*rows, prc_neighborhood=3, prc_batch_size=500, save_cpu_ram=True, verbose=False)
    assert frechet(*sides) == pytest.approx(next(iter(their_frechet.values())), rel=1e-9)
    ours = kid(values(sides[0]), values(sides[1]), subsets=5)
    assert ours[:2] == pytest.approx(tuple(their_kid.values()), rel=1e-9)
    found = precision_recall(values(sides[0]), values(sides[1]))
    assert found == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6) and 0.5 < found[0] < 1


def test_kid_grows_with_a_shift_and_repeats_itself() -> None:
    real = values(gaussian(200, seed=1))
    found = [kid(values(gaussian(200, shift=shift, seed=2)), real) for shift in (0.0, 0.5, 1.0, 2.0)]
    assert found == sorted(found)
    np.random.seed(7)  # the caller's random state must not matter
    assert kid(values(gaussian(200, shift=2.0, seed=2)), real) == found[-1]


@pytest.mark.parametrize(("count", "other", "size"), [(8, 8, 4), (1000, 1000, 500), (5000, 5000, 500), (50, 4000, 25)])
def test_kid_subsets_are_at_most_half_so_that_the_deviation_is_real(count: int, other: int, size: int) -> None:
    found = kid(values(gaussian(count, dim=2)), values(gaussian(other, dim=2, seed=1)), subsets=5)
    assert found[2] == size and found[1] > 0


def test_equal_sets_have_full_precision_and_recall() -> None:
    rows = values(gaussian(100, shift=1000))
    assert precision_recall(rows, rows) == (1.0, 1.0)


def test_collapse_keeps_precision_and_loses_recall() -> None:
    real = values(gaussian(300))
    few = np.repeat(real[:3], 100, 0)
    precision, recall = precision_recall(few, real)
    assert precision == 1.0 and recall <= 3 / 300


def test_outliers_lose_precision_and_keep_recall() -> None:
    real = values(gaussian(200))
    precision, recall = precision_recall(np.concatenate([real, real + 100]), real)
    assert precision == 0.5 and recall == 1.0


def test_moments_alone_allow_the_frechet_distance_alone() -> None:
    one, other = gaussian(50), gaussian(60, shift=1, seed=1)
    bare = Features("test", other.mean, other.covariance, None)
    found = distances(one, bare)
    assert found.frechet == frechet(one, other)
    assert (found.images, found.reference_images, found.kid, found.recall) == (50, None, None, None)


def test_what_cannot_be_compared_is_refused() -> None:
    with refused("8", "7", "50"):
        distances(gaussian(7), gaussian(50))
    with refused("test (6)", "(7)"):
        distances(gaussian(50), gaussian(50, dim=7))
    with refused("test", "other"):
        distances(gaussian(50), features_of(values(gaussian(50)), "other"))
    with refused("KID", "4", "3"):
        kid(values(gaussian(3)), values(gaussian(50)))
    with refused("Precision", "3"):
        precision_recall(values(gaussian(3)), values(gaussian(50)))


def test_a_larger_reference_changes_neither_precision_nor_recall():
    """Two sets of one distribution look alike whatever their sizes."""
    sample, few, many = (gaussian(count, seed=seed) for seed, count in enumerate((200, 200, 4000)))
    found, equal = distances(sample, many), distances(sample, few)
    assert (found.images, found.reference_images) == (200, 4000)
    assert found.precision == pytest.approx(equal.precision, abs=0.1)
    assert found.recall == pytest.approx(equal.recall, abs=0.1)
    assert found.kid is not None and abs(found.kid) < 3 * (found.kid_deviation or 0)
