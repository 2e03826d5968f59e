"""Statistics of measured times: percentiles, tests of limits, comparisons, and whether a warm-up has settled.

All methods are exact: none assumes a normal distribution, and nothing is averaged twice. Plain Python suffices for a few
thousand samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from statistics import fmean, median
from typing import Literal

__all__ = [
    "FEWEST_ROUNDS",
    "TAIL",
    "Comparison",
    "QuantileTest",
    "Summary",
    "binomial_at_most",
    "compare_rounds",
    "faster_by_chance",
    "holm",
    "interval_ranks",
    "percentile",
    "percentile_interval",
    "quantile_test",
    "samples_to_meet",
    "settled",
    "summarize",
    "tail_is_slower",
]


_INTERVAL = 0.95
"""The confidence of intervals."""

FEWEST_ROUNDS = 6
"""Pairs of measurements that the sign test needs for a 95 % interval."""

TAIL = 10
"""How many of the largest samples of two servers together are looked at to tell their tails apart."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The distribution of some times, seconds.

    `p99` of fewer than 100 samples is the largest of them, and in the same way `p95` below 20 and `p90` below 10.
    """

    samples: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class QuantileTest:
    """Whether a quantile of all latencies is within a limit, according to a sample.

    Attributes:
        status: `met` or `missed` at the given confidence; otherwise `inconclusive`.
        samples: the number of samples.
        over: how many of them exceeded the limit.
        samples_wanted: how many more samples, all within the limit, would prove it met; 0 if it is decided.
    """

    status: Literal["met", "missed", "inconclusive"]
    samples: int
    over: int
    samples_wanted: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The times of one model relative to another over paired rounds.

    Attributes:
        ratio: median over the rounds of its time divided by the other's; below 1 is faster.
        low, high: confidence interval of that median; (0, None) if there are too few rounds.
        rounds: number of pairs.
    """

    ratio: float
    low: float
    high: float | None
    rounds: int

    @property
    def faster(self) -> bool:
        """The whole interval lies below 1."""
        return self.high is not None and self.high < 1

    @property
    def slower(self) -> bool:
        """The whole interval lies above 1."""
        return self.low > 1


def percentile(samples: Sequence[float], quantile: float) -> float:
    """The nearest-rank percentile: the smallest sample that at least `quantile` of all samples do not exceed.

    It is always a measured value; with fewer than 1 / (1 - quantile) samples it is the largest.

    Args:
        samples: raw values, in any order, all runs pooled.
        quantile: in (0, 1], such as 0.99.

    Raises:
        ValueError: no samples, or a quantile outside (0, 1].
    """
    if not samples:
        raise ValueError("a percentile needs at least one sample")
    # As a decimal fraction: in floating point 0.99 * 100 is 99.00000000000001, and its ceiling is the wrong rank.
    wanted = Fraction(str(quantile))
    if not 0 < wanted <= 1:
        raise ValueError(f"a quantile must be in (0, 1], not {quantile}")
    return sorted(samples)[math.ceil(wanted * len(samples)) - 1]


