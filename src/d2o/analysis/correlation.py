"""How surely one quantity rises with another: rank correlations and means, each with a 95 % confidence interval."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2_000
NORMAL = 1.959964
"""The normal quantile of 97.5 %."""
FEWEST = 4
"""With fewer points a rank correlation has no interval."""


class Interval(NamedTuple):
    """An estimate with its 95 % confidence interval, from `size` values."""

    value: float
    low: float
    high: float
    size: int

    def __str__(self) -> str:
        return f"{self.value:+.2f} (95 % interval {self.low:+.2f} to {self.high:+.2f}, N = {self.size})"


def ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the ranks [N] from 1; equal values share their mean rank."""
    from scipy.stats import rankdata

    return rankdata(np.asarray(values, np.float64))


def spearman(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> float:
    """Return the rank correlation of two lists, NaN where one of them does not vary or holds NaN."""
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.nan
    first, second = (ranks(values) - (len(values) + 1) / 2 for values in (a, b))
    norm = math.sqrt(float(first @ first) * float(second @ second))
    return float(first @ second) / norm if norm else math.nan


def rank_correlation(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> Interval:
    """Return Spearman's correlation over independent pairs, those with a NaN left out.

    The interval is Bonett and Wright's (Psychometrika 65, 2000): in Fisher's z, variance (1 + r^2 / 2) / (N - 3). For a
    perfect order, where z is infinite, r is taken half of its smallest step below 1: four points prove little.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    known = np.isfinite(first) & np.isfinite(second)
    count = int(known.sum())
    value = spearman(first[known], second[known]) if count > 1 else math.nan
    if count < FEWEST or math.isnan(value):
        return Interval(value, -1.0, 1.0, count)
    limit = 1 - 6 / (count**3 - count)
    z = math.atanh(min(max(value, -limit), limit))
    reach = NORMAL * math.sqrt((1 + value**2 / 2) / (count - 3))
    low, high = math.tanh(z - reach), math.tanh(z + reach)
    return Interval(value, -1.0 if value <= -limit else low, 1.0 if value >= limit else high, count)


def mean_interval(values: Sequence[float] | np.ndarray, seed: int = 0) -> Interval:
    """Return the mean of independent values, NaN left out, with its percentile bootstrap interval."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    if len(known) < 2:
        return Interval(float(known.mean()) if len(known) else math.nan, math.nan, math.nan, len(known))
    chosen = np.random.Generator(np.random.Philox(seed)).integers(0, len(known), (RESAMPLES, len(known)))
    low, high = np.percentile(known[chosen].mean(1), [2.5, 97.5])
    return Interval(float(known.mean()), float(low), float(high), len(known))


def verdict(interval: Interval, claim: str) -> str:
    """Return one sentence: whether a correlation that the claim says is positive holds, is reversed or is open."""
    if not math.isfinite(interval.low) or interval.low <= 0 <= interval.high:
        return f"Not shown: {claim}; the rank correlation is {interval}, and its interval holds zero."
    if interval.high < 0:
        return f"Contradicted: {claim}; the rank correlation is {interval}, the opposite direction."
    strength = "strongly" if interval.low > 0.7 else "clearly" if interval.low > 0.3 else "weakly"
    return f"Holds {strength}: {claim}; the rank correlation is {interval}."


def spread(values: Sequence[float] | np.ndarray) -> tuple[float, float | None]:
    """Return the mean, and the standard deviation over repetitions (None of a single one)."""
    known = np.asarray(values, np.float64)
    return float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else None
