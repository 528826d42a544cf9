"""Variation is numpy's standard deviation and the mean over pairs, overall and within classes."""

import numpy as np
import pytest

from d2o.metrics.diversity import PixelSums, feature_distance, feature_distance_within


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), np.uint8)


@pytest.mark.parametrize("size", [1, 7, 50])
def test_pixel_deviation_is_numpys_in_any_batching(images: np.ndarray, size: int) -> None:
    labels = np.arange(50) % 3
    sums = PixelSums()
    for first in range(0, 50, size):
        sums.add(images[first : first + size], labels[first : first + size])
    units = images / 127.5
    assert sums.deviation() == pytest.approx(units.std(0, ddof=1).mean(), rel=1e-12)
    within = [units[labels == k].std(0, ddof=1).mean() for k in range(3)]
    assert sums.deviation_within() == pytest.approx(np.average(within, weights=np.bincount(labels)), rel=1e-12)


def test_classes_of_one_colour_vary_overall_but_not_within() -> None:
    images = np.repeat(np.array([0, 255], np.uint8), 10)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    sums = PixelSums()
    sums.add(images, np.repeat([4, 9], 10))
    assert sums.deviation_within() == 0
    assert sums.deviation() == pytest.approx(np.sqrt(20 / 19))


def test_classes_of_one_image_have_no_variation_to_tell(images: np.ndarray) -> None:
    sums = PixelSums()
    sums.add(images, np.arange(50))
    assert sums.deviation_within() is None
    assert feature_distance_within(images.reshape(50, -1), np.arange(50)) is None


def test_feature_distance_is_the_mean_over_pairs() -> None:
    corners = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]], np.float32) + 1e4
    assert feature_distance(corners) == pytest.approx((3 + 4 + 5) / 3, rel=1e-9)
    assert feature_distance(np.repeat(corners[:1], 30, 0)) == 0
    labels = np.array([0, 0, 1])
    assert feature_distance_within(corners, labels) == pytest.approx(3, rel=1e-9)
