"""What a replica is given, and how many there are, follows from what was measured of the winner."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts.sizing import Sizing
from orchestrator.select.step import select
from orchestrator.steps.context import StepContext, StepError
from orchestrator.steps.parameters import SelectParameters
from tests.optimize.select_case import candidate, context, not_served, runtime_candidate, server_candidate

NAME = "onnx-fp32"
MIB = 2**20


def case(folder: Path, **measured: Any) -> StepContext:
    return context(folder, [candidate(NAME)], [runtime_candidate(NAME)], [server_candidate(NAME, **measured)])


def asking(made: StepContext, *, slo: dict[str, Any] | None = None, **changes: Any) -> StepContext:
    """The same with other parameters."""
    parameters = SelectParameters.from_json(made.params)
    parameters = replace(parameters, slo=replace(parameters.slo, **(slo or {})), **changes)
    return replace(made, params=parameters.as_json())


def sizing(made: StepContext) -> Sizing:
    select(made)
    return Sizing.read(made.output)


@pytest.mark.parametrize(
    ("peak", "asked"), [(40, 64), (57, 96), (76, 96), (78, 128), (300, 384), (1300, 2048), (1900, 2048)]
)
def test_memory_is_the_measured_peak_with_head_room_in_coarse_steps(tmp_path: Path, peak: int, asked: int) -> None:
    assert sizing(case(tmp_path, peak=peak * MIB)).memory_request == asked * MIB


def test_a_request_is_never_above_the_limit(tmp_path: Path) -> None:
    made = asking(case(tmp_path, peak=500 * MIB, cpu=0.01), memory=512 * MIB, cpus=1.5)
    assert (sizing(made).memory_request, sizing(made).cpu_request) == (512 * MIB, 1.5)


@pytest.mark.parametrize(("cpu", "asked"), [(0.0001, 0.25), (0.0008, 1.0), (0.0012, 1.5), (0.0017, 2.0)])
def test_cpus_are_what_the_server_used_at_saturation(tmp_path: Path, cpu: float, asked: float) -> None:
    assert sizing(case(tmp_path, cpu=cpu)).cpu_request == asked  # at 1,000 requests per second


@pytest.mark.parametrize(("longest", "seconds"), [(0.05, 5), (1.6, 5), (2.0, 10), (4.0, 20)])
def test_a_stopping_server_may_wait_three_times_the_longest_request(
    tmp_path: Path, longest: float, seconds: int
) -> None:
    assert sizing(case(tmp_path, longest=longest)).longest_request == seconds


@pytest.mark.parametrize(("knee", "percent"), [(50.0, 10), (398.0, 30), (630.0, 50), (891.0, 80), (2000.0, 90)])
def test_replicas_are_added_at_the_knee(tmp_path: Path, knee: float, percent: int) -> None:
    found = sizing(case(tmp_path, knee=knee, cpu=0.0009))
    assert found.cpu_request == 1.0  # of 0.9 at saturation
    assert found.target_cpu_percent == percent


def test_without_a_limit_a_replica_is_given_four_fifths_of_its_throughput(tmp_path: Path) -> None:
    made = asking(
        case(tmp_path, limit=None, wanted=None, rows_per_second=1000.0),
        slo={"p99_latency": None, "throughput": None, "total_throughput": 3000.0},
    )
    found = sizing(made)
    assert found.proven_rate == 794.0  # of the series, below 800
    assert (found.replicas, found.p99_limit) == (4, None)


@pytest.mark.parametrize(("total", "replicas"), [(None, None), (100.0, 1), (400.0, 1), (401.0, 2), (2000.0, 5)])
def test_replicas_follow_from_the_rate_that_one_is_proven_to_hold(
    tmp_path: Path, total: float | None, replicas: int | None
) -> None:
    found = sizing(asking(case(tmp_path, knee=398.0), slo={"total_throughput": total}))
    assert found.proven_rate == 398.0
    assert found.replicas == (None if total is None else max(1, -(-int(total) // 398)))


def test_the_wanted_throughput_is_a_proven_rate_as_it_is_written(tmp_path: Path) -> None:
    assert sizing(case(tmp_path, knee=200.0)).proven_rate == 200.0  # `slo.throughput`
    assert sizing(case(tmp_path / "other", knee=210.0)).proven_rate == 200.0  # of the series


def test_noise_changes_nothing(tmp_path: Path) -> None:
    calm = case(tmp_path / "a", peak=100 * MIB, cpu=0.0008, longest=0.05, p99=0.008, ready=1.0)
    noisy = case(tmp_path / "b", peak=101 * MIB, cpu=0.00082, longest=0.09, p99=0.009, ready=1.3)
    assert sizing(calm) == sizing(noisy)


def test_what_was_not_measured_is_the_limit(tmp_path: Path) -> None:
    name = "saved-model-fp32"
    made = context(
        tmp_path,
        [candidate(name)],
        [runtime_candidate(name)],
        [not_served(name, "no server", "no program")],
        enforce=False,
    )
    found = sizing(asking(made, slo={"total_throughput": 500.0}))
    assert found.memory_request == 2**31
    assert (found.cpu_request, found.longest_request, found.proven_rate, found.replicas) == (2.0, None, None, None)
    decision = json.loads((made.output / "decision.json").read_bytes())
    assert "no rate of one replica is proven, so `slo.total_throughput` sets no number of replicas" in decision["notes"]


def test_a_total_throughput_alone_needs_a_measured_server(tmp_path: Path) -> None:
    name = "saved-model-fp32"
    made = context(
        tmp_path, [candidate(name)], [runtime_candidate(name)], [not_served(name, "no server", "no program")]
    )
    only_total = asking(made, slo={"p99_latency": None, "throughput": None, "total_throughput": 500.0})
    with pytest.raises(StepError) as caught:
        select(only_total)
    assert caught.value.diagnostic.code == "E501"


def test_the_decision_says_what_a_million_requests_cost(tmp_path: Path) -> None:
    made = asking(case(tmp_path, knee=500.0, limit=0.02), price_per_hour=0.36)
    select(made)
    decision = json.loads((made.output / "decision.json").read_bytes())
    (won,) = decision["candidates"]
    assert won["proven_rate"] == 398.0
    assert won["cost_per_million"] == pytest.approx(0.36 / 3600 / 398.0 * 1e6)


def test_without_a_price_nothing_is_said_of_cost(tmp_path: Path) -> None:
    made = case(tmp_path)
    select(made)
    (won,) = json.loads((made.output / "decision.json").read_bytes())["candidates"]
    assert won["cost_per_million"] is None
