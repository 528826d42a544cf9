"""Means and rank correlations with 95 % confidence intervals over independent seeds, repetitions or blocks.

Blocks that resemble their neighbours count as fewer. Fewer than 4 independent values have no interval.
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
    """Return the mean of rank correlations over so many pairs each, one a repetition, with its interval."""
    # A few equal ones are no certainty: they deviate by at least half of the step by which they can change at all.
    return mean_interval(correlations, least_deviation=half_step(pairs), limit=1)


def spearman(a: Numbers, b: Numbers) -> float:
    """Return the rank correlation of two lists, NaN where one of them does not vary or contains NaN."""
    from scipy import stats

    if len(a) < 2:
        return math.nan
    with warnings.catch_warnings(action="ignore"):  # that one of them is constant
        found: Any = stats.spearmanr(a, b)
    return float(found.statistic)


def rank_correlation(a: Numbers, b: Numbers, *, in_sequence: bool = False) -> Interval:
    """Return Spearman's correlation over pairs, those with a NaN left out, with Bonett and Wright's interval.

    Pairs `in_sequence` resemble their neighbours, as blocks along the depth do, and count as fewer: of 12 unrelated
    ones whose neighbours correlate by 0.7, 3 % have an interval without zero, instead of 17 %.
    """
    from scipy import stats

    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    known = np.isfinite(first) & np.isfinite(second)
    first, second = first[known], second[known]
    value, pairs, effective = spearman(first, second), float(len(first)), None
    if in_sequence and math.isfinite(value):
        pairs = effective = effective_size(stats.rankdata(first), stats.rankdata(second))
    if pairs < FEWEST or math.isnan(value):
        return Interval(value, math.nan, math.nan, len(first), effective)
    return Interval(value, *fisher_interval(value, 1.959964 * fisher_error(value, pairs), pairs), len(first), effective)


def effective_size(*series: np.ndarray) -> float:
    """Return the effective N of sequences whose neighbours resemble each other, at most their length.

    N (1 - c) / (1 + c), c being the product of their autocorrelations at lag 1 (after Bretherton et al., J. Climate 12,
    1999).
    """
    common = max(math.prod(map(autocorrelation, series)), 0.0)
    return len(series[0]) * (1 - common) / (1 + common)


def autocorrelation(values: np.ndarray) -> float:
    """Return the autocorrelation at lag 1; 0 where nothing varies."""
    centred = values - values.mean()
    norm = float(centred @ centred)
    return float(centred[:-1] @ centred[1:]) / norm if norm else 0.0


def half_step(pairs: float) -> float:
    """Return half of the smallest step by which a rank correlation can change."""
    return 6 / (pairs**3 - pairs) if pairs > 1 else math.inf


def fisher_error(value: float, pairs: float) -> float:
    """Return the standard error of Fisher's z over independent pairs (Bonett and Wright, Psychometrika 65, 2000)."""
    return math.sqrt((1 + value**2 / 2) / (pairs - 3))


def fisher_interval(value: float, reach: float, pairs: float) -> tuple[float, float]:
    """Return the interval of a rank correlation that reaches so far in Fisher's z to both sides."""
    limit = 1 - half_step(pairs)  # of a perfect order, whose z would be infinite
    z = math.atanh(min(max(value, -limit), limit))
    low, high = math.tanh(z - reach), math.tanh(z + reach)
    return -1.0 if value <= -limit else low, 1.0 if value >= limit else high


def spread(values: Numbers) -> tuple[float, float | None]:
    """Return the mean, and the standard deviation over repetitions (None of a single one)."""
    known = np.asarray(values, np.float64)
    return float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else None
