"""Means and rank correlations with 95 % confidence intervals, which count what is independent.

Seeds, repetitions and blocks are counted, not the numbers that each of them gives; blocks that resemble their
neighbours count as fewer. Fewer than 4 independent values have no interval.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

Numbers = Sequence[float] | np.ndarray
FEWEST = 4


class Interval(NamedTuple):
    """An estimate with its 95 % interval (NaN: none) from `size` values that count as `effective` independent ones."""

    value: float
    low: float
    high: float
    size: int
    effective: float | None = None

    def __str__(self) -> str:
        fewer = self.effective is not None and self.effective < self.size
        count = f"effective N = {self.effective:.1f}" if fewer else f"N = {self.size}"
        if math.isnan(self.low):
            return f"{self.value:+.3g} ({count}, no interval)" if math.isfinite(self.value) else f"- ({count})"
        return f"{self.value:+.3g} ({self.low:+.3g} to {self.high:+.3g}, {count})"


def mean_interval(values: Numbers, *, least_deviation: float = 0.0, limit: float = math.inf) -> Interval:
    """Return the mean of independent values, NaN left out, with its interval by Student's t, cut at +-`limit`."""
    from scipy import stats

    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    mean = float(known.mean()) if len(known) else math.nan
    if len(known) < FEWEST:
        return Interval(mean, math.nan, math.nan, len(known))
    error = max(float(known.std(ddof=1)), least_deviation) / math.sqrt(len(known))
    reach = error * float(stats.t.ppf(0.975, len(known) - 1))
    return Interval(mean, max(mean - reach, -limit), min(mean + reach, limit), len(known))


def mean_rank_correlation(correlations: Numbers, pairs: int) -> Interval:
    """Return the mean of rank correlations over so many pairs each, one a repetition, with its interval.

    Their standard deviation counts as at least half of the step by which such a correlation can change at all: a few
    equal ones are no certainty.
    """
    return mean_interval(correlations, least_deviation=half_step(pairs), limit=1)


def spearman(a: Numbers, b: Numbers) -> float:
    """Return the rank correlation of two lists, NaN where one of them does not vary or contains NaN."""
    from scipy import stats

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one of them is constant
        found: Any = stats.spearmanr(a, b) if len(a) > 1 else None
    return math.nan if found is None else float(found.statistic)


def rank_correlation(a: Numbers, b: Numbers, *, in_sequence: bool = False) -> Interval:
    """Return Spearman's correlation over pairs, those with a NaN left out, with Bonett and Wright's interval.

    Pairs `in_sequence` resemble their neighbours, as blocks along the depth do. They count as N (1 - ab) / (1 + ab)
    independent ones, `a` and `b` being the autocorrelation at lag 1 of both sides' ranks (after Bretherton et al.,
    J. Climate 12, 1999), and at most as N. It is on the safe side: of 12 blocks on maps of 8, 4 and 8 pixels a side
    without any relation, 3 % have an interval without zero where neighbours correlate by 0.7; 17 % if they count as 12.
    """
    from scipy import stats

    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    known = np.isfinite(first) & np.isfinite(second)
    first, second, count = first[known], second[known], int(known.sum())
    value, pairs, effective = spearman(first, second), float(count), None
    if in_sequence and math.isfinite(value):
        common = autocorrelation(stats.rankdata(first)) * autocorrelation(stats.rankdata(second))
        pairs = effective = effective_size(count, common)
    if pairs < FEWEST or math.isnan(value):
        return Interval(value, math.nan, math.nan, count, effective)
    return Interval(value, *fisher_interval(value, 1.959964 * fisher_error(value, pairs), pairs), count, effective)


def autocorrelation(values: np.ndarray) -> float:
    """Return the autocorrelation of a sequence at lag 1; 0 where it does not vary."""
    centred = values - values.mean()
    norm = float(centred @ centred)
    return float(centred[:-1] @ centred[1:]) / norm if norm else 0.0


def effective_size(count: int, correlation: float) -> float:
    """Return how many independent values `count` of them are worth whose errors correlate with their neighbours'."""
    correlation = max(correlation, 0.0)
    return count * (1 - correlation) / (1 + correlation)


def half_step(pairs: float) -> float:
    """Return half of the smallest step by which a rank correlation over so many pairs can change."""
    return 6 / (pairs**3 - pairs) if pairs > 1 else math.inf


def fisher_error(value: float, pairs: float) -> float:
    """Return the standard error of Fisher's z over independent pairs (Bonett and Wright, Psychometrika 65, 2000)."""
    return math.sqrt((1 + value**2 / 2) / (pairs - 3))


def fisher_interval(value: float, reach: float, pairs: float) -> tuple[float, float]:
    """Return the interval of a rank correlation that reaches so far in Fisher's z to both sides.

    The z of a perfect order would be infinite: it counts as half a step below 1.
    """
    limit = 1 - half_step(pairs)
    z = math.atanh(min(max(value, -limit), limit))
    low, high = math.tanh(z - reach), math.tanh(z + reach)
    return -1.0 if value <= -limit else low, 1.0 if value >= limit else high


def spread(values: Numbers) -> tuple[float, float | None]:
    """Return the mean, and the standard deviation over repetitions (None of a single one)."""
    known = np.asarray(values, np.float64)
    return float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else None
