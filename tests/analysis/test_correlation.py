"""Rank correlations: as scipy's, with intervals that hold the truth about as often as they say."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from d2o.analysis.correlation import (
    FEWEST,
    Interval,
    grouped_rank_correlation,
    mean_interval,
    mean_rank_correlation,
    rank_correlation,
    spearman,
    spread,
    verdict,
)


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
    assert rank_correlation([1, 2, 3], [1, 2, 3])[1:4] == (-1, 1, 3)


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


@pytest.mark.parametrize("count", [4, 8])
def test_few_values_have_an_interval_that_holds_the_truth_as_often_as_it_says(count):
    generator = np.random.default_rng(3)
    found = [mean_interval(generator.normal(1, 2, count)) for _ in range(1000)]
    assert 0.93 < np.mean([one.low <= 1 <= one.high for one in found]) < 0.97


def test_two_seeds_decide_nothing():
    for values in ([0.8, 0.81], [0.9] * (FEWEST - 1), []):
        said = verdict(mean_interval(values), "a claim")
        assert said.startswith("Not decided: a claim") and f"N = {len(values)}, too few" in said and "nan" not in said
    assert "Holds strongly" in verdict(mean_interval([0.8, 0.81, 0.8, 0.82]), "a claim")


def test_a_mean_of_correlations_has_an_interval_of_correlations():
    found = mean_interval([1, 1, 0.9, 0.2], limit=1)
    assert found.high == 1 and -1 <= found.low < found.value


def test_a_few_equal_rank_correlations_are_no_certainty():
    few, many = mean_rank_correlation([-1.0] * 4, 4), mean_rank_correlation([-1.0] * 4, 18)
    assert few.low == -1 and -0.9 < few.high < -0.8, "of 4 pairs the next rank correlation is -0.8"
    assert -1 < many.high < -0.99
    scattered = [0.8, 0.4, 1.0, 0.2]
    assert mean_rank_correlation(scattered, 4) == mean_interval(scattered, limit=1)
    assert not mean_rank_correlation([1.0] * 3, 4).known


def chain(generator, count, resemblance):
    """Return numbers of variance 1, each of which resembles the one before it so much."""
    values = generator.normal(size=count)
    for i in range(1, count):
        values[i] = resemblance * values[i - 1] + math.sqrt(1 - resemblance**2) * values[i]
    return values


class TestSequences:
    SIDES = (8, 8, 4, 4, 4, 4, 4, 4, 8, 8, 8, 8)
    """The maps of the blocks of the digits' network, in the order of their calls."""

    @pytest.mark.parametrize("resemblance", [0, 0.7])
    def test_neighbours_that_resemble_each_other_prove_nothing(self, resemblance):
        generator = np.random.default_rng(6)
        unrelated = [chain(generator, 12, resemblance) for _ in range(400)]
        as_twelve, in_sequence = (
            np.mean([not one.low <= 0 <= one.high for one in found])
            for found in (
                [rank_correlation(self.SIDES, values) for values in unrelated],
                [rank_correlation(self.SIDES, values, in_sequence=True) for values in unrelated],
            )
        )
        assert in_sequence < 0.05 and as_twelve < 0.08 + 0.2 * resemblance
        assert not resemblance or as_twelve > 0.12

    def test_what_is_clear_is_still_seen(self):
        generator = np.random.default_rng(7)
        clear = [self.SIDES + generator.normal(size=12) for _ in range(200)]
        assert np.mean([rank_correlation(self.SIDES, one, in_sequence=True).low > 0 for one in clear]) > 0.8

    def test_the_effective_number(self):
        """Of 1 to 4 the ranks less their mean are -1.5, -0.5, 0.5 and 1.5: persistence 1.25 / 5."""
        found = rank_correlation(range(4), range(4), in_sequence=True)
        assert found.effective == pytest.approx(4 * (1 - 1 / 16) / (1 + 1 / 16)) and not found.known
        assert str(found) == "+1.00 (N = 4, as good as 3.5 independent ones, too few for an interval)"
        assert verdict(found, "a claim").startswith("Not decided: a claim")
        assert "N = 20, as good as " in str(rank_correlation(range(20), range(20), in_sequence=True))

    def test_neighbours_that_differ_count_as_no_more_than_they_are(self):
        rising, other = [1, 2, 3, 4, 5, 6], [1, 6, 2, 5, 3, 4]
        found = rank_correlation(rising, other, in_sequence=True)
        assert found.effective == 6 and found[:4] == rank_correlation(rising, other)[:4]
        assert "as good as" not in str(found)

    def test_what_does_not_vary_has_no_relation(self):
        found = rank_correlation(range(6), [1] * 6, in_sequence=True)
        assert math.isnan(found.value)
        assert verdict(found, "a claim").startswith("Not decided") and str(found).startswith("unknown (N = 6, one side")


