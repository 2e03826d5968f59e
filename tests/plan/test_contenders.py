"""Servers are only started where a candidate can still win after the runtime benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.artifacts.runtime_report import CandidateRuntimeResult
from orchestrator.diagnostics import Diagnostic
from orchestrator.plan.contenders import nobody_to_measure
from orchestrator.plan.step import Step
from tests.optimize.select_case import not_timed, runtime_candidate, runtime_report

SERVER = Step(
    "benchmark.server", "benchmark", "", 1, {"objective": "latency"}, {}, contenders="finalists"
)  # fmt: skip
SLOWER = runtime_candidate("onnx-int8", ratio=1.5)
TOO_LARGE = not_timed("onnx-fp16", "out of memory", error=Diagnostic("E403", "out of memory at load"))


@pytest.mark.parametrize(
    ("rows", "left"),
    [
        ([SLOWER, TOO_LARGE], False),
        ([runtime_candidate("onnx-fp32", ratio=0.5, rounds=3)], False),
        ([SLOWER, runtime_candidate("onnx-fp32")], True),
        ([SLOWER, runtime_candidate("onnx-fp32", ratio=1.0, given=True)], True),
    ],
    ids=["slower or too large", "undecided", "one is faster", "the original model alone"],
)
def test_servers_are_started_for_those_that_can_win(
    tmp_path: Path, rows: list[CandidateRuntimeResult], left: bool
) -> None:
    runtime_report(rows).write(tmp_path)
    reason = nobody_to_measure(SERVER, {"runtime": tmp_path})
    assert reason == ("" if left else "no candidate can win after the runtime benchmark, so no server is measured")
