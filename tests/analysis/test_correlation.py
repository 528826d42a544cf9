"""Rank correlations: as scipy's, with intervals that hold the truth about as often as they say."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from d2o.analysis.correlation import Interval, mean_interval, rank_correlation, spearman, spread, verdict


def test_as_scipy_with_ties():
    generator = np.random.default_rng(0)
    for _ in range(5):
        a, b = generator.integers(0, 6, 20), generator.normal(size=20)
        expected: Any = spearmanr(a, b)
        assert np.isclose(spearman(a, b), expected.statistic)


def test_perfect_order_and_no_order():
    assert spearman([1, 2, 3], [10, 20, 500]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert math.isnan(spearman([1, 2, 3], [5, 5, 5]))
    assert math.isnan(spearman([1, 2], [math.nan, 1]))


def test_interval_covers_zero_for_unrelated_numbers():
    generator = np.random.default_rng(1)
    links = [rank_correlation(*generator.normal(size=(2, 12))) for _ in range(300)]
    assert 0.92 < np.mean([link.low <= 0 <= link.high for link in links]) < 0.98


def test_missing_pairs_are_left_out_and_few_have_no_interval():
    link = rank_correlation([1, 2, 3, math.nan, 5], [1, 2, 3, 4, 5])
    assert link.size == 4 and link.value == pytest.approx(1) and link.low < link.high
    assert rank_correlation([1, 2, 3], [1, 2, 3])[1:] == (-1, 1, 3)


def test_four_points_in_order_prove_little():
    few, many = (rank_correlation(range(count), range(count)) for count in (4, 40))
    assert few.value == many.value == pytest.approx(1)
    assert few.low < 0 and many.low > 0.99 and few.high == many.high == 1


def test_mean_interval():
    generator = np.random.default_rng(2)
    values = generator.normal(5, 1, 400)
    found = mean_interval([*values, math.nan])
    assert found.size == 400 and found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert mean_interval([2.0]).value == 2 and math.isnan(mean_interval([2.0]).low)


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        (Interval(0.9, 0.8, 0.95, 9), "Holds strongly"),
        (Interval(0.2, 0.1, 0.3, 9), "Holds weakly"),
        (Interval(0.2, -0.1, 0.5, 9), "Not shown"),
        (Interval(-0.9, -0.95, -0.8, 9), "Contradicted"),
        (Interval(math.nan, -1, 1, 2), "Not shown"),
        (Interval(0.5, math.nan, math.nan, 1), "Not shown"),
    ],
)
def test_words(interval, word):
    assert verdict(interval, "a claim").startswith(word) and "a claim" in verdict(interval, "a claim")


def test_spread():
    assert spread([1, 3]) == (2, pytest.approx(math.sqrt(2)))
    assert spread([4.0]) == (4, None)
