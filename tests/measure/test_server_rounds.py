"""What is claimed of a server under load, in simulated time, with stand-ins for the server and the generator."""

from __future__ import annotations

import pytest

from orchestrator.artifacts.measurement import NotMeasured
from orchestrator.measure.knee import rungs
from orchestrator.measure.server_rounds import (
    other_wires,
)
from orchestrator.select.service_level import distance_text, service_level
from orchestrator.spec.types import Wire
from tests.measure.simulated_servers import (
    LIMIT,
    Bench,
    asked,
    loop,
    numbers,
    p99,
    saturated,
    throughput,
)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_busy_server_is_measured_and_misses_by_a_distance(bench: Bench) -> None:
    (result,) = bench.measure(bench.server(refused=40))
    assert result.fate == "measured"
    assert p99(result).status == "missed"
    assert loop(result).p99 == 10.0
    assert service_level(numbers(result)) == "missed"
    assert f"it refused {p99(result).over} of {p99(result).samples} requests as too busy" in distance_text(
        numbers(result)
    )


def test_one_refusal_among_many_is_one_request_over_the_limit(bench: Bench) -> None:
    (result,) = bench.measure(bench.server(refused=1))
    assert (result.fate, p99(result).status) == ("measured", "met")
    assert p99(result).over == sum(numbers(result).refused.values()) > 0
    assert loop(result).p99 < LIMIT


@pytest.mark.parametrize(("slow", "least", "most"), [(0.02, 0, 2), (0.001, 190, 200)])
def test_a_limit_that_twice_too_many_requests_break_is_held_in_at_most_one_run_of_a_hundred(
    slow: float, least: int, most: int
) -> None:
    """With every look in between and every repetition, which each could be lucky; and a good server is seldom called a bad one."""
    held = 0
    for draw in range(200):
        bench = Bench()
        (result,) = bench.measure(bench.server(capacity=500.0, slow=slow, draw=draw))
        held += p99(result).status == "met"
        assert (numbers(result).known_knee is not None) == (p99(result).status == "met")
    assert least <= held <= most


def test_a_broken_server_fails(bench: Bench) -> None:
    (result,) = bench.measure(bench.server(errors={"status 500": 1}))
    assert result.fate == "failed"
    assert "requests failed: status 500" in result.reason
    assert result.error is not None
    assert (result.error.code, result.error.cause) == ("E612", "status 500")
    assert result.error is not None
    assert (result.error.code, result.error.cause) == ("E612", "status 500")


def test_a_rate_that_is_only_sustained_for_a_short_burst_is_not_met(bench: Bench) -> None:
    (result,) = bench.measure(bench.server(capacity=3465.0), rate=12_000.0)
    assert throughput(result).met is False
    assert throughput(result).reached < 4000
    assert p99(result).status == "missed"


@pytest.mark.parametrize("rate", [200.0, 3000.0])
def test_a_segment_lasts_long_enough_for_a_queue_to_grow(bench: Bench, rate: float) -> None:
    one = bench.server(capacity=5000.0)
    (result,) = bench.measure(one, rate=rate)
    assert all(command["requests"] / command["rate"] >= 2 for command in asked(one))
    assert (throughput(result).wanted, throughput(result).met) == (rate, True)
    assert throughput(result).reached == pytest.approx(5000.0, rel=0.01)


def test_a_rate_that_is_just_sustained_is_met(bench: Bench) -> None:
    one = bench.server(capacity=1000.0, latency=0.003)
    (result,) = bench.measure(one, rate=990.0, wanted=1005.0)
    assert throughput(result).met is True  # 990/s were answered, which is 1005/s but for the ends


def test_a_limit_that_the_generator_missed_is_not_the_servers(bench: Bench) -> None:
    (result,) = bench.measure(bench.server(delay=0.03))
    assert service_level(numbers(result)) == "inconclusive"
    assert "the load generator sent its requests late" in distance_text(numbers(result))


