"""What may be said of measured times: percentiles, whether a limit is held, which of two is faster, what is settled.

Exact methods throughout: no normal distribution is assumed, and nothing is averaged twice. Plain Python, since the
samples are thousands at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import fmean, median
from typing import Literal

__all__ = [
    "FEWEST_ROUNDS",
    "Comparison",
    "Summary",
    "Verdict",
    "binomial_at_most",
    "compare_rounds",
    "percentile",
    "percentile_interval",
    "samples_to_meet",
    "settled",
    "slo_verdict",
    "summarize",
]


FEWEST_ROUNDS = 6
"""Pairs of measurements that the sign test needs for an interval at 95 %."""


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
class Verdict:
    """Whether a quantile of all latencies lies within a limit, as far as a sample can tell.

    Attributes:
        status: `met` and `missed` are claimed at the confidence; otherwise `inconclusive`.
        samples: how many were looked at.
        over: how many of them were over the limit.
        samples_wanted: how many more, none of them over the limit, would prove it met; 0 once it is decided.
    """

    status: Literal["met", "missed", "inconclusive"]
    samples: int
    over: int
    samples_wanted: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one measured thing compares with another over paired rounds.

    Attributes:
        ratio: median over the rounds of this one's time by the other's; below 1 is faster.
        low, high: confidence interval of that median; (0, inf) when there are too few rounds to tell.
        rounds: how many pairs.
    """

    ratio: float
    low: float
    high: float
    rounds: int

    @property
    def faster(self) -> bool:
        """The whole interval lies below 1."""
        return self.high < 1

    @property
    def slower(self) -> bool:
        """The whole interval lies above 1."""
        return self.low > 1


def percentile(samples: Sequence[float], quantile: float) -> float:
    """The nearest-rank percentile: the smallest sample that at least `quantile` of all samples do not exceed.

    It is always a value that was measured; with fewer than 1 / (1 - quantile) samples it is the largest.

    Args:
        samples: raw values, in any order, all runs pooled.
        quantile: in (0, 1], such as 0.99.

    Raises:
        ValueError: no samples, or a quantile outside (0, 1].
    """
    if not samples:
        raise ValueError("no samples have no percentile")
    # As a decimal fraction: 0.99 * 100 is 99.00000000000001 in floating point, and its ceiling the wrong rank.
    wanted = Fraction(str(quantile))
    if not 0 < wanted <= 1:
        raise ValueError(f"a quantile lies in (0, 1], not {quantile}")
    return sorted(samples)[math.ceil(wanted * len(samples)) - 1]


def percentile_interval(
    samples: Sequence[float], quantile: float, confidence: float = 0.95
) -> tuple[float, float | None]:
    """The confidence interval of a percentile: between two of the samples, whatever the distribution.

    The samples below the true percentile are binomial in number, which gives the ranks (Conover, Practical
    Nonparametric Statistics, 3.2).

    Args:
        samples: raw values, in any order.
        quantile: in (0, 1).
        confidence: of the interval.

    Returns:
        Both ends; no upper one when the samples are too few, and 0 for the lower one then.

    Raises:
        ValueError: no samples.
    """
    if not samples:
        raise ValueError("no samples have no percentile")
    ordered, size, risk = sorted(samples), len(samples), (1 - confidence) / 2
    # Both tails are counted by the samples above, which are few for the percentiles that matter.
    above = 0
    while above < size and binomial_at_most(above, size, 1 - quantile) <= risk:
        above += 1
    high = ordered[size - above] if above else None
    while above < size and binomial_at_most(above, size, 1 - quantile) < 1 - risk:
        above += 1
    return (ordered[size - above - 1] if above < size else 0.0), high


def summarize(samples: Sequence[float]) -> Summary:
    """Mean and percentiles of raw values, computed once from all of them.

    Raises:
        ValueError: no samples.
    """
    ordered = sorted(samples)
    p50, p90, p95, p99 = (percentile(ordered, q) for q in (0.5, 0.9, 0.95, 0.99))
    return Summary(len(ordered), fmean(ordered), p50, p90, p95, p99, ordered[-1])


def binomial_at_most(successes: int, trials: int, probability: float) -> float:
    """P(X <= successes) for X binomial in `trials` and `probability`; exact but for rounding."""
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
    """The fewest samples with `over` of them over the limit that prove the quantile within it.

    The numbers of MLPerf's early stopping: at 99 % and 99 %, 459 with none over, 662 with one, 838 with two.
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


def slo_verdict(
    latencies_s: Sequence[float], limit_s: float, quantile: float = 0.99, confidence: float = 0.99
) -> Verdict:
    """Whether the `quantile` of all latencies is at most `limit_s`, by the exact one-sided binomial test either way.

    *Met*: if more than 1 - `quantile` of all requests were over the limit, so few over would be seen with a
    probability of at most 1 - `confidence`. *Missed*: the same the other way round. For a single look at the
    samples; who looks several times must ask for more confidence at the looks before the last.

    Args:
        latencies_s: raw latencies, seconds, in any order.
        limit_s: seconds.
        quantile: which quantile is to be within the limit.
        confidence: of the claim.
    """
    samples, over = len(latencies_s), sum(latency > limit_s for latency in latencies_s)
    risk = 1 - confidence
    if binomial_at_most(over, samples, 1 - quantile) <= risk:
        return Verdict("met", samples, over, 0)
    # The chance of `over` or more: one less the chance of fewer.
    if over and 1 - binomial_at_most(over - 1, samples, 1 - quantile) <= risk:
        return Verdict("missed", samples, over, 0)
    return Verdict("inconclusive", samples, over, samples_to_meet(over, quantile, confidence) - samples)


def compare_rounds(times: Sequence[float], other: Sequence[float], confidence: float = 0.95) -> Comparison:
    """Compare two things that were measured in turns, round by round, so that drift hits both of a pair.

    The interval is the sign test's: between the k-th smallest and the k-th largest ratio, with the largest k for which
    that covers the median with at least `confidence` whatever the distribution (Conover, Practical Nonparametric
    Statistics, 3.2). Fewer than six rounds cannot give 95 %.

    Args:
        times: one value for each round, seconds.
        other: the other thing's, of the same rounds in the same order.
        confidence: of the interval.

    Raises:
        ValueError: the rounds are not pairs, or there is none.
    """
    ratios = sorted(mine / its for mine, its in zip(times, other, strict=True))
    if not ratios:
        raise ValueError("no rounds cannot be compared")
    rank = 0
    while 2 * binomial_at_most(rank, len(ratios), 0.5) <= 1 - confidence:
        rank += 1
    if rank == 0:
        return Comparison(median(ratios), 0.0, math.inf, len(ratios))
    return Comparison(median(ratios), ratios[rank - 1], ratios[-rank], len(ratios))


def settled(window_means: Sequence[float], windows: int = 3, tolerance: float = 0.05) -> bool:
    """Whether warming up is over: each of the last `windows` means lies within `tolerance` of their own mean."""
    last = window_means[-windows:]
    if len(last) < windows:
        return False
    middle = fmean(last)
    return all(abs(mean - middle) <= tolerance * middle for mean in last)
