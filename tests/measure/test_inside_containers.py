"""Servers measured in containers of their images, by a real Docker Engine."""

from __future__ import annotations

from pathlib import Path
from platform import machine
from typing import Any

import pytest

from orchestrator.artifacts.server_report import ServerReport
from orchestrator.containers.engine import EngineError, connected, engine_version
from orchestrator.measure import server_benchmark
from orchestrator.measure.container import require_engine
from orchestrator.steps.context import StepContext, StepError
from orchestrator.steps.failures import is_transient
from orchestrator.steps.parameters import BuildParameters, ImageParameters
from tests.fake_engine import fake_engine
from tests.measure.real_case import candidate, step_context, write_import, write_linear_model
from tests.optimize.select_case import runtime_candidate, runtime_report

pytestmark = pytest.mark.frameworks

NAME = "onnx-fp32"
MIB = 2**20
BUILD = BuildParameters(
    name="sizing-measured",
    base=None,
    image=ImageParameters(platform="linux/arm64" if machine() in {"aarch64", "arm64"} else "linux/amd64"),
    network=None,
    pip_index=None,
    wheelhouse=None,
    ca_bundle=None,
    python="3.11",
)


@pytest.fixture
def _engine() -> None:
    try:
        engine_version()
    except EngineError as error:
        pytest.skip(f"no Docker Engine ({error}): servers are not measured in containers")


def _context(folder: Path, **params: Any) -> StepContext:
    inputs = {"import": write_import(folder / "import"), f"variant:{NAME}": write_linear_model(folder / "fp32")}
    inputs["runtime"] = folder / "runtime"
    inputs["runtime"].mkdir()
    runtime_report([runtime_candidate(NAME)]).write(inputs["runtime"])
    inside = {
        "inside": "container",
        "build": BUILD.as_json(),
        "time_budget": 30.0,
        "batching": {"max_size": 8, "max_delay": 0.0},
    }
    return step_context(folder / "step", inputs, [candidate(NAME)], **inside, **params)


def _left() -> list[str]:
    with connected() as client:
        containers = client.api.containers(all=True)
        return [each["Image"] for each in containers if "sizing-measured" in each["Image"]]


@pytest.mark.e2e
@pytest.mark.containers
@pytest.mark.usefixtures("_engine")
@pytest.mark.parametrize("tls", [False, True])
def test_a_server_is_measured_in_a_container_with_its_limits(tmp_path: Path, tls: bool) -> None:
    context = _context(tmp_path, tls=tls)
    server_benchmark.benchmark(context)
    (row,) = ServerReport.read(context.output).candidates
    assert row.fate == "measured", row.reason
    assert row.measured is not None
    assert row.measured.inside == "container"
    sizes = row.measured.image
    assert sizes is not None
    assert sizes.total > sizes.base + sizes.model > sizes.model > 0
    assert 20 * MIB < row.measured.peak_rss < 512 * MIB  # of the processes in it
    assert row.measured.saturated is not None
    assert row.measured.saturated.cpu_seconds_per_request
    assert _left() == []


@pytest.mark.e2e
@pytest.mark.containers
@pytest.mark.usefixtures("_engine")
def test_too_little_memory_is_named_with_the_containers_limit(tmp_path: Path) -> None:
    context = _context(tmp_path, memory=24 * MIB)
    server_benchmark.benchmark(context)
    (row,) = ServerReport.read(context.output).candidates
    assert row.fate == "out of memory", row.reason
    assert "its container is limited to 24 MiB" in row.reason
    assert _left() == []


def test_without_an_engine_the_step_says_what_to_do_and_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(StepError) as caught:
        require_engine()
    assert caught.value.code == "E491"
    assert caught.value.remedy == "start it, or set `benchmark: {inside: process}`"
    with fake_engine() as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.host)
        require_engine()
    assert is_transient(caught.value), "a refusal that is remembered would outlast the reason"