def percentile_interval(samples: Sequence[float], quantile: float) -> tuple[float, float | None]:
    """The distribution-free 95 % confidence interval of a percentile; both ends are samples.

    The number of samples below the true percentile is binomial, which gives the ranks (Conover, Practical Nonparametric
    Statistics, 3.2).

    Args:
        samples: raw values, in any order.
        quantile: in (0, 1).

    Returns:
        Both ends; with too few samples, 0 and None.

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("a percentile needs at least one sample")
    ordered, size = sorted(samples), len(samples)
    above, below = interval_ranks(size, quantile)
    return (ordered[size - below - 1] if below < size else 0.0), (ordered[size - above] if above else None)


@lru_cache(maxsize=256)
def interval_ranks(size: int, quantile: float) -> tuple[int, int]:
    """Between how many samples from the top the 95 % interval of a percentile lies, whatever the distribution.

    The number of samples above the true percentile is binomial. Its tails are computed from the samples above, which are few
    for high percentiles.

    Args:
        size: number of samples.
        quantile: in (0, 1).

    Returns:
        `above`: the upper end has so many samples from itself to the top; 0 if none is certain enough to be above.
        `below`: the lower end has so many samples above itself; `size` if there is no such sample.
    """
    risk = (1 - _INTERVAL) / 2
    odds = math.log1p(-quantile) - math.log(quantile)
    term, total, upper = size * math.log(quantile), 0.0, 0
    for above in range(size):
        total += math.exp(term)
        if total <= risk:
            upper = above + 1
        if total >= 1 - risk:
            return upper, above
        term += math.log((size - above) / (above + 1)) + odds
    return upper, size


def tail_is_slower(
    slowest: Sequence[float], samples: int, others: Sequence[float], other_samples: int, confidence: float = 0.95
) -> bool | None:
    """Whether a server's slowest answers are slower than another's, by an exact test that needs few samples.

    If both servers had the same distribution, each of the `TAIL` largest of all samples would be of either server as by
    chance, which is hypergeometric (a precedence test; Nelson, Technometrics 5, 1963). Unlike intervals of a 99th percentile,
    which need hundreds of samples, this tells two servers apart from four answers of each on.

    Args:
        slowest: the largest samples of the one that seems slower, descending; `TAIL` of them, or all.
        samples: how many samples it has.
        others: the largest samples of the other one, in the same way.
        other_samples: how many samples that one has.
        confidence: of a test of both directions.

    Returns:
        None if so few samples could not prove it, whatever they were.
    """
    risk = (1 - confidence) / 2
    size = min(TAIL, len(slowest), len(others))
    if size == 0 or _from_one(size, size, samples, other_samples) > risk:
        return None
    # Equal values count for the other one.
    tail = sorted([(value, 0) for value in slowest] + [(value, 1) for value in others], reverse=True)[:size]
    own = sum(not other for _, other in tail)
    return _from_one(own, size, samples, other_samples) <= risk


def _from_one(own: int, drawn: int, samples: int, other_samples: int) -> float:
    """P(X >= own) of `drawn` samples, drawn from `samples` of one and `other_samples` of another, being of the first one."""
    ways = sum(math.comb(samples, k) * math.comb(other_samples, drawn - k) for k in range(own, min(drawn, samples) + 1))
    return ways / math.comb(samples + other_samples, drawn)


def summarize(samples: Sequence[float]) -> Summary:
    """Mean and percentiles of raw values, computed once from all of them.

    Raises:
        ValueError: no samples.
    """
    ordered = sorted(samples)
    p50, p90, p95, p99 = (percentile(ordered, q) for q in (0.5, 0.9, 0.95, 0.99))
    return Summary(len(ordered), fmean(ordered), p50, p90, p95, p99, ordered[-1])


def binomial_at_most(successes: int, trials: int, probability: float) -> float:
    """P(X <= successes) for binomial X with `trials` and `probability`; exact up to rounding."""
    if successes >= trials:
        return 1.0
    log_p, log_q = math.log(probability), math.log1p(-probability)
    total = math.lgamma(trials + 1)
    terms = (
        math.exp(total - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * log_p + (trials - k) * log_q)
        for k in range(successes + 1)
    )
    return min(1.0, math.fsum(terms))


def samples_to_meet(over: int, quantile: float = 0.99, confidence: float = 0.99) -> int:
    """The smallest number of samples that proves the quantile within the limit if `over` of them exceed it.

    These are the numbers of MLPerf's early stopping: at 99 % and 99 %, 459 with none over, 662 with one, 838 with two.
    """
    low, high = over, over + 1
    while binomial_at_most(over, high, 1 - quantile) > 1 - confidence:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_at_most(over, middle, 1 - quantile) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def quantile_test(
    latencies_s: Sequence[float], limit_s: float, quantile: float = 0.99, confidence: float = 0.99
) -> QuantileTest:
    """Whether the `quantile` of all latencies is at most `limit_s`, by an exact one-sided binomial test in each direction.

    *Met*: if more than 1 - `quantile` of all requests exceeded the limit, the probability to observe so few would be at
    most 1 - `confidence`. *Missed*: the same in the other direction. This holds for a single test of the samples; repeated
    tests must use a higher confidence before the last one.

    Args:
        latencies_s: raw latencies, seconds, in any order.
        limit_s: seconds.
        quantile: the quantile that must be within the limit.
        confidence: of the test.
    """
    samples, over = len(latencies_s), sum(latency > limit_s for latency in latencies_s)
    risk = 1 - confidence
    if binomial_at_most(over, samples, 1 - quantile) <= risk:
        return QuantileTest("met", samples, over, 0)
    # The probability of `over` or more: one minus the probability of fewer.
    if over and 1 - binomial_at_most(over - 1, samples, 1 - quantile) <= risk:
        return QuantileTest("missed", samples, over, 0)
    return QuantileTest("inconclusive", samples, over, samples_to_meet(over, quantile, confidence) - samples)


def compare_rounds(times: Sequence[float], other: Sequence[float]) -> Comparison:
    """Compare two models that were measured in interleaved rounds, so that drift affects both of a pair.

    The interval is that of the sign test: between the k-th smallest and the k-th largest ratio, with the largest k for which
    it covers the median with at least 95 %, for any distribution (Conover, Practical Nonparametric Statistics, 3.2).
    Fewer than six rounds cannot give 95 %.

    Args:
        times: one value for each round, seconds.
        other: of the other model, for the same rounds in the same order.

    Raises:
        ValueError: the numbers of rounds differ, or there are none.
    """
    ratios = sorted(one / another for one, another in zip(times, other, strict=True))
    if not ratios:
        raise ValueError("a comparison needs at least one round")
    rank = 0
    while 2 * binomial_at_most(rank, len(ratios), 0.5) <= 1 - _INTERVAL:
        rank += 1
    if rank == 0:
        return Comparison(median(ratios), 0.0, None, len(ratios))
    return Comparison(median(ratios), ratios[rank - 1], ratios[-rank], len(ratios))


def faster_by_chance(ratios: Sequence[float]) -> float:
    """The chance that a model which is no faster would have been so in as many of the rounds: the p-value of the sign test, one-sided.

    Args:
        ratios: its times divided by another's, one for each round; a tie counts against it.
    """
    return binomial_at_most(sum(ratio >= 1 for ratio in ratios), len(ratios), 0.5)


def holm(chances: Mapping[str, float], risk: float) -> frozenset[str]:
    """Which of several claims hold, so that the chance of even one false claim among them is at most `risk`.

    Holm's method (A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979): the claim
    with the smallest p-value is held against `risk` divided by the number of claims, the next one against that divided by one
    less, and so on until one does not hold. It needs no independence, so the claims may be about one and the same reference, and
    finds all that Bonferroni's correction finds.

    Args:
        chances: claim → its p-value.
        risk: of all claims together.
    """
    held: list[str] = []
    for claim in sorted(chances, key=lambda name: chances[name]):
        if chances[claim] > risk / (len(chances) - len(held)):
            break
        held.append(claim)
    return frozenset(held)


def settled(window_means: Sequence[float], windows: int = 3, tolerance: float = 0.05) -> bool:
    """Whether the warm-up has settled: each of the last `windows` means is within `tolerance` of their overall mean."""
    last = window_means[-windows:]
    if len(last) < windows:
        return False
    middle = fmean(last)
    return all(abs(mean - middle) <= tolerance * middle for mean in last)