def test_a_server_that_misses_by_itself_misses_with_a_late_generator_too(bench: Bench) -> None:
    (result,) = bench.measure(bench.server(latency=0.03, delay=0.03))
    assert service_level(numbers(result)) == "missed"


def test_a_limit_that_is_held_in_spite_of_a_late_generator_is_held(bench: Bench) -> None:
    (result,) = bench.measure(bench.server(delay=0.01))
    assert service_level(numbers(result)) == "met"


def test_decided_candidates_continue_while_a_possible_winner_is_undecided(bench: Bench) -> None:
    sure, unsure, slow = bench.server("a"), bench.server("b", refused=5), bench.server("c", latency=0.5)
    bench.measure(sure, unsure, slow)
    assert unsure.level == "inconclusive"
    assert [len(one.scheduled) for one in (sure, unsure, slow)] == [4, 4, 1]
    assert len(sure.latencies) == len(unsure.latencies)


def test_a_server_that_answers_nothing_fails(bench: Bench) -> None:
    (result,) = bench.measure(bench.server(capacity=1e-6))
    assert (result.fate, result.reason) == (
        "failed",
        "its server answered no request under load: it refused 1 with: status 503",
    )


@pytest.mark.parametrize(
    ("call", "batch"), [(0.041, 1), (0.041, 32), (0.3, 1), (3.0, 1), (3.0, 2)], ids=lambda value: f"{value:g}"
)
@pytest.mark.parametrize("servers", [1, 4])
def test_a_slow_model_is_loaded_at_half_of_what_it_reaches(bench: Bench, call: float, batch: int, servers: int) -> None:
    """`call` seconds for each request of a full batch, so that the capacity is 1 / call, as on a CPU."""
    many = [bench.server(str(number), capacity=1 / call, latency=0.001, batch=batch) for number in range(servers)]
    begun = bench.clock.now
    for result in bench.measure(*many, rate=None, p99_limit=None):
        assert loop(result).rate == pytest.approx(0.5 / call, rel=0.05)
        assert loop(result).samples >= 5
        assert saturated(result).rows_per_second == pytest.approx(1 / call, rel=0.05)
        assert saturated(result).by_segment
        assert min(saturated(result).by_segment) > 0
        assert not numbers(result).refused
    assert bench.clock.now - begun < bench.budget * 1.2


def test_a_model_of_41_ms_gets_its_samples_within_the_budget(bench: Bench) -> None:
    (result,) = bench.measure(bench.server(capacity=1 / 0.041), rate=None, p99_limit=None)
    assert loop(result).samples >= 400
    assert saturated(result).connections == 32


def test_what_the_budget_does_not_allow_is_not_measured_and_never_0(bench: Bench) -> None:
    bench.budget = 10.0
    (result,) = bench.measure(bench.server(capacity=1 / 3), rate=None, p99_limit=None)
    assert isinstance(numbers(result).saturation, NotMeasured)
    assert numbers(result).saturation.reason.endswith("raise `optimize.time_budget`")  # type: ignore[union-attr]
    assert numbers(result).warm_up.requests_per_second != 0
    assert loop(result).rate > 0


def test_a_throughput_near_the_generators_own_limit_is_not_claimed(bench: Bench) -> None:
    near, far = bench.server("a", capacity=24_000.0), bench.server("b", capacity=15_000.0)
    first, second = bench.measure(near, far)
    assert saturated(first).rows_per_second is None
    assert saturated(first).rows_text == "at least 24,000 rows/s"
    assert saturated(second).rows_per_second == pytest.approx(15_000.0, rel=0.01)
    assert throughput(first).met, "it was reached, whatever the limit"