class TestGroups:
    def test_pairs_of_one_group_are_not_independent(self):
        generator = np.random.default_rng(4)
        naive, grouped = [], []
        for _ in range(60):
            groups = [tuple(np.full((2, 6), generator.normal(size=(2, 1)))) for _ in range(8)]
            groups = [(a + 0.1 * generator.normal(size=6), b + 0.1 * generator.normal(size=6)) for a, b in groups]
            naive.append(rank_correlation(*(np.concatenate([group[side] for group in groups]) for side in (0, 1))))
            grouped.append(grouped_rank_correlation(groups, resamples=100))
        naive_share, share = (np.mean([one.low <= 0 <= one.high for one in found]) for found in (naive, grouped))
        assert naive_share < 0.7 and share > 0.85

    def test_of_single_pairs_it_is_as_of_pairs(self):
        a, b = np.random.default_rng(5).normal(size=(2, 40))
        pairs, groups = (
            rank_correlation(a, a + b),
            grouped_rank_correlation([([x], [x + y]) for x, y in zip(a, b, strict=True)]),
        )
        assert groups.value == pairs.value and groups.size == 40
        assert np.allclose(groups[1:3], pairs[1:3], atol=0.1)

    def test_few_groups_have_no_interval_however_many_pairs(self):
        found = grouped_rank_correlation([(range(9), range(9))] * 3)
        assert found.value == pytest.approx(1) and found[1:4] == (-1, 1, 3)
        assert verdict(found, "a claim").startswith("Not decided")
        assert grouped_rank_correlation([]).size == 0

    def test_groups_that_resemble_their_neighbours_count_as_fewer(self):
        generator = np.random.default_rng(8)
        found = []
        for _ in range(60):
            a, b = (np.stack([chain(generator, 12, 0.8) for _ in range(2)], 1) for _ in "ab")
            found.append(grouped_rank_correlation(list(zip(a, b, strict=True)), in_sequence=True, resamples=100))
        assert np.mean([one.low <= 0 <= one.high for one in found]) > 0.85
        assert all(one.size == 12 and 0 < one.effective <= 12 for one in found)
        assert np.mean([one.effective for one in found]) < 10

    def test_perfect_order_has_width(self):
        found = grouped_rank_correlation([((2 * i, 2 * i + 1), (2 * i, 2 * i + 1)) for i in range(4)])
        assert found.low < 0.95 and found.high == 1


@pytest.mark.parametrize(
    ("interval", "word"),
    [
        (Interval(0.9, 0.8, 0.95, 9), "Holds strongly"),
        (Interval(0.2, 0.1, 0.3, 9), "Holds weakly"),
        (Interval(0.2, -0.1, 0.5, 9), "Not shown"),
        (Interval(-0.9, -0.95, -0.8, 9), "Contradicted"),
        (Interval(math.nan, -1, 1, 2), "Not decided"),
        (Interval(0.5, math.nan, math.nan, 1), "Not decided"),
    ],
)
def test_words(interval, word):
    assert verdict(interval, "a claim").startswith(word) and "a claim" in verdict(interval, "a claim")


def test_spread():
    assert spread([1, 3]) == (2, pytest.approx(math.sqrt(2)))
    assert spread([4.0]) == (4, None)
