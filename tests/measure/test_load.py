"""The load generator against a real server whose slowness is known."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from orchestrator.machine.cpus import cpu_share
from orchestrator.measure.failure import MeasureError
from orchestrator.measure.load import arrivals
from orchestrator.measure.session import MeasuredProcess
from orchestrator.measure.statistics import percentile, quantile_test

pytestmark = [pytest.mark.alone, pytest.mark.processes]  # it measures time

Ask = Callable[[dict[str, Any]], dict[str, Any]]
Start = Callable[..., Ask]


@pytest.fixture
def load_on(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(
            *,
            answer_s: float = 0.0,
            stall_at: int = 0,
            stall_s: float = 0.0,
            fail_from: int = 0,
            status: int = 503,
            timeout: float = 5.0,
        ) -> Ask:
            command = [sys.executable, str(Path(__file__).with_name("slow_server.py"))]
            command += [str(value) for value in (answer_s, stall_at, stall_s, fail_from, status)]
            server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(server.terminate)
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            process = stack.enter_context(
                MeasuredProcess("orchestrator.measure.load", cpu_share(2), memory=None, folder=tmp_path / "load")
            )
            body = tmp_path / "body"
            body.write_bytes(b"{}")
            url = f"http://127.0.0.1:{port}/infer"
            opened = {"do": "open", "url": url, "headers": {}, "bodies": [str(body)], "limit": 256, "timeout": timeout}
            process.ask(opened, 60)
            return lambda asked: process.ask(asked, 60)

        yield start


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


def test_latency_counts_from_the_schedule_and_the_generator_is_in_time(load_on: Start) -> None:
    reply = load_on(answer_s=0.03)({"do": "schedule", "rate": 100.0, "requests": 100, "seed": 2})
    assert 0.03 <= percentile(reply["latencies"], 0.5) < 0.1
    assert percentile(reply["delays"], 0.5) < 0.01
    assert min(reply["delays"]) >= 0


def test_saturation_counts_what_is_answered_in_time(load_on: Start) -> None:
    reply = load_on(answer_s=0.05)({"do": "saturate", "connections": 4, "seconds": 1.0})
    assert 30 < reply["answered"] <= 80  # 4 connections, 20 answers a second each at most
    assert len(reply["latencies"]) >= reply["answered"]


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
    opened = {"do": "open", "url": "http://127.0.0.1:9/infer", "headers": {}, "bodies": [], "limit": 8, "timeout": 5.0}
    with pytest.raises(MeasureError, match="no request to send"):
        ask(opened)
    opened["bodies"] = [str(Path(__file__))]
    ask(opened)
    reply = ask({"do": "schedule", "rate": 500.0, "requests": 5, "seed": 3})
    assert sum(reply["errors"].values()) == 5
    assert reply["answered"] == 0


def test_arrivals_are_independent_repeatable_and_have_the_requested_rate() -> None:
    schedule = arrivals(200.0, 5000, seed=4)
    assert schedule == arrivals(200.0, 5000, seed=4)
    assert schedule != arrivals(200.0, 5000, seed=5)
    assert 5000 / schedule[-1] == pytest.approx(200, rel=0.05)
    gaps = [after - before for before, after in itertools.pairwise(schedule)]
    mean = sum(gaps) / len(gaps)
    assert sum(gap > mean for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.03)  # 1/e: exponential