@pytest.mark.parametrize(
    ("slower", "chosen"),
    [
        ({"json": 0.2}, "binary"),
        ({"binary": 0.2}, "json"),
        ({"json": 0.0002}, "json"),  # hardly slower, and every client has it
        ({"json": 0.2, "binary": 0.1}, "grpc"),
    ],
)
def test_a_server_is_loaded_over_its_fastest_wire_and_the_others_are_reported(
    slower: dict[str, float], chosen: Wire
) -> None:
    bench = Bench()
    server = bench.server("onnx-fp32", "json", "binary", "grpc", slower=slower)
    (result,) = bench.measure(server)
    other_wires(server)
    assert result.measured is not None
    assert result.measured.wire == chosen
    found = {each.wire: each for each in result.measured.wires}
    assert {wire: each.call for wire, each in found.items()} == {
        wire: pytest.approx(0.004 + slower.get(wire, 0.0)) for wire in ("json", "binary", "grpc")
    }
    assert found[chosen].around == pytest.approx(0.002 + slower.get(chosen, 0.0))
    scheduled = asked(server)
    assert {command["wire"] for command in scheduled} == {chosen}
    assert {command["port"] for command in scheduled} == {2 if chosen == "grpc" else 1}
    assert {wire for wire, each in server.wires.items() if each.rows_per_second} == set(found) - {chosen}


def test_a_wire_over_which_the_model_cannot_be_asked_is_not_used() -> None:
    bench = Bench()
    server = bench.server("onnx-fp32", "json", "binary", slower={"binary": 0.5})
    server.wires["json"] = server.wires["json"].model_copy(update={"refused": "status 400"})
    (result,) = bench.measure(server)
    assert result.measured is not None
    assert result.measured.wire == "binary"
    assert result.measured.wires[0].call is None


def test_a_server_is_judged_by_the_wire_that_the_spec_names_and_a_refusal_says_what_another_one_takes() -> None:
    bench = Bench()
    server = bench.server("onnx-fp32", "json", "binary", allowed=("json",), slower={"json": 0.23})
    (result,) = bench.measure(server)
    assert (numbers(result).wire, p99(result).status) == ("json", "missed")
    assert distance_text(numbers(result)).endswith(
        "; a call takes 234 ms with JSON, of which the model takes 2 ms: the rest is the server's own work, transfer and coding of 1,000 B"
        "; a call takes 4 ms with raw tensors, of which the model takes 2 ms"
    )


def test_a_limit_that_the_model_misses_by_itself_is_not_put_down_to_the_wire() -> None:
    bench = Bench()
    server = bench.server("onnx-fp32", "json", "binary", allowed=("json",), slower={"json": 0.002}, latency=0.03)
    server.wires = {wire: each.model_copy(update={"model": 0.03}) for wire, each in server.wires.items()}
    (result,) = bench.measure(server)
    assert p99(result).status == "missed"
    assert "serving.wire" not in distance_text(numbers(result))


@pytest.mark.parametrize("allowed", [("json",), ("json", "binary")])
def test_a_wire_that_clients_need_not_use_does_not_fail_the_server(allowed: tuple[Wire, ...]) -> None:
    bench = Bench()
    server = bench.server("onnx-fp32", "json", "binary", allowed=allowed, broken="binary")
    (result,) = bench.measure(server)
    other_wires(server)
    assert (result.fate, numbers(result).wire) == ("measured", "json")
    assert server.wires["binary"].refused == "status 500"
    assert server.failure is None


def test_a_server_fails_if_the_wire_that_the_spec_names_does(bench: Bench) -> None:
    (result,) = bench.measure(bench.server("onnx-fp32", "json", "binary", allowed=("binary",), broken="binary"))
    assert (result.fate, result.reason.partition(": ")[2]) == ("failed", "status 500")


def test_the_knee_is_the_largest_rate_at_which_the_limit_is_proven(bench: Bench) -> None:
    """With one request after the other at 1,000/s, 99 % are answered in 20 ms up to about 790/s: P(wait > t) = r e^-(1-r)1000t."""
    one = bench.server(capacity=1000.0, latency=0.001)
    (result,) = bench.measure(one)
    knee = numbers(result).known_knee
    assert knee is not None
    assert 501.0 <= knee.rate <= 794.0
    assert knee.p99 <= LIMIT
    assert knee.level.status == "met"
    assert knee.cpus == pytest.approx(0.2)
    assert knee.unsearched == ""
    rates = [command["rate"] for command in asked(one)]
    searched = [rate for rate in rates if rate != 200.0]
    assert searched == [knee.rate], "the largest comes first"


