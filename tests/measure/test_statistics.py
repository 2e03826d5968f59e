"""Statistics against numbers that are known from elsewhere."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.measure.statistics import (
    binomial_at_most,
    compare_rounds,
    faster_by_chance,
    holm,
    percentile,
    percentile_interval,
    quantile_test,
    samples_to_meet,
    settled,
    summarize,
    tail_is_slower,
)


@pytest.mark.parametrize(("quantile", "expected"), [(0.5, 50), (0.9, 90), (0.95, 95), (0.99, 99), (1.0, 100)])
def test_a_percentile_of_1_to_100_is_its_own_rank(quantile: float, expected: int) -> None:
    values = [float(value) for value in range(1, 101)]
    random.Random(0).shuffle(values)
    assert percentile(values, quantile) == expected


def test_p99_of_few_samples_is_the_largest() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0


def test_a_percentile_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="a percentile needs at least one sample"):
        percentile([], 0.5)
    with pytest.raises(ValueError, match="a quantile must be in"):
        percentile([1.0], 1.5)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_a_percentile_is_the_smallest_sample_that_enough_do_not_exceed(values: list[float], quantile: float) -> None:
    found = percentile(values, quantile)
    assert found in values
    assert sum(v <= found for v in values) >= quantile * len(values) - 1e-6
    smaller = [v for v in values if v < found]
    assert len(smaller) < quantile * len(values) + 1e-6


def test_a_summary_pools_what_it_is_given() -> None:
    summary = summarize([float(value) for value in range(1, 1001)])
    assert (summary.samples, summary.mean, summary.p50, summary.p99, summary.max) == (1000, 500.5, 500, 990, 1000)


@pytest.mark.parametrize(("over", "samples"), [(0, 459), (1, 662), (2, 838), (5, 1307)])
def test_the_numbers_of_samples_are_those_of_mlperf(over: int, samples: int) -> None:
    assert samples_to_meet(over) == samples


def test_a_smaller_quantile_needs_fewer_samples() -> None:
    assert samples_to_meet(1, 0.9) == 64
    assert binomial_at_most(1, 64, 0.1) <= 0.01 < binomial_at_most(1, 63, 0.1)


@pytest.mark.parametrize(("good", "bad", "status"), [
    (459, 0, "met"),
    (458, 0, "inconclusive"),
    (661, 1, "met"),
    (660, 1, "inconclusive"),
    (1360, 40, "missed"),
    (1386, 14, "inconclusive"),  # exactly one in a hundred
    (0, 1, "missed"),
])  # fmt: skip
def test_a_limit_is_met_or_missed_only_when_that_is_proven(good: int, bad: int, status: str) -> None:
    found = quantile_test([0.01] * good + [0.03] * bad, 0.02)
    assert (found.status, found.samples, found.over) == (status, good + bad, bad)


def test_an_inconclusive_verdict_says_how_many_more_samples_it_needs() -> None:
    assert quantile_test([], 0.02).samples_wanted == 459
    assert quantile_test([0.01] * 100, 0.02).samples_wanted == 359
    assert quantile_test([0.01] * 500 + [0.1], 0.02).samples_wanted == 662 - 501
    assert quantile_test([0.01] * 459, 0.02).samples_wanted == 0


def test_a_latency_at_the_limit_is_within_it() -> None:
    assert quantile_test([0.02] * 459, 0.02).status == "met"


def test_a_service_that_exceeds_its_limit_twice_as_often_as_allowed_hardly_ever_passes() -> None:
    draw = random.Random(1)
    called_good = sum(
        quantile_test([0.03 if draw.random() < 0.02 else 0.01 for _ in range(1400)], 0.02).status == "met"
        for _ in range(100)
    )
    assert called_good == 0


def test_paired_rounds_see_a_difference_through_a_drift_that_is_larger() -> None:
    drift = [1.0, 1.5, 2.0, 3.0, 2.5, 1.2, 4.0, 1.1]
    comparison = compare_rounds([0.9 * d for d in drift], drift)
    assert comparison.ratio == pytest.approx(0.9)
    assert comparison.faster
    assert not comparison.slower


def test_identical_models_are_called_different_in_at_most_5_of_100_comparisons() -> None:
    draw = random.Random(2)

    def differ() -> bool:
        # A machine that drifts, and in each round either one may be disturbed.
        drift = [draw.uniform(1, 2) for _ in range(12)]
        ours, theirs = ([each * (1 + draw.expovariate(20)) for each in drift] for _ in range(2))
        comparison = compare_rounds(ours, theirs)
        return comparison.faster or comparison.slower

    assert sum(differ() for _ in range(2000)) / 2000 <= 0.05


def test_the_sign_test_interval_of_ten_rounds_drops_one_at_either_end() -> None:
    comparison = compare_rounds([float(n) for n in range(1, 11)], [1.0] * 10)
    assert (comparison.low, comparison.ratio, comparison.high) == (2.0, 5.5, 9.0)


def test_five_rounds_prove_nothing() -> None:
    comparison = compare_rounds([0.5] * 5, [1.0] * 5)
    assert (comparison.low, comparison.high) == (0.0, None)
    assert not comparison.faster


def test_the_chance_of_being_faster_in_so_many_rounds_counts_ties_against_it() -> None:
    assert faster_by_chance([0.9] * 6) == pytest.approx(1 / 64)
    assert faster_by_chance([0.9] * 5 + [1.0]) == pytest.approx(7 / 64)


def test_claims_are_held_against_what_is_left_of_the_risk() -> None:
    """A third of the risk for the first claim, half for the second, all for the last."""
    assert holm({"a": 0.02, "b": 0.015, "c": 0.04}, 0.05) == {"a", "b", "c"}
    assert holm({"a": 0.03, "b": 0.015, "c": 0.04}, 0.05) == {"b"}
    assert holm({"a": 0.02, "b": 0.02, "c": 0.02}, 0.05) == frozenset(), "none is below a third"
    assert holm({}, 0.05) == frozenset()


def test_rounds_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        compare_rounds([1.0, 2.0], [1.0])


def test_warming_up_is_over_when_three_windows_agree() -> None:
    assert not settled([1.0, 1.0])
    assert not settled([9.0, 2.0, 1.0, 1.0])
    assert settled([9.0, 2.0, 1.0, 1.02, 0.99])
    assert not settled([1.0, 1.1, 1.0])


def test_the_interval_of_a_percentile_covers_it_as_often_as_it_says() -> None:
    draw = random.Random(5)
    found = [percentile_interval([draw.random() for _ in range(800)], 0.99) for _ in range(400)]
    covered = [low <= 0.99 and (high is None or high >= 0.99) for low, high in found]
    assert 0.94 <= sum(covered) / len(covered) < 1


def test_too_few_samples_bound_no_percentile_from_above() -> None:
    assert percentile_interval([1.0] * 300, 0.99)[1] is None
    assert percentile_interval([1.0] * 400, 0.99)[1] == 1.0
    with pytest.raises(ValueError, match="a percentile needs at least one sample"):
        percentile_interval([], 0.99)


def _apart(slow: list[float], fast: list[float]) -> bool | None:
    slowest, others = (sorted(each, reverse=True)[:10] for each in (slow, fast))
    return tail_is_slower(slowest, len(slow), others, len(fast))


def test_two_servers_whose_p99_differ_by_seven_times_are_told_apart_by_few_answers() -> None:
    draw = random.Random(7)
    fast = [0.041 + draw.expovariate(1 / 0.015) for _ in range(80)]
    slow = [0.29 + draw.expovariate(1 / 0.1) for _ in range(80)]
    assert percentile_interval(fast, 0.99)[1] is None, "their intervals have no upper end"
    assert _apart(slow, fast) is True
    assert _apart(slow[:8], fast[:8]) is True
    assert _apart(slow[:4], fast[:4]) is True


def test_only_what_no_answers_could_prove_is_too_few() -> None:
    assert _apart([9.0] * 3, [1.0] * 3) is None
    assert _apart([1.0] * 4, [1.0] * 4) is False
    assert _apart([], [1.0] * 400) is None


def test_equal_servers_are_hardly_ever_told_apart() -> None:
    draw = random.Random(8)
    for size in (6, 20, 100):
        pairs = ([[draw.expovariate(1) for _ in range(size)] for _ in range(2)] for _ in range(400))
        assert sum(_apart(one, other) is True for one, other in pairs) / 400 <= 0.025 + 0.02


def test_one_stall_is_not_a_slower_server() -> None:
    draw = random.Random(9)
    fast, stalled = ([0.041 + draw.expovariate(1 / 0.015) for _ in range(80)] for _ in range(2))
    assert _apart([*stalled[:-4], 0.5, 0.45, 0.4, 0.35], fast) is False
