"""Intervals contain the truth about as often as they say, and count what is independent."""

import math

import numpy as np
import pytest

from d2o.analysis.intervals import (
    FEWEST,
    Interval,
    mean_interval,
    mean_rank_correlation,
    rank_correlation,
    spearman,
    spread,
)


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
    few = rank_correlation([1, 2, 3], [1, 2, 3])
    assert few.size == 3 and math.isnan(few.low)


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


def test_few_values_have_no_interval():
    for values in ([0.8, 0.81], [0.9] * (FEWEST - 1), []):
        found = mean_interval(values)
        assert math.isnan(found.low) and f"N = {len(values)}" in str(found) and "nan" not in str(found)
    assert mean_interval([0.8, 0.81, 0.8, 0.82]).low > 0.7


def test_a_mean_of_correlations_has_an_interval_of_correlations():
    found = mean_interval([1, 1, 0.9, 0.2], limit=1)
    assert found.high == 1 and -1 <= found.low < found.value


def test_a_few_equal_rank_correlations_are_no_certainty():
    few, many = mean_rank_correlation([-1.0] * 4, 4), mean_rank_correlation([-1.0] * 4, 18)
    assert few.low == -1 and -0.9 < few.high < -0.8, "of 4 pairs the next rank correlation is -0.8"
    assert -1 < many.high < -0.99
    scattered = [0.8, 0.4, 1.0, 0.2]
    assert mean_rank_correlation(scattered, 4) == mean_interval(scattered, limit=1)
    assert math.isnan(mean_rank_correlation([1.0] * 3, 4).low)


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
        """Of 1 to 4 the ranks less their mean are -1.5, -0.5, 0.5 and 1.5: autocorrelation 1.25 / 5."""
        found = rank_correlation(range(4), range(4), in_sequence=True)
        assert found.effective == pytest.approx(4 * (1 - 1 / 16) / (1 + 1 / 16)) and math.isnan(found.low)
        assert "effective N = 3.5" in str(found)

    def test_neighbours_that_differ_count_as_no_more_than_they_are(self):
        rising, other = [1, 2, 3, 4, 5, 6], [1, 6, 2, 5, 3, 4]
        found = rank_correlation(rising, other, in_sequence=True)
        assert found.effective == 6 and found[:4] == rank_correlation(rising, other)[:4]
        assert "N = 6" in str(found) and "effective" not in str(found)

    def test_what_does_not_vary_has_no_relation(self):
        found = rank_correlation(range(6), [1] * 6, in_sequence=True)
        assert math.isnan(found.value) and "nan" not in str(found)


def test_an_interval_is_written_with_its_ends():
    assert str(Interval(0.9, 0.8, 0.95, 9)) == "+0.9 (+0.8 to +0.95, N = 9)"


def test_spread():
    assert spread([1, 3]) == (2, pytest.approx(math.sqrt(2)))
    assert spread([4.0]) == (4, None)