@pytest.mark.parametrize("latency", [0.0165, 0.0168, 0.0175, 0.018])
def test_a_small_knee_far_below_saturation_is_found_from_a_smaller_rate(bench: Bench, latency: float) -> None:
    """Thirteen rates lie between the rounds' and nine tenths of what it reaches; 2 to 3.5 ms are left for queueing."""
    bench.budget = 1000.0
    one = bench.server(capacity=1000.0, latency=latency)
    (result,) = bench.measure(one, rate=50.0)
    knee = numbers(result).known_knee
    assert knee is not None
    searched = [command["rate"] for command in asked(one) if command["rate"] != 50.0]
    assert knee.unsearched == ""
    assert knee.rate >= 63.1
    assert len(searched) == len(set(searched)) <= 5
    assert min(rate for rate in rungs(50.0, 900.0) if rate > knee.rate) in searched, "the next one is not held"


def test_a_knee_that_six_rates_do_not_find_says_so(bench: Bench) -> None:
    bench.budget = 3000.0
    (result,) = bench.measure(bench.server(capacity=20_000.0, latency=0.0195), rate=1.0)
    knee = numbers(result).known_knee
    assert knee is not None
    assert knee.rate > 1.0
    assert knee.unsearched == "6 rates were tried"


def test_a_fast_server_holds_nine_tenths_of_its_throughput(bench: Bench) -> None:
    (result,) = bench.measure(bench.server(capacity=20_000.0, latency=0.001))
    knee = numbers(result).known_knee
    assert knee is not None
    assert knee.rate == 15_800.0


def test_where_nothing_more_is_proven_the_knee_is_the_rate_of_the_rounds(bench: Bench) -> None:
    (result,) = bench.measure(bench.server(capacity=300.0, latency=0.0001), rate=200.0)
    knee = numbers(result).known_knee
    assert knee is not None
    assert (knee.rate, knee.unsearched) == (200.0, "")


def test_where_no_time_is_left_the_knee_is_the_rate_of_the_rounds_and_says_so(bench: Bench) -> None:
    bench.budget = 12.0  # the rounds need it all
    (result,) = bench.measure(bench.server(capacity=300.0, latency=0.001), rate=100.0)
    knee = numbers(result).known_knee
    assert knee is not None
    assert (knee.rate, knee.unsearched) == (100.0, "there was no more time for it")


def test_a_server_that_misses_the_limit_has_no_knee(bench: Bench) -> None:
    (result,) = bench.measure(bench.server(capacity=1000.0, latency=0.05))
    found = numbers(result).knee
    assert isinstance(found, NotMeasured)
    assert found.reason == "it is not proven that it holds the limit at 200/s"


def test_without_a_limit_no_knee_is_searched(bench: Bench) -> None:
    one = bench.server()
    (result,) = bench.measure(one, p99_limit=None)
    assert numbers(result).knee is None
    assert {command["rate"] for command in asked(one)} == {200.0}


@pytest.mark.parametrize(
    ("least", "most", "rates"),
    [
        (100.0, 250.0, [200.0, 158.0, 126.0]),
        (0.9, 1.3, [1.26, 1.0]),
        (5.0, 5.01, [5.01]),
        (5.0, 5.0, []),
        (9.0, 3.0, []),
    ],
)
def test_rates_are_of_a_fixed_series(least: float, most: float, rates: list[float]) -> None:
    assert rungs(least, most) == rates


def test_the_search_takes_a_part_of_the_time_that_is_left(bench: Bench) -> None:
    bench.budget = 60.0
    before = bench.clock.now
    bench.measure(bench.server(capacity=1000.0, latency=0.001), bench.server("onnx-int8", capacity=900.0))
    assert bench.clock.now - before <= 60.0 * 1.1
