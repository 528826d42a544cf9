"""How surely one quantity rises with another: rank correlations and means, each with a 95 % confidence interval.

Intervals count what is independent: seeds, repetitions or blocks, and not the numbers that each of them gives; blocks
that resemble their neighbours count as fewer.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2_000
NORMAL = 1.959964
"""The normal quantile of 97.5 %."""
FEWEST = 4
"""Fewer values have no interval, and nothing is decided by them."""


class Interval(NamedTuple):
    """An estimate with its 95 % confidence interval, from `size` values or groups.

    They are independent, or as good as `effective` independent ones.
    """

    value: float
    low: float
    high: float
    size: int
    effective: float | None = None

    @property
    def known(self) -> bool:
        """Whether there is an interval at all."""
        return self.independent >= FEWEST and math.isfinite(self.value) and math.isfinite(self.low)

    @property
    def independent(self) -> float:
        """As how many independent values or groups they count."""
        return self.size if self.effective is None else self.effective

    def __str__(self) -> str:
        count = f"N = {self.size}"
        if self.independent < self.size:
            count += f", as good as {self.independent:.1f} independent ones"
        if not self.known:
            value = f"{self.value:+.2f}" if math.isfinite(self.value) else "unknown"
            why = "too few for an interval" if self.independent < FEWEST else "one side does not vary"
            return f"{value} ({count}, {why})"
        return f"{self.value:+.2f} (95 % interval {self.low:+.2f} to {self.high:+.2f}, {count})"


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


def persistence(values: np.ndarray) -> float:
    """Return the autocorrelation of a sequence at lag 1, how much a value resembles the one before it; 0 of equals."""
    middle = values - values.mean()
    norm = float(middle @ middle)
    return float(middle[:-1] @ middle[1:]) / norm if norm else 0.0


def independent(count: int, resemblance: float) -> float:
    """Return as how many independent values so many count whose errors resemble their neighbours'; never as more."""
    resemblance = max(resemblance, 0.0)
    return count * (1 - resemblance) / (1 + resemblance)


def rank_correlation(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray, *, in_sequence: bool = False
) -> Interval:
    """Return Spearman's correlation over pairs, those with a NaN left out.

    The interval is Bonett and Wright's (Psychometrika 65, 2000): in Fisher's z, variance (1 + r^2 / 2) / (N - 3). For a
    perfect order, where z is infinite, r is taken half of its smallest step below 1: four points prove little.

    Pairs `in_sequence` resemble their neighbours, as blocks along the depth do. They count as N (1 - ab) / (1 + ab)
    independent ones, `a` and `b` being the persistence of both sides' ranks (after Bretherton et al., J. Climate 12,
    1999), and at most as N. It is on the safe side: of 12 blocks on maps of 8, 4 and 8 pixels a side without any
    relation, 3 % have an interval without zero where neighbours resemble each other by 0.7; 17 % if they count as 12.
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    known = np.isfinite(first) & np.isfinite(second)
    first, second, count = first[known], second[known], int(known.sum())
    value = spearman(first, second) if count > 1 else math.nan
    if math.isnan(value):
        return Interval(value, -1.0, 1.0, count)
    both = persistence(ranks(first)) * persistence(ranks(second)) if in_sequence else 0.0
    effective = independent(count, both)
    told = effective if in_sequence else None
    if effective < FEWEST:
        return Interval(value, -1.0, 1.0, count, told)
    return around(value, NORMAL * fisher_error(value, effective), effective, count)._replace(effective=told)


def fisher_error(value: float, pairs: float) -> float:
    """Return the standard error, in Fisher's z, of a rank correlation over so many independent pairs."""
    return math.sqrt((1 + value**2 / 2) / (pairs - 3))


def fisher(value: float, pairs: float) -> float:
    """Return Fisher's z of a rank correlation, a perfect one taken half of its smallest step nearer to 0."""
    limit = 1 - 6 / (pairs**3 - pairs)
    return math.atanh(min(max(value, -limit), limit))


def around(value: float, reach: float, pairs: float, size: int) -> Interval:
    """Return the interval that reaches so far, in Fisher's z, to both sides of a rank correlation."""
    z, limit = fisher(value, pairs), 1 - 6 / (pairs**3 - pairs)
    low, high = math.tanh(z - reach), math.tanh(z + reach)
    return Interval(value, -1.0 if value <= -limit else low, 1.0 if value >= limit else high, size)


