"""When no candidate wins: the refusal, its remedy, and the decision that is kept of it."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from orchestrator.artifacts.decision import Decision
from orchestrator.artifacts.fates import StepFate
from orchestrator.artifacts.winner import Winner
from orchestrator.cli.decision_text import decision_text, refusal_text
from orchestrator.diagnostics import Diagnostic
from orchestrator.select.step import select
from orchestrator.steps.context import Ending, StepError
from tests.optimize.select_case import (
    FP32,
    INT8,
    candidate,
    context,
    not_served,
    not_timed,
    runtime_candidate,
    server_candidate,
    two,
    wire_result,
)


def test_the_run_fails_when_nothing_is_faster_than_the_baseline(tmp_path: Path) -> None:
    made = context(
        tmp_path,
        [candidate(FP32)],
        [runtime_candidate(FP32, ratio=1.1, spread=0.05)],
        [not_served(FP32, "not a finalist", "")],
    )
    with pytest.raises(StepError, match="no candidate is left") as caught:
        select(made)
    assert caught.value.code == "E502"
    assert "no candidate that passed verification is faster" in caught.value.cause


def test_too_few_rounds_leave_it_undecided_and_more_time_is_the_remedy(tmp_path: Path) -> None:
    runtime = [runtime_candidate(FP32, ratio=0.3, rounds=4)]
    made = context(tmp_path, [candidate(FP32)], runtime, [not_served(FP32, "not a finalist", "")])
    with pytest.raises(StepError, match="no candidate is left") as caught:
        select(made)
    assert caught.value.code == "E502"
    why = "onnx-fp32: undecided: only measured for 4 rounds; comparing it with the baseline takes 6"
    assert caught.value.notes == (why,)
    assert "raise `optimize.time_budget`" in caught.value.remedy
    assert "the time budget ended before" in caught.value.cause
    longer = [runtime_candidate(FP32, ratio=0.3, rounds=6)]
    select(context(tmp_path / "longer", [candidate(FP32)], longer, [server_candidate(FP32)]))


def test_when_none_meets_the_slo_the_run_fails_and_shows_how_far_each_is(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        two(tmp_path, server_candidate(FP32, p99=0.0312, over=100), server_candidate(INT8, p99=0.024, over=60))
    error = caught.value
    assert (error.code, error.at) == ("E501", ("slo",))
    assert error.notes == (
        "onnx-fp32: slo missed: p99 31.2 ms at 200/s, 11.2 ms over the limit of 20 ms",
        "onnx-int8: slo missed: p99 24 ms at 200/s, 4 ms over the limit of 20 ms",
    )
    assert "enforce: false" in error.remedy


def test_a_decision_in_which_nothing_won_is_written_with_every_measurement(tmp_path: Path) -> None:
    rows = [server_candidate(FP32, p99=0.0312, over=100), server_candidate(INT8, p99=0.024, over=60)]
    made = context(
        tmp_path,
        [candidate(FP32), candidate(INT8), candidate("onnx-bf16", refused="no kernels")],
        [runtime_candidate(FP32), runtime_candidate(INT8)],
        rows,
    )
    with pytest.raises(StepError) as caught:
        select(made)
    assert caught.value.keeps_output
    decision = Decision.read(made.output)
    assert (decision.winner, decision.compared, decision.slo.met) == (None, None, False)
    assert decision.refusal == caught.value.diagnostic
    assert {c.candidate: c.fate for c in decision.candidates} == {
        FP32: "slo missed",
        INT8: "slo missed",
        "onnx-bf16": "refused",
    }
    assert all(c.server is not None and c.runtime is not None for c in decision.candidates[:2])
    assert not (made.output / Winner.FILE).exists()
    svg = ET.fromstring((made.output / "chart.svg").read_text(encoding="utf-8"))
    assert "nothing won" in (svg.findtext("{http://www.w3.org/2000/svg}title") or "")
    text = re.sub(r"\s+", " ", decision_text(decision))
    assert "onnx-int8: slo missed: p99 24 ms at 200/s, 4 ms over the limit of 20 ms." in text
    assert "onnx-bf16: refused: no kernels." in text
    said = re.sub(r"\s+", " ", refusal_text(caught.value.diagnostic))
    assert said.startswith("nothing won [E501]: no candidate meets the SLO: the 99th percentile must be")
    assert "help: if the machine was busy, measure again" in said


def test_a_decision_without_any_measurement_is_written_too(tmp_path: Path) -> None:
    failed = Diagnostic("E422", "the exporter fails", cause="aten::foo has no translation", remedy="do without foo")
    steps = {"convert.onnx": StepFate.of("convert", "failed", Ending.REFUSED, failed)}
    made = context(tmp_path, [candidate(FP32), candidate(INT8)], [], None, fates=steps)
    del made.inputs["runtime"]  # type: ignore[attr-defined]
    with pytest.raises(StepError) as caught:
        select(made)
    assert caught.value.code == "E502"
    decision = Decision.read(made.output)
    assert (decision.winner, decision.baseline, decision.measured_on, decision.rate) == (None, None, None, None)
    assert {c.fate for c in decision.candidates} == {"conversion failed"}
    text = re.sub(r"\s+", " ", decision_text(decision))
    assert "onnx-int8: conversion failed [E422]: convert.onnx: the exporter fails" in text
    assert "help: do without foo." in text


def test_memory_that_no_candidate_fits_into_is_the_line_and_the_remedy(tmp_path: Path) -> None:
    small = Diagnostic(
        "E403", "it needs at least 51 MiB to load", cause="`hardware.memory` is 45Mi", remedy="raise `hardware.memory`"
    )
    rows = [not_timed(name, "out of memory", error=small) for name in (FP32, INT8)]
    made = context(tmp_path, [candidate(FP32), candidate(INT8)], rows, None)
    with pytest.raises(StepError) as caught:
        select(made)
    error = caught.value
    assert (error.code, error.at, error.remedy) == ("E502", ("hardware", "memory"), "raise `hardware.memory`")
    assert error.notes[0] == "onnx-fp32: out of memory: it needs at least 51 MiB to load: `hardware.memory` is 45Mi"


def test_a_service_level_that_nothing_can_prove_is_refused_as_that_without_measurements(tmp_path: Path) -> None:
    made = context(tmp_path, [candidate(FP32)], [], None)
    del made.inputs["runtime"]  # type: ignore[attr-defined]
    with pytest.raises(StepError) as caught:
        select(made)
    assert caught.value.code == "E501"
    assert "run `mlo doctor`" in caught.value.remedy
    why = "onnx-fp32: not measured: no server can be measured on this machine, and only a server can prove `slo`"
    assert caught.value.notes == (why,)
    assert not (made.output / "chart.svg").exists()


def test_a_service_level_missed_because_of_the_wire_names_the_wire(tmp_path: Path) -> None:
    json_alone = (wire_result("json", call=0.231, model=0.007),)
    with pytest.raises(StepError) as caught:
        two(
            tmp_path / "a",
            server_candidate(FP32, p99=0.238, over=100, wires=json_alone),
            server_candidate(INT8, p99=0.3, over=60, wires=(wire_result("json", call=0.29, model=0.2),)),
        )
    error = caught.value
    why = "a call takes 231 ms with JSON, of which the model takes 7 ms: the rest is the server's own work, transfer and coding of 3.1 MB"
    assert why in error.notes[0]
    assert "own work, transfer and coding" not in error.notes[1], "the other one's model is slow itself"
    assert error.remedy.startswith("if clients can send raw tensors, set `serving.wire: binary`; ")
    measured = (*json_alone, wire_result("grpc", call=0.02, model=0.007))
    with pytest.raises(StepError) as caught:
        two(
            tmp_path / "measured",
            *(server_candidate(name, p99=0.238, over=100, wires=measured) for name in (FP32, INT8)),
        )
    assert "a call takes 20 ms with gRPC, of which the model takes 7 ms" in caught.value.notes[0]
    assert "serving.wire" not in caught.value.notes[0], "the remedy says so"
    assert caught.value.remedy.startswith("set `serving.wire: grpc`, which clients must use then; ")
    both = (wire_result("binary", call=0.2, model=0.007), *json_alone)
    slow = [server_candidate(name, p99=0.238, over=100, wires=both) for name in (FP32, INT8)]
    with pytest.raises(StepError) as caught:
        two(tmp_path / "b", *slow)
    assert caught.value.remedy.startswith("send less in a request, such as uint8 instead of float32; ")


def test_without_a_server_benchmark_nothing_is_picked(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        select(context(tmp_path, [candidate(FP32)], [runtime_candidate(FP32)], None))
    assert caught.value.notes == ("onnx-fp32: not measured: the server benchmark was not run",)
