"""What is claimed of a server beside other processes, in simulated time."""

from __future__ import annotations

import math

import pytest

from orchestrator.select.service_level import distance_text, service_level
from tests.measure.simulated_servers import (
    LIMIT,
    Bench,
    Busy,
    loop,
    numbers,
    p99,
    throughput,
)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_what_other_processes_disturb_is_measured_again_until_it_is_quiet(bench: Bench) -> None:
    # They are busy while the servers warm up and in the first rounds.
    server = bench.server(busy=Busy(bench.clock, 0.5, ends=12.0))
    [result] = bench.measure(server)
    others = numbers(result).others
    assert others is not None
    assert (p99(result).status, others.disturbed) == ("met", 0)
    assert 1 <= others.again <= 8
    assert loop(result).p99 < LIMIT


def test_a_limit_that_is_missed_while_other_processes_are_busy_is_not_proven_to_be_missed(bench: Bench) -> None:
    budget_ends = bench.clock() + bench.budget
    [result] = bench.measure(bench.server(busy=Busy(bench.clock, 0.5)))
    others = numbers(result).others
    assert others is not None
    assert (p99(result).status, p99(result).disturbed, others.disturbed, others.again) == ("inconclusive", True, 4, 8)
    assert service_level(numbers(result)) == "inconclusive"
    assert "not proven: other processes used 50 % of the CPUs meanwhile, also when it was measured again (8 times)" in (
        distance_text(numbers(result))
    )
    assert bench.clock() < budget_ends


def test_measuring_again_ends_with_the_time(bench: Bench) -> None:
    bench.budget = 20.0
    ends = bench.clock() + bench.budget
    [result] = bench.measure(bench.server(busy=Busy(bench.clock, 0.5)))
    others = numbers(result).others
    assert others is not None
    assert others.again < 4
    assert bench.clock() <= ends


def test_a_limit_that_is_held_beside_other_processes_is_held_and_nothing_is_repeated(bench: Bench) -> None:
    [result] = bench.measure(bench.server(busy=Busy(bench.clock, 0.3, adds=0.001)))
    others = numbers(result).others
    assert others is not None
    assert (p99(result).status, others.again) == ("met", 0)
    assert others.disturbed > 0


def test_a_server_that_misses_its_limit_in_quiet_segments_misses_it(bench: Bench) -> None:
    [result] = bench.measure(bench.server(latency=0.05, busy=Busy(bench.clock, 0.5, ends=3.0)))
    assert (p99(result).status, p99(result).disturbed) == ("missed", False)


def test_little_use_by_others_disturbs_nothing(bench: Bench) -> None:
    [result] = bench.measure(bench.server(latency=0.05, busy=Busy(bench.clock, 0.05)))
    assert (p99(result).status, p99(result).disturbed) == ("missed", False)


def test_a_server_that_is_compared_with_an_undecided_one_is_measured_again_like_it(bench: Bench) -> None:
    """Otherwise the undecided one would be compared as the machine was quiet, and the other one as it was busy."""
    sure = bench.server("a", busy=Busy(bench.clock, 0.5, ends=12.0, adds=0.01))
    unsure = bench.server("b", busy=Busy(bench.clock, 0.5, ends=12.0))
    results = bench.measure(sure, unsure)
    assert [p99(result).status for result in results] == ["met", "met"]
    assert sure.again >= 1
    assert unsure.again >= 1
    assert sum(segment.disturbed for segment in sure.scheduled) <= 1


def test_a_server_that_is_proven_to_miss_its_limit_is_not_measured_again(bench: Bench) -> None:
    [result] = bench.measure(bench.server(latency=0.05, busy=Busy(bench.clock, 0.5, ends=5.0)))
    others = numbers(result).others
    assert others is not None
    assert others.disturbed > 0
    assert (p99(result).status, others.again) == ("missed", 0)


def test_a_request_that_fails_when_it_is_measured_again_fails_the_server(bench: Bench) -> None:
    [result] = bench.measure(bench.server(busy=Busy(bench.clock, 0.5), errors_again={"status 500": 1}))
    assert result.fate == "failed"
    assert "requests failed: status 500" in result.reason


@pytest.mark.parametrize(("ends", "disturbed"), [(10.0, False), (math.inf, True)])
def test_a_throughput_is_missed_if_it_is_in_undisturbed_segments(bench: Bench, ends: float, *, disturbed: bool) -> None:
    server = bench.server(capacity=1000.0, busy=Busy(bench.clock, 0.5, ends=ends))
    [result] = bench.measure(server, rate=3000.0, p99_limit=None)
    assert any(segment.disturbed for segment in server.saturated)
    assert (throughput(result).met, throughput(result).disturbed) == (False, disturbed)


@pytest.mark.parametrize(("shares", "used"), [(True, 0.2), (False, 0.3)])
def test_a_generator_on_other_cpus_uses_none_of_the_servers(bench: Bench, used: float, *, shares: bool) -> None:
    """Of the server's two CPUs, others use three tenths; the generator uses a fifth of one, wherever that is."""
    server = bench.server(busy=Busy(bench.clock, 0.3, adds=0.001), generator_cpus=0.2)
    server.shares_cpus = shares
    [result] = bench.measure(server)
    others = numbers(result).others
    assert others is not None
    assert others.cpus == pytest.approx(used, abs=0.01)