Numbers = Sequence[float] | np.ndarray


def grouped_rank_correlation(
    groups: Sequence[tuple[Numbers, Numbers]],
    *,
    in_sequence: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return Spearman's correlation over all pairs (a, b) of groups of which only whole ones are independent.

    The interval is Student's in Fisher's z; its standard error is that of a bootstrap over whole groups, and never less
    than that of as many independent pairs. `size` counts groups.

    Groups `in_sequence` resemble their neighbours: they count as fewer, by the persistence of what each adds to the
    correlation. Of 11 blocks of 2 or 3 bands without any relation, whose neighbours resemble each other by 0.7, 6 %
    have an interval without zero; 10 % if they count as 11.
    """
    if not groups:
        return Interval(math.nan, -1.0, 1.0, 0)
    a, b = (np.concatenate([np.asarray(group[side], np.float64) for group in groups]) for side in (0, 1))
    pairs, value = len(a), spearman(a, b)
    if len(groups) < FEWEST or math.isnan(value):
        return Interval(value, -1.0, 1.0, len(groups))
    ends = np.cumsum([len(group[0]) for group in groups])
    members = np.split(np.arange(pairs), ends[:-1])
    draws = np.random.Generator(np.random.Philox(seed)).integers(0, len(groups), (resamples, len(groups)))
    chosen = (np.concatenate([members[group] for group in draw]) for draw in draws)
    found = [r for r in (spearman(a[one], b[one]) for one in chosen) if math.isfinite(r)]
    error = max(float(np.std([fisher(r, pairs) for r in found], ddof=1)), fisher_error(value, pairs))
    if not in_sequence:
        return around(value, student(len(groups)) * error, pairs, len(groups))
    added = (ranks(a) - (pairs + 1) / 2) * (ranks(b) - (pairs + 1) / 2)
    effective = independent(len(groups), persistence(np.array([added[group].sum() for group in members])))
    if effective < FEWEST:
        return Interval(value, -1.0, 1.0, len(groups), effective)
    reach = student(effective) * error * math.sqrt(len(groups) / effective)
    return around(value, reach, pairs, len(groups))._replace(effective=effective)


def student(count: float) -> float:
    """Return the quantile of 97.5 % of Student's t for the mean of so many values."""
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, 0.975))


def mean_interval(values: Sequence[float] | np.ndarray, *, limit: float = math.inf) -> Interval:
    """Return the mean of independent values, NaN left out, with its interval by Student's t, cut at +-`limit`.

    Fewer than 4 values have none.
    """
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    mean = float(known.mean()) if len(known) else math.nan
    if len(known) < FEWEST:
        return Interval(mean, math.nan, math.nan, len(known))
    reach = student(len(known)) * float(known.std(ddof=1)) / math.sqrt(len(known))
    return Interval(mean, max(mean - reach, -limit), min(mean + reach, limit), len(known))


def mean_rank_correlation(correlations: Sequence[float] | np.ndarray, pairs: int) -> Interval:
    """Return the mean of rank correlations over so many pairs each, one a repetition, with its interval.

    Their standard deviation counts as at least half of the step by which such a correlation can change at all: when a
    few of them are equal, that is no certainty.
    """
    found = mean_interval(correlations, limit=1)
    if not found.known:
        return found
    reach = student(found.size) * 6 / (pairs**3 - pairs) / math.sqrt(found.size)
    low, high = min(found.low, found.value - reach), max(found.high, found.value + reach)
    return found._replace(low=max(low, -1.0), high=min(high, 1.0))


def verdict(interval: Interval, claim: str) -> str:
    """Return one sentence: whether a correlation that the claim says is positive holds, is reversed or is open."""
    if not interval.known:
        return f"Not decided: {claim}; the rank correlation is {interval}."
    if interval.low <= 0 <= interval.high:
        return f"Not shown: {claim}; the rank correlation is {interval}, and its interval holds zero."
    if interval.high < 0:
        return f"Contradicted: {claim}; the rank correlation is {interval}, the opposite direction."
    strength = "strongly" if interval.low > 0.7 else "clearly" if interval.low > 0.3 else "weakly"
    return f"Holds {strength}: {claim}; the rank correlation is {interval}."


def spread(values: Sequence[float] | np.ndarray) -> tuple[float, float | None]:
    """Return the mean, and the standard deviation over repetitions (None of a single one)."""
    known = np.asarray(values, np.float64)
    return float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else None
