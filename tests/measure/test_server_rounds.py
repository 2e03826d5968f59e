"""What is claimed of a server under load, with stand-ins for the server and the generator whose answers a test knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from orchestrator.artifacts.server_report import P99Level, ServerMeasurement, ServerSettings, ThroughputLevel
from orchestrator.measure.measured_server import MeasuredServer
from orchestrator.measure.server_report import ServerResult, StartedServer, server_result
from orchestrator.measure.server_rounds import LoadedServer, LoadSettings, load_in_rounds, warm_up
from orchestrator.measure.session import MeasuredProcess
from orchestrator.select.service_level import distance_text, service_level

LIMIT = 0.02
STARTED = StartedServer(ServerSettings(max_batch_size=8, max_delay=0.0), None, 1.0, 0.01)


class QuietServer:
    """Lives, and uses no CPU."""

    peak = 2**20

    def cpu_seconds(self) -> float:
        return 0.0

    def check(self) -> None:
        """Nothing ends it."""


class Generator:
    """Answers as a server of some capacity would, without sending anything."""

    def __init__(self, *, capacity: float, latency: float, **more: Any) -> None:
        self._capacity, self._latency, self._more = capacity, latency, more
        self.asked: list[dict[str, Any]] = []

    def ask(self, command: dict[str, Any], timeout: float) -> dict[str, Any]:
        assert timeout > 0
        self.asked.append(command)
        delay = self._more.get("delay", 0.0)
        if command["do"] == "saturate":
            number, rate, seconds = int(self._capacity * command["seconds"]), self._capacity, command["seconds"]
        else:
            number, rate = command["requests"], command["rate"]
            seconds = number / min(rate, self._capacity) + self._latency
        # Whatever the server cannot carry waits in a queue that grows.
        queued = max(0.0, 1 / self._capacity - 1 / rate) if command["do"] == "schedule" else 0.0
        refused = min(number, self._more.get("refused", 0)) if command["do"] == "schedule" else 0
        sent = [self._latency + place * queued for place in range(number - refused)]
        return {
            "latencies": [latency + delay for latency in sent],
            "sent": sent,
            "delays": [delay] * number,
            "refused": {"status 503": refused} if refused else {},
            "errors": self._more.get("errors", {}),
            "seconds": seconds,
            "answered": number - refused,
        }


def loaded(name: str = "onnx-fp32", *, capacity: float = 1000.0, latency: float = 0.004, **more: Any) -> LoadedServer:
    generator = Generator(capacity=capacity, latency=latency, **more)
    made = LoadedServer(name, cast("MeasuredServer", QuietServer()), cast("MeasuredProcess", generator))
    warm_up(made, 32)
    return made


def asked(of: LoadedServer) -> list[dict[str, Any]]:
    return [command for command in cast("Generator", of.load).asked if command["do"] == "schedule"]


@pytest.fixture
def measured() -> Callable[..., ServerResult]:
    def measure(
        *servers: LoadedServer, rate: float = 200.0, limit: float = LIMIT, budget: float = 100.0
    ) -> ServerResult:
        settings = LoadSettings(rate=rate, p99_limit=limit, deadline=time.monotonic() + budget)
        load_in_rounds(servers, settings, lambda *_: None)
        return server_result(servers[0], STARTED, settings, rate, rate)

    return measure


Measure = Callable[..., ServerResult]


def numbers(result: ServerResult) -> ServerMeasurement:
    assert result.measured is not None, result.reason
    return result.measured


def p99(result: ServerResult) -> P99Level:
    found = numbers(result).slo.p99
    assert found is not None
    return found


def throughput(result: ServerResult) -> ThroughputLevel:
    found = numbers(result).slo.throughput
    assert found is not None
    return found


def test_a_busy_server_is_measured_and_misses_by_a_distance(measured: Measure) -> None:
    result = measured(loaded(refused=40))
    assert result.fate == "measured"
    assert p99(result).status == "missed"
    assert numbers(result).open_loop.p99 == 10.0
    assert service_level(numbers(result)) == "missed"
    assert f"it refused {p99(result).over} of {p99(result).samples} requests as too busy" in distance_text(
        numbers(result)
    )


def test_one_refusal_among_many_is_one_request_over_the_limit(measured: Measure) -> None:
    result = measured(loaded(refused=1))
    assert (result.fate, p99(result).status) == ("measured", "met")
    assert p99(result).over == sum(numbers(result).refused.values()) > 0
    assert numbers(result).open_loop.p99 < LIMIT


def test_a_broken_server_fails(measured: Measure) -> None:
    result = measured(loaded(errors={"status 500": 1}))
    assert result.fate == "failed"
    assert "requests failed: status 500" in result.reason
    assert result.error is not None
    assert (result.error.code, result.error.cause) == ("E612", "status 500")


def test_a_rate_that_is_only_sustained_for_a_short_burst_is_not_met(measured: Measure) -> None:
    result = measured(loaded(capacity=3465.0), rate=12_000.0)
    assert throughput(result).met is False
    assert throughput(result).reached < 4000
    assert p99(result).status == "missed"


@pytest.mark.parametrize("rate", [200.0, 3000.0])
def test_a_segment_lasts_long_enough_for_a_queue_to_grow(measured: Measure, rate: float) -> None:
    one = loaded(capacity=5000.0)
    result = measured(one, rate=rate)
    assert all(command["requests"] / command["rate"] >= 2 for command in asked(one))
    assert (throughput(result).wanted, throughput(result).met) == (rate, True)
    assert throughput(result).reached == pytest.approx(5000.0)


def test_a_rate_that_is_just_sustained_is_met(measured: Measure) -> None:
    one = loaded(capacity=1000.0, latency=0.004)
    one.capacity = 150.0
    settings = LoadSettings(rate=990.0, p99_limit=LIMIT, deadline=time.monotonic() + 1000)
    load_in_rounds([one], settings, lambda *_: None)
    result = server_result(one, STARTED, settings, 990.0, 1005.0)
    assert throughput(result).met is True  # 990/s were answered, which is 1005/s but for the ends


def test_a_limit_that_the_generator_missed_is_not_the_servers(measured: Measure) -> None:
    result = measured(loaded(latency=0.004, delay=0.03))
    assert service_level(numbers(result)) == "inconclusive"
    assert "the load generator sent its requests late" in distance_text(numbers(result))


def test_a_server_that_misses_by_itself_misses_with_a_late_generator_too(measured: Measure) -> None:
    assert service_level(numbers(measured(loaded(latency=0.03, delay=0.03)))) == "missed"


def test_a_limit_that_is_held_in_spite_of_a_late_generator_is_held(measured: Measure) -> None:
    assert service_level(numbers(measured(loaded(latency=0.004, delay=0.01)))) == "met"


def test_decided_candidates_continue_while_a_possible_winner_is_undecided(measured: Measure) -> None:
    sure, unsure, slow = loaded("a"), loaded("b", refused=5), loaded("c", latency=0.5)
    measured(sure, unsure, slow)
    assert unsure.level == "inconclusive"
    assert [len(one.scheduled) for one in (sure, unsure, slow)] == [4, 4, 1]
    assert len(sure.latencies) == len(unsure.latencies)


def test_a_server_that_answers_nothing_under_load_fails(measured: Measure) -> None:
    result = measured(loaded(capacity=0.5))
    assert (result.fate, result.reason) == ("failed", "its server answered no request under load")
