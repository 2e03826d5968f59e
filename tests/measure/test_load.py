"""The load generator against a real server whose slowness is known."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from orchestrator.machine.cpus import cpu_share
from orchestrator.measure.failure import MeasureError
from orchestrator.measure.generator_limit import generator_limit, may_limit
from orchestrator.measure.load_connections import http_request
from orchestrator.measure.load_loops import arrivals, steady
from orchestrator.measure.session import MeasuredProcess
from orchestrator.measure.statistics import percentile, quantile_test

pytestmark = pytest.mark.processes

Ask = Callable[[dict[str, Any]], dict[str, Any]]
Start = Callable[..., Ask]


@pytest.fixture
def ports() -> list[int]:
    """Of the servers of `load_on`."""
    return []


@pytest.fixture
def load_on(tmp_path: Path, ports: list[int]) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(
            *,
            answer_s: float = 0.0,
            spread: float = 0.0,
            stall_at: int = 0,
            stall_s: float = 0.0,
            fail_from: int = 0,
            status: int = 503,
            timeout: float = 5.0,
            limit: int = 256,
            body: bytes = b"{}",
        ) -> Ask:
            command = [sys.executable, str(Path(__file__).with_name("slow_server.py"))]
            command += [str(value) for value in (answer_s, spread, stall_at, stall_s, fail_from, status)]
            server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(server.terminate)
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            ports.append(int(port))
            process = stack.enter_context(
                MeasuredProcess("orchestrator.measure.load", cpu_share(2), memory=None, folder=tmp_path / "load")
            )
            request = tmp_path / "request"
            request.write_bytes(http_request("/infer", {"Content-Type": "application/json"}, body))
            process.ask({"do": "open", "wire": "json", "requests": [str(request)], "limit": limit}, 60)
            return lambda asked: process.ask({"wire": "json", "port": int(port), "timeout": timeout, **asked}, 60)

        yield start


@pytest.mark.alone
@pytest.mark.parametrize("stall_s", [0.0, 1.0])
def test_percentiles_are_right_within_5_percent(load_on: Start, ports: list[int], stall_s: float) -> None:
    """The truth is the server's own: when each answer was ready, after the time at which its request was due."""
    ask = load_on(answer_s=0.1, spread=0.4, stall_at=300, stall_s=stall_s)
    reply = ask({"do": "schedule", "rate": 100.0, "requests": 1000, "seed": 1})
    with urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/seen") as answer:
        came, ready = np.array(json.load(answer)).T
    due = np.array(arrivals(100.0, 1000, 1))
    truth = ready - due - (came - due).min()  # the one that came soonest after it was due was sent without delay
    for quantile in (0.5, 0.9, 0.95, 0.99):
        found, known = (
            percentile(reply["latencies"], quantile),
            float(np.quantile(truth, quantile, method="inverted_cdf")),
        )
        assert found == pytest.approx(known, rel=0.05), quantile
    assert (percentile(reply["latencies"], 0.95) > 0.4) is (stall_s > 0), "about a tenth of them had to wait"


def test_a_stall_is_charged_to_every_request_that_had_to_wait(load_on: Start) -> None:
    ask = load_on(stall_at=100, stall_s=0.2)
    reply = ask({"do": "schedule", "rate": 250.0, "requests": 500, "seed": 1})
    latencies = reply["latencies"]
    assert len(latencies) == 500
    assert reply["errors"] == {}
    # About fifty requests were due while nothing answered; a generator that waits for the answer would see one.
    assert sum(latency > 0.02 for latency in latencies) > 25
    assert percentile(latencies, 0.99) > 0.15
    assert quantile_test(latencies, 0.02).status == "missed"


@pytest.mark.alone
def test_latency_counts_from_the_schedule_and_the_generator_is_in_time(load_on: Start) -> None:
    reply = load_on(answer_s=0.03)({"do": "schedule", "rate": 100.0, "requests": 100, "seed": 2})
    assert 0.03 <= percentile(reply["latencies"], 0.5) < 0.1
    assert percentile(reply["delays"], 0.5) < 0.01
    assert min(reply["delays"]) >= 0


def saturation(connections: int, seconds: float = 1.0, answers: int = 0, at_most: float = 30.0) -> dict[str, Any]:
    return {"do": "saturate", "connections": connections, "seconds": seconds, "answers": answers, "at_most": at_most}


def test_saturation_counts_answers_and_their_time(load_on: Start) -> None:
    reply = load_on(answer_s=0.05)(saturation(4))
    assert reply["answered"] / reply["seconds"] <= 80.5  # 4 connections, 20 answers a second each at most
    assert reply["answered"] / reply["seconds"] == pytest.approx(4 / fmean(reply["latencies"]), rel=0.2)  # Little's law
    assert len(reply["latencies"]) >= reply["answered"]
    assert reply["generator_cpu_seconds"] > 0


def test_a_closed_loop_lasts_until_enough_answers_have_come(load_on: Start) -> None:
    reply = load_on(answer_s=0.3)(saturation(2, seconds=0.1, answers=4))
    assert reply["answered"] >= 4
    assert reply["answered"] / reply["seconds"] == pytest.approx(2 / fmean(reply["latencies"]), rel=0.2)


def test_a_closed_loop_ends_in_time_though_too_few_have_come(load_on: Start) -> None:
    reply = load_on(answer_s=1.0)(saturation(2, seconds=0.1, answers=100, at_most=0.5))
    assert (reply["answered"], len(reply["latencies"])) == (0, 2)


def test_a_server_that_ends_each_connection_is_connected_to_again(load_on: Start) -> None:
    ask = load_on(fail_from=0, status=200, body=b"close")
    reply = ask(saturation(4, seconds=0.3, answers=21))
    assert (reply["errors"], reply["refused"]) == ({}, {})
    assert reply["answered"] > 20
    reply = ask({"do": "schedule", "rate": 200.0, "requests": 60, "seed": 1})
    assert (len(reply["latencies"]), reply["errors"]) == (60, {})


def test_large_requests_are_sent_whole(load_on: Start) -> None:
    ask = load_on(body=b"x" * 5_000_000)
    reply = ask({"do": "schedule", "rate": 20.0, "requests": 10, "seed": 1})
    assert (len(reply["latencies"]), reply["errors"], reply["refused"]) == (10, {}, {})
    assert ask(saturation(2, seconds=0.2))["errors"] == {}


def test_a_request_waits_for_a_connection_and_that_is_latency(load_on: Start) -> None:
    reply = load_on(answer_s=0.05, limit=1)({"do": "schedule", "rate": 1000.0, "requests": 10, "seed": 1})
    assert len(reply["latencies"]) == 10
    assert 0.45 < max(reply["latencies"]) < 4  # nine answers before it; without them it would be one


@pytest.mark.parametrize(
    ("ended", "answered", "seconds"),
    [
        ([], 0, 0.0),
        ([1.0], 0, 0.0),
        ([1.0, 1.0, 1.0], 0, 0.0),
        ([1.0, 2.0, 3.0], 2, 2.0),
        ([1.3, 1.3, 1.3, 2.6, 2.6, 2.6], 3, 1.3),  # the second batch has only started to answer
        ([1.3, 1.3, 1.3, 2.6, 2.6, 2.6, 3.9], 6, 2.6),
        ([0.5, 0.501, 0.502, 1.0, 1.001], 3, 0.5),
    ],
)
def test_a_rate_counts_whole_batches(ended: list[float], answered: int, seconds: float) -> None:
    found, lasted = steady(ended)
    assert found == answered
    assert lasted == pytest.approx(seconds)


@pytest.mark.parametrize(("status", "told"), [(503, "refused"), (429, "refused"), (500, "errors"), (404, "errors")])
def test_refusals_are_distinguished_from_errors_and_neither_has_a_latency(
    load_on: Start, status: int, told: str
) -> None:
    reply = load_on(fail_from=11, status=status)({"do": "schedule", "rate": 500.0, "requests": 30, "seed": 3})
    assert {name: reply[name] for name in ("refused", "errors") if reply[name]} == {told: {f"status {status}": 20}}
    assert len(reply["latencies"]) == 10


def test_no_answer_in_time_is_a_busy_server(load_on: Start) -> None:
    reply = load_on(answer_s=1.0, timeout=0.2)({"do": "schedule", "rate": 500.0, "requests": 5, "seed": 3})
    assert reply["refused"] == {"no answer within 0.2 s": 5}
    assert reply["errors"] == {}


def test_a_server_that_is_gone_is_an_error_for_each_request(load_on: Start) -> None:
    ask = load_on()
    with pytest.raises(MeasureError, match="no request to send"):
        ask({"do": "open", "wire": "json", "requests": [], "limit": 8})
    reply = ask({"do": "schedule", "port": 9, "rate": 500.0, "requests": 5, "seed": 3})
    assert reply["errors"] == {"no connection: Connection refused": 5}
    assert reply["answered"] == 0
    reply = ask({"port": 9, **saturation(2, seconds=0.1, at_most=0.2)})
    assert reply["answered"] == 0
    assert reply["errors"].keys() == {"no connection: Connection refused"}


def test_the_generators_own_limit_is_measured_with_a_server_that_answers_at_once(tmp_path: Path) -> None:
    request = tmp_path / "request"
    request.write_bytes(http_request("/infer", {}, b"{}" * 50_000))
    with MeasuredProcess("orchestrator.measure.load", cpu_share(2), memory=None, folder=tmp_path / "load") as process:
        process.ask({"do": "open", "wire": "json", "requests": [str(request)], "limit": 8}, 60)
        found = generator_limit(
            process, cpu_share(2), tmp_path / "canned", wire="json", connections=4, answer_bytes=1000
        )
    assert found is not None
    assert found.requests_per_second > 100
    assert 0 < found.cpu_seconds_per_request < 0.01
    assert may_limit(found, found.requests_per_second / 1.4)
    assert not may_limit(found, found.requests_per_second / 1.6)
    assert may_limit(None, 1.0)


def test_arrivals_are_independent_repeatable_and_have_the_requested_rate() -> None:
    schedule = arrivals(200.0, 5000, seed=4)
    assert schedule == arrivals(200.0, 5000, seed=4)
    assert schedule != arrivals(200.0, 5000, seed=5)
    assert 5000 / schedule[-1] == pytest.approx(200, rel=0.05)
    gaps = [after - before for before, after in itertools.pairwise(schedule)]
    mean = sum(gaps) / len(gaps)
    assert sum(gap > mean for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.03)  # 1/e: exponential
