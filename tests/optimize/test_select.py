"""Who wins, who loses and why, as the decision tells it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import click
import pytest

from orchestrator.artifacts.decision import Decision
from orchestrator.artifacts.fates import StepFate
from orchestrator.artifacts.measurement import NotMeasured
from orchestrator.artifacts.server_report import CandidateServerResult
from orchestrator.artifacts.verdict import Accuracy, GateResult
from orchestrator.artifacts.winner import Winner
from orchestrator.cli.decision_text import candidate_text, decision_text, refusal_text
from orchestrator.diagnostics import Diagnostic
from orchestrator.select.chart import chart
from orchestrator.select.service_level import distance_text, service_level
from orchestrator.select.step import select, startup_bound
from orchestrator.steps.context import Ending, StepContext, StepError
from orchestrator.store.digest import digest_tree
from tests.artifacts.made import facts, imported, verdict
from tests.optimize.select_case import (
    candidate,
    context,
    not_served,
    not_timed,
    runtime_candidate,
    server_candidate,
    wire_result,
)

INT8, FP32, SCRIPT = "onnx-int8", "onnx-fp32", "torchscript-fp32"
NO_BINARY = "tensorflow-serving cannot be started here: no binary"


def decide(made: StepContext) -> dict[str, Any]:
    select(made)
    decision: dict[str, Any] = json.loads((made.output / "decision.json").read_bytes())
    return decision


def fates(decision: dict[str, Any]) -> dict[str, str]:
    return {candidate["candidate"]: candidate["fate"] for candidate in decision["candidates"]}


def reasons(decision: dict[str, Any]) -> dict[str, str]:
    return {candidate["candidate"]: candidate["reason"] for candidate in decision["candidates"]}


def two(folder: Path, first: CandidateServerResult, second: CandidateServerResult, **options: Any) -> dict[str, Any]:
    """The decision between two measured servers."""
    names = [first.candidate, second.candidate]
    return decide(
        context(
            folder, [candidate(n) for n in names], [runtime_candidate(n) for n in names], [first, second], **options
        )
    )


def test_the_lowest_p99_wins_and_the_loser_says_by_how_much(tmp_path: Path) -> None:
    decision = two(tmp_path, server_candidate(FP32, p99=0.012), server_candidate(INT8, p99=0.008))
    assert decision["winner"] == {
        "candidate": INT8,
        "variant": INT8,
        "backend": "onnxruntime",
        "format": "onnx",
        "precision": "int8",
    }
    assert fates(decision) == {FP32: "lost", INT8: "won"}
    assert reasons(decision)[INT8] == "best p99 over the wire: p99 8 ms at 200/s"
    assert reasons(decision)[FP32] == "p99 over the wire: p99 12 ms at 200/s, 1.50 times worse than onnx-int8"
    assert decision["slo"]["met"] is True


@pytest.mark.parametrize("other", [f"{FP32}@openvino", f"{FP32}+instances=2+threads=1"])
def test_candidates_of_one_variant_have_rows_and_fates_of_their_own(tmp_path: Path, other: str) -> None:
    names = [FP32, other, f"{other}+threads=3" if "@" in other else f"{FP32}+instances=4"]
    failed = StepFate(kind="verify", status="failed", ending=Ending.REFUSED, error=Diagnostic("E420", "does not load"))
    runtime = [runtime_candidate(FP32), runtime_candidate(other, ratio=0.3)]
    server = [server_candidate(FP32, p99=0.012), server_candidate(other, p99=0.008)]
    made = context(tmp_path, [candidate(n) for n in names], runtime, server, fates={f"verify.{names[2]}": failed})
    decision = decide(made)
    winner = Winner.read(made.output)
    asked = candidate(other)
    assert {each["variant"] for each in decision["candidates"]} == {FP32}
    assert fates(decision) == {FP32: "lost", other: "won", names[2]: "verification failed"}
    assert reasons(decision)[FP32].endswith(f"1.50 times worse than {other}")
    measured = {
        each["candidate"]: each["server"] and each["server"]["open_loop"]["p99"] for each in decision["candidates"]
    }
    assert measured == {FP32: 0.012, other: 0.008, names[2]: None}
    for found in (decision["winner"]["candidate"], winner.candidate):
        assert found == other
    assert (winner.variant, winner.backend, winner.options) == (FP32, asked["backend"], asked["options"])
    assert winner.model_digest == digest_tree(tmp_path / "variants" / FP32).digest


@pytest.mark.parametrize(("objective", "better", "worse"), [
    ("latency", {"p99": 0.005}, {"p99": 0.009, "rows_per_second": 9000.0, "cpu": 0.0001}),
    ("throughput", {"rows_per_second": 3000.0}, {"p99": 0.002, "cpu": 0.0001}),
    ("cost", {"cpu": 0.0005}, {"p99": 0.002, "rows_per_second": 9000.0}),
])  # fmt: skip
def test_each_objective_looks_at_its_own_number(
    tmp_path: Path, objective: str, better: dict[str, float], worse: dict[str, float]
) -> None:
    decision = two(tmp_path, server_candidate(FP32, **worse), server_candidate(INT8, **better), objective=objective)  # type: ignore[arg-type]
    assert decision["winner"]["variant"] == INT8


def test_equal_latencies_go_by_throughput_and_then_by_memory(tmp_path: Path) -> None:
    first, second = server_candidate(FP32, p99=0.0080), server_candidate(INT8, p99=0.0082, rows_per_second=1500.0)
    decision = two(tmp_path / "a", first, second)
    assert decision["winner"]["variant"] == INT8
    assert "p99 over the wire ties with onnx-fp32" in reasons(decision)[INT8]
    first, second = server_candidate(FP32, p99=0.0080), server_candidate(INT8, p99=0.0082, peak=50 * 2**20)
    assert two(tmp_path / "b", first, second)["winner"]["variant"] == INT8


def test_torchserve_must_be_better_not_as_good(tmp_path: Path) -> None:
    tie = two(
        tmp_path / "a", server_candidate(SCRIPT, p99=0.0080, rows_per_second=9000.0), server_candidate(FP32, p99=0.0083)
    )
    assert tie["winner"]["variant"] == FP32
    assert "no more security fixes" in reasons(tie)[SCRIPT]
    better = two(tmp_path / "b", server_candidate(SCRIPT, p99=0.0060), server_candidate(FP32, p99=0.0083))
    assert better["winner"]["variant"] == SCRIPT


def test_what_varies_more_than_it_differs_is_a_tie(tmp_path: Path) -> None:
    smaller = server_candidate(FP32, p99=0.0092, spread=0.1, peak=50 * 2**20)
    other = server_candidate(INT8, p99=0.0080, spread=0.1)
    assert two(tmp_path / "a", smaller, other)["winner"]["variant"] == FP32
    assert two(tmp_path / "b", smaller, server_candidate(INT8, p99=0.0070, spread=0.1))["winner"]["variant"] == INT8
    # Too few samples bound the p99 from below only.
    slowest = (0.0092, *[0.0078] * 9)
    smaller = server_candidate(FP32, p99=0.0092, spread=0.1, peak=50 * 2**20, interval=(0.0081, None), slowest=slowest)
    assert two(tmp_path / "c", smaller, other)["winner"]["variant"] == FP32
    tie = two(
        tmp_path / "d", server_candidate(SCRIPT, p99=0.0072, spread=0.1), server_candidate(FP32, p99=0.0083, spread=0.1)
    )
    assert tie["winner"]["variant"] == FP32
    assert reasons(tie)[SCRIPT] == "not measurably better than onnx-fp32, and torchserve gets no more security fixes"


def test_a_candidate_only_wins_if_it_is_measurably_faster_than_the_baseline(tmp_path: Path) -> None:
    names = [FP32, INT8, SCRIPT]
    runtime = [
        runtime_candidate(FP32),
        runtime_candidate(INT8, ratio=1.3),
        runtime_candidate(SCRIPT, ratio=0.98, spread=0.05),
    ]
    made = context(tmp_path, [candidate(n) for n in names], runtime, [server_candidate(n, p99=0.009) for n in names])
    decision = decide(made)
    assert fates(decision) == {
        FP32: "won",
        INT8: "not faster than the baseline",
        SCRIPT: "not faster than the baseline",
    }
    assert reasons(decision)[INT8] == "its latency is 1.30 times the baseline's"
    assert "between 0.93 and 1.03 over 12 rounds" in reasons(decision)[SCRIPT]


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
    assert "optimize.time_budget" in caught.value.remedy
    assert "the time budget ended before" in caught.value.cause


def test_every_way_of_dropping_out_has_its_fate_and_reason(tmp_path: Path) -> None:
    names = ["onnx-fp32", "onnx-int8", "onnx-a", "onnx-b", "onnx-c", "onnx-d", "onnx-e", "torchscript-fp32", "x-f"]
    failed = Diagnostic("E422", "the exporter fails", cause="aten::foo has no translation", remedy="do without foo")
    too_large = Diagnostic("E403", "out of memory at load", cause="peak 2.1 GiB of 2.0 GiB", remedy="raise it")
    killed = Diagnostic("E404", "its process was killed by SIGSEGV at batch 8")
    unanswered = Diagnostic("E612", "3 of 400 requests failed", cause="status 503")
    gate = GateResult("min_cosine", "y", 0.99, 0.91, passed=False, case="all samples")
    runtime = [
        runtime_candidate("onnx-fp32"),
        not_timed("onnx-int8", "not measured", "not measured: it failed verification"),
        runtime_candidate(
            "onnx-a",
            fate="dominated",
            reason="dropped after 3 rounds: it takes at least 2.4 times as long as onnx-fp32",
        ),
        not_timed("onnx-b", "out of memory", error=too_large),
        not_timed("onnx-c", "failed", error=killed),
        runtime_candidate("onnx-d"),
        runtime_candidate("onnx-e"),
        not_timed("x-f", "not measured", "not measured: its conversion failed"),
        runtime_candidate("torchscript-fp32"),
    ]
    server = [
        server_candidate("onnx-fp32"),
        not_served("onnx-d", "not a finalist", "it takes 1.70 times as long as onnx-fp32 on the same backend"),
        not_served("onnx-e", "failed", error=unanswered),
        not_served("torchscript-fp32", "no server", "torchserve cannot be started here: java is not on the PATH"),
    ]
    rows = [candidate(name) for name in names] + [
        candidate("onnx-bf16", refused="the CPU provider has no bfloat16 kernels")
    ]
    steps = {
        "convert.x": StepFate.of("convert", "failed", Ending.REFUSED, failed),
        "verify.x-f": StepFate.of("verify", "skipped", None, Diagnostic("E408", "convert.x did not succeed")),
        "convert.onnx": StepFate.of("convert", "done", Ending.DONE, None),
    }
    made = context(
        tmp_path, rows, runtime, server, fates=steps, verdicts={INT8: verdict(INT8, passed=False, gates=[gate])}
    )
    decision = decide(made)
    assert fates(decision) == {
        "onnx-fp32": "won",
        "onnx-int8": "verification failed",
        "onnx-a": "dominated",
        "onnx-b": "out of memory",
        "onnx-c": "not measured",
        "onnx-d": "dominated",
        "onnx-e": "not measured",
        "torchscript-fp32": "not measured",
        "x-f": "conversion failed",
        "onnx-bf16": "refused",
    }
    said = reasons(decision)
    assert said["onnx-int8"] == "min_cosine of y is 0.91, the limit is 0.99"
    assert said["x-f"] == "convert.x: the exporter fails: aten::foo has no translation"
    assert said["onnx-bf16"] == "the CPU provider has no bfloat16 kernels"
    assert "java is not" in said["torchscript-fp32"]
    assert all(said.values())
    read = Decision.read(made.output)
    errors = {each.candidate: each.error for each in read.candidates if each.error is not None}
    assert errors == {
        "x-f": failed,
        "onnx-b": too_large,
        "onnx-c": killed,
        "onnx-e": unanswered,
    }
    assert said["onnx-b"] == "out of memory at load: peak 2.1 GiB of 2.0 GiB"
    text = re.sub(r"\s+", " ", decision_text(read))
    assert "onnx-b: out of memory [E403]: out of memory at load: peak 2.1 GiB of 2.0 GiB. help: raise it." in text
    assert "x-f: conversion failed [E422]: convert.x: the exporter fails: aten::foo has no translation." in text


def test_each_gate_is_shown_beside_its_limit_for_every_candidate(tmp_path: Path) -> None:
    def gate(name: str, output: str, limit: float, measured: float) -> GateResult:
        passed = measured >= limit if name.startswith("min_") else measured <= limit
        return GateResult(name, output, limit, measured, passed=passed, case="all samples")

    good = [
        gate("finite", "y", 0, 0),
        gate("max_abs_error", "y", 0.0001, 5.722e-06),
        gate("min_cosine", "y", 0.99999, 0.9999999999),
        gate("min_cosine", "z", 0.99999, 0.999995),
    ]
    bad = [gate("max_abs_error", "y", 4.71, 0.177), gate("min_cosine", "y", 0.99999, 0.99998)]
    share = {"y": Accuracy(baseline=0.99609, variant=0.98047)}
    verdicts = {
        FP32: verdict(FP32, gates=good).model_copy(update={"accuracy": share}),
        INT8: verdict(INT8, passed=False, gates=bad),
    }
    made = context(
        tmp_path,
        [candidate(FP32), candidate(INT8)],
        [runtime_candidate(FP32), not_timed(INT8, "not measured", "not measured: it failed verification")],
        [server_candidate(FP32)],
        verdicts=verdicts,
    )
    said = reasons(decide(made))
    assert said[INT8] == "min_cosine of y is 0.99998, the limit is 0.99999"
    decision = Decision.read(made.output)
    assert decision.candidates[0].gates == tuple(good)
    assert decision.candidates[0].accuracy == share
    lines = click.unstyle(decision_text(decision)).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("verified"))
    assert [line.split("  ") for line in (re.sub(" {2,}", "  ", each) for each in lines[start : start + 3])] == [
        ["verified", "max_abs_error", "min_cosine", "accuracy (original)"],
        [FP32, "5.722e-06 ≤ 0.0001", "0.999995 ≥ 0.99999", "98.05% (99.61%)"],
        [INT8, "0.177 ≤ 4.71", "0.99998 < 0.99999"],
    ]
    text = re.sub(r"\s+", " ", click.unstyle(candidate_text(decision.candidates[0], decision)))
    assert "min_cosine y 1 ≥ 0.99999 passed all samples" in text
    assert "finite y 0 ≤ 0 passed all samples" in text
    assert "accuracy of y: 98.05% (99.61%)" in text


def test_the_kind_of_a_step_and_not_its_name_says_what_failed(tmp_path: Path) -> None:
    made = context(
        tmp_path,
        [candidate(FP32), candidate(INT8)],
        [runtime_candidate(FP32)],
        [server_candidate(FP32)],
        fates={f"verify.{INT8}": StepFate.of("convert", "failed", Ending.REFUSED, Diagnostic("E422", "no"))},
    )
    assert fates(decide(made))[INT8] == "conversion failed"


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


@pytest.mark.parametrize(
    ("p99", "rows"), [(0.0, 1000.0), (0.008, 0.0), (0.0, 0.0), (math.inf, 1000.0), (5e-324, 5e-324)]
)
def test_a_chart_is_drawn_of_every_number(tmp_path: Path, p99: float, rows: float) -> None:
    made = context(tmp_path, [candidate(FP32)], [runtime_candidate(FP32)], [server_candidate(FP32)])
    select(made)
    decision = Decision.read(made.output)
    server = decision.candidates[0].server
    assert server is not None
    assert server.on_schedule is not None
    assert server.saturated is not None
    odd = server.model_copy(
        update={
            "open_loop": server.on_schedule.model_copy(update={"p99": p99}),
            "saturation": server.saturated.model_copy(update={"at_least": rows}),
        }
    )
    without_limit = decision.slo.model_copy(update={"p99_latency": None})
    row = decision.candidates[0].model_copy(update={"server": odd})
    svg = chart(decision.model_copy(update={"candidates": (row,), "slo": without_limit}))
    assert "nan" not in svg
    ET.fromstring(svg)


def test_a_chart_that_cannot_be_drawn_is_a_note_and_not_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Decision) -> str:
        raise ZeroDivisionError("nothing to scale by")

    monkeypatch.setattr("orchestrator.select.step.chart", fails)
    made = context(tmp_path, [candidate(FP32)], [runtime_candidate(FP32)], [server_candidate(FP32)])
    assert select(made)["winner"] == FP32
    note = "there is no chart.svg, because it could not be drawn: ZeroDivisionError: nothing to scale by"
    assert note in Decision.read(made.output).notes
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


def test_the_decision_says_which_wire_it_holds_for(tmp_path: Path) -> None:
    wires = (wire_result("binary", call=0.0012, model=0.001), wire_result("json", call=0.231, model=0.001))
    decision = two(tmp_path, server_candidate(FP32, p99=0.005, wires=wires), server_candidate(INT8, p99=0.008))
    assert (
        "measured with raw tensors: a call takes 1.2 ms with raw tensors, of which the model takes 1 ms; JSON: 231 ms"
        in decision["notes"]
    )


def test_without_enforcement_the_best_wins_and_the_decision_says_so(tmp_path: Path) -> None:
    decision = two(
        tmp_path,
        server_candidate(FP32, p99=0.0312, over=100),
        server_candidate(INT8, p99=0.024, over=60),
        enforce=False,
    )
    assert decision["winner"]["variant"] == INT8
    assert decision["slo"]["met"] is False
    assert "SLO not met: p99 24 ms at 200/s, 4 ms over" in reasons(decision)[INT8]
    assert any("SLO not met" in note for note in decision["notes"])


def test_a_server_that_refused_requests_can_win_and_says_how_often_it_refused(tmp_path: Path) -> None:
    busy = server_candidate(FP32, p99=10.0, over=40, refused={"status 503": 40})
    with pytest.raises(StepError) as caught:
        decide(context(tmp_path / "a", [candidate(FP32)], [runtime_candidate(FP32)], [busy]))
    assert caught.value.code == "E501"
    assert "it refused 40 of 1400 requests as too busy: 40 with status 503" in caught.value.notes[0]
    decision = decide(context(tmp_path / "b", [candidate(FP32)], [runtime_candidate(FP32)], [busy], enforce=False))
    assert decision["winner"]["variant"] == FP32


def test_one_that_meets_the_slo_wins_over_one_that_does_not(tmp_path: Path) -> None:
    decision = two(
        tmp_path, server_candidate(FP32, p99=0.015), server_candidate(INT8, p99=0.021, over=40, rows_per_second=9000.0),
        objective="throughput",
    )  # fmt: skip
    assert fates(decision) == {FP32: "won", INT8: "slo missed"}
    assert decision["candidates"][1]["distance"]["p99_seconds"] == pytest.approx(0.001)


def test_an_inconclusive_verdict_counts_as_not_met_and_says_how_many_samples_it_needs(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        two(tmp_path / "a", server_candidate(FP32, samples=100), server_candidate(INT8, samples=100))
    assert all(
        "inconclusive: " in note and "at least 359 more samples are needed" in note for note in caught.value.notes
    )
    assert "optimize.time_budget" in caught.value.remedy
    decision = two(tmp_path / "b", server_candidate(FP32, samples=100), server_candidate(INT8, p99=0.012))
    assert fates(decision) == {FP32: "inconclusive", INT8: "won"}
    decision = two(
        tmp_path / "c", server_candidate(FP32, samples=100), server_candidate(INT8, samples=100), enforce=False
    )
    assert decision["slo"]["met"] is False


def test_a_throughput_that_is_not_reached_is_a_missed_slo(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        two(tmp_path, server_candidate(FP32, rows_per_second=150.0), server_candidate(INT8, rows_per_second=150.0))
    assert caught.value.notes[0].startswith("onnx-fp32: slo missed: ")
    assert caught.value.notes[0].endswith("; 150/s of 200/s")


def test_a_spec_without_slo_takes_the_best(tmp_path: Path) -> None:
    free: dict[str, Any] = {"limit": None, "wanted": None}
    decision = two(tmp_path, server_candidate(FP32, p99=0.5, **free), server_candidate(INT8, p99=0.6, **free))
    assert decision["winner"]["variant"] == FP32


def test_the_winner_has_everything_that_is_deployed_and_nothing_that_noise_changes(tmp_path: Path) -> None:
    made = context(
        tmp_path / "a", [candidate(FP32)], [runtime_candidate(FP32)], [server_candidate(FP32, p99=0.008, ready=1.0)]
    )
    again = context(
        tmp_path / "b", [candidate(FP32)], [runtime_candidate(FP32)], [server_candidate(FP32, p99=0.0081, ready=1.2)]
    )
    select(made)
    select(again)
    winner = json.loads((made.output / "winner.json").read_bytes())
    assert (made.output / "winner.json").read_bytes() == (again.output / "winner.json").read_bytes()
    assert (winner["max_batch_size"], winner["max_delay"], winner["startup_seconds"]) == (8, 0.0, 60)
    assert winner["model_digest"] == digest_tree(made.inputs["variant:onnx-fp32"]).digest
    assert winner["signature"]["batch"] == "batch"
    assert "numpy" in winner["tools"]


@pytest.mark.parametrize(("ready", "bound"), [(0.1, 60), (20, 60), (20.1, 120), (40, 120), (41, 240)])
def test_startup_bounds_are_coarse(ready: float, bound: int) -> None:
    assert startup_bound(ready, 60) == bound


@pytest.mark.parametrize(("variant", "bound"), [(FP32, 60), (SCRIPT, 120)])
def test_a_fast_start_leaves_time_for_a_slow_one(tmp_path: Path, variant: str, bound: int) -> None:
    made = context(tmp_path, [candidate(variant)], [runtime_candidate(variant)], [server_candidate(variant, ready=0.3)])
    select(made)
    assert json.loads((made.output / "winner.json").read_bytes())["startup_seconds"] == bound


def test_random_samples_and_shared_cpus_are_noted(tmp_path: Path) -> None:
    decision = decide(
        context(tmp_path, [candidate(FP32)], [runtime_candidate(FP32)], [server_candidate(FP32)], samples="random")
    )
    assert any("random inputs only" in note for note in decision["notes"])
    assert any("shared the server's CPUs" in note for note in decision["notes"])
    assert decision["samples"] == "random"


def test_the_steps_notes_on_a_variant_are_in_the_decision(tmp_path: Path) -> None:
    made = context(tmp_path, [candidate(INT8)], [runtime_candidate(INT8)], [server_candidate(INT8)])
    note = "int8 was calibrated on 3 of 5 samples and verified on only 2 others"
    facts("onnx", "int8", notes=(note,)).write(made.inputs[f"variant:{INT8}"])
    assert f"onnx-int8: {note}" in decide(made)["notes"]


def test_what_was_measured_in_too_few_rounds_is_said_without_an_interval(tmp_path: Path) -> None:
    one = runtime_candidate(FP32, rounds=4, given=True)
    notes = decide(context(tmp_path, [candidate(FP32)], [one], [server_candidate(FP32)]))["notes"]
    assert (
        "measured in too few rounds to compare the latency with the baseline's, which takes 6: onnx-fp32 (4); "
        "raise `optimize.time_budget`, or set fewer `benchmark.batch_sizes`"
    ) in notes
    assert not [note for note in notes if " inf" in note or "0.00" in note]


def test_a_p99_seven_times_as_long_loses_whatever_the_number_of_answers(tmp_path: Path) -> None:
    def few(variant: str, p99: float) -> CandidateServerResult:
        slowest = tuple(p99 * (1 - place / 100) for place in range(10))
        return server_candidate(variant, p99=p99, samples=80, interval=(p99 * 0.8, None), slowest=slowest, limit=None)

    decision = two(tmp_path, few(FP32, 0.117), few(INT8, 0.831))
    assert fates(decision) == {FP32: "won", INT8: "lost"}
    assert "7.10 times worse" in reasons(decision)[INT8]


def test_too_few_answers_are_called_that(tmp_path: Path) -> None:
    def few(variant: str, p99: float) -> CandidateServerResult:
        return server_candidate(variant, p99=p99, samples=3, interval=(0.0, None), limit=None, wanted=None)

    decision = two(tmp_path, few(FP32, 0.117), few(INT8, 0.831))
    winner = next(reason for name, reason in reasons(decision).items() if fates(decision)[name] == "won")
    assert "(too few answers: 3 and 3; raise `optimize.time_budget`)" in winner


def test_a_throughput_that_the_generator_may_limit_is_not_claimed(tmp_path: Path) -> None:
    fast = server_candidate(FP32, rows_per_second=9000.0, limited=True)
    slow = server_candidate(INT8, rows_per_second=2000.0)
    decision = two(tmp_path / "a", fast, slow, objective="throughput")
    assert fates(decision)[FP32] == "won"
    assert "at least 9,000 rows/s saturated (the load generator could not send clearly more)" in reasons(decision)[FP32]
    # What reaches 10,000 is not told apart from what reaches 9,000 and may reach more.
    more = server_candidate(INT8, rows_per_second=10_000.0)
    decision = two(tmp_path / "b", fast, more, objective="throughput")
    assert "saturated throughput ties" in "".join(reasons(decision).values())


def test_a_rate_that_the_generator_cannot_send_is_not_missed(tmp_path: Path) -> None:
    result = server_candidate(FP32, rows_per_second=9000.0, limited=True, wanted=20_000.0)
    assert result.measured is not None
    level = result.measured.slo.throughput
    assert level is not None
    limited = level.model_copy(update={"generator_limited": True})
    slo = result.measured.slo.model_copy(update={"throughput": limited})
    measured = result.measured.model_copy(update={"slo": slo})
    assert service_level(measured) == "inconclusive"
    assert distance_text(measured).endswith("not proven: the load generator could not send clearly more")


def test_what_was_not_measured_is_said_to_be_that_everywhere(tmp_path: Path) -> None:
    whole = server_candidate(INT8, limit=None, wanted=None)
    partly = server_candidate(FP32, limit=None, wanted=None)
    assert partly.measured is not None
    reason = "only 1 answers came in the time, too few for a throughput; raise `optimize.time_budget`"
    missing = {"saturation": NotMeasured(reason=reason), "open_loop": NotMeasured(reason="no request was sent")}
    partly = partly.model_copy(update={"measured": partly.measured.model_copy(update=missing)})
    decision = two(tmp_path, partly, whole)
    assert fates(decision) == {FP32: "lost", INT8: "won"}
    assert reasons(decision)[FP32] == "p99 not measured: no request was sent"
    read = Decision.read(tmp_path / "output")
    text = decision_text(read)
    assert "not measured" in text
    row = next(each for each in read.candidates if each.candidate == FP32)
    assert f"at saturation: not measured: {reason}" in candidate_text(row, read)
    assert not re.search(r"\b(inf|nan|0\.00)\b|\b0 rows/s", text + candidate_text(row, read))
    chart_text = (tmp_path / "output" / "chart.svg").read_text()
    assert "nan" not in chart_text
    assert "inf" not in chart_text


def test_noisy_measurements_are_noted(tmp_path: Path) -> None:
    def decided(folder: str, low: float, *, settled: bool) -> list[str]:
        one = runtime_candidate(FP32, ratio=0.3, spread=0.3 - low, settled=settled)
        wire = server_candidate(FP32, settled=settled)
        notes: list[str] = decide(context(tmp_path / folder, [candidate(FP32)], [one], [wire]))["notes"]
        return [note for note in notes if "noisy" in note or "settled" in note]

    assert decided("a", 0.2, settled=True) == []
    assert decided("b", 0.1, settled=False) == [
        "noisy: the ratio of the latency to the baseline's is uncertain for onnx-fp32 (0.10 to 0.50 times)",
        "warm-up had not settled for the server of onnx-fp32; onnx-fp32 at batch 1",
    ]


def test_without_a_server_benchmark_nothing_is_picked(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        select(context(tmp_path, [candidate(FP32)], [runtime_candidate(FP32)], None))
    assert caught.value.notes == ("onnx-fp32: not measured: the server benchmark was not run",)


def test_the_chart_shows_each_candidate_the_baseline_and_the_limit(tmp_path: Path) -> None:
    names = [FP32, INT8, SCRIPT]
    made = context(
        tmp_path,
        [candidate(n) for n in names],
        [runtime_candidate(n) for n in names],
        [server_candidate(n) for n in names],
    )
    decide(made)
    svg = ET.fromstring((made.output / "chart.svg").read_text(encoding="utf-8"))
    texts = [element.text or "" for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    for expected in (*names, "baseline", "SLO 20 ms", "onnx-int8 (onnxruntime)"):
        assert any(text.startswith(expected) for text in texts), expected
    labels = [e for e in svg.iter("{http://www.w3.org/2000/svg}text") if (e.text or "").startswith(("onnx", "torch"))]
    places = [(e.get("x"), e.get("y")) for e in labels[:3]]
    assert len(set(places)) == 3, "labels of equal points lie beside each other, not on each other"


def test_the_model_as_given_need_not_be_faster_than_itself(tmp_path: Path) -> None:
    given = candidate("onnx-fp32", given=True)
    measured = runtime_candidate("onnx-fp32", ratio=1.0, given=True)
    slower = runtime_candidate("onnx-int8", ratio=1.3)

    found = select(
        context(tmp_path, [given, candidate("onnx-int8")], [measured, slower], [server_candidate("onnx-fp32")])
    )

    assert found["winner"] == "onnx-fp32"


def test_without_a_server_the_runtime_decides_and_the_decision_says_so(tmp_path: Path) -> None:
    rows = [candidate("saved-model-fp32"), candidate("saved-model-bf16")]
    runtime = [runtime_candidate(r["variant"], ratio=ratio) for r, ratio in zip(rows, (0.5, 0.4), strict=True)]
    server = [not_served(r["variant"], "no server", NO_BINARY) for r in rows]
    case = context(tmp_path, rows, runtime, server)
    case.params["slo"].update(p99_latency=None, throughput=None)

    assert select(case)["winner"] == "saved-model-bf16"

    decision = json.loads((case.output / "decision.json").read_text("utf-8"))
    assert decision["compared"] == "runtimes"
    assert any("no binary" in note for note in decision["notes"])
    lost = next(c for c in decision["candidates"] if c["variant"] == "saved-model-fp32")
    assert lost["fate"] == "lost"
    assert "1.25 times worse than saved-model-bf16" in lost["reason"]


def test_a_service_level_is_not_claimed_from_a_runtime_alone(tmp_path: Path) -> None:
    server = [not_served("saved-model-fp32", "no server", NO_BINARY)]

    with pytest.raises(StepError) as refused:
        select(context(tmp_path, [candidate("saved-model-fp32")], [runtime_candidate("saved-model-fp32")], server))

    assert refused.value.code == "E501"
    assert "over the wire" in refused.value.cause


def test_servers_measured_over_the_wire_take_precedence_over_a_faster_runtime(tmp_path: Path) -> None:
    rows = [candidate("onnx-fp32"), candidate("saved-model-fp32")]
    runtime = [runtime_candidate("onnx-fp32", ratio=0.6), runtime_candidate("saved-model-fp32", ratio=0.2)]
    server = [server_candidate("onnx-fp32"), not_served("saved-model-fp32", "no server", NO_BINARY)]

    assert select(context(tmp_path, rows, runtime, server))["winner"] == "onnx-fp32"


def test_a_model_for_devices_does_not_win_if_a_server_is_required(tmp_path: Path) -> None:
    rows = [candidate("onnx-fp32"), candidate("tflite-int8")]
    runtime = [runtime_candidate("onnx-fp32"), runtime_candidate("tflite-int8", ratio=0.1)]
    server = [server_candidate("onnx-fp32"), not_served("tflite-int8", "no server", "a device runs it")]
    case = context(tmp_path, rows, runtime, server)

    assert select(case)["winner"] == "onnx-fp32"

    candidates = json.loads((case.output / "decision.json").read_text("utf-8"))["candidates"]
    assert {c["variant"]: c["fate"] for c in candidates}["tflite-int8"] == "for devices"


def test_the_decision_says_why_requests_are_answered_one_by_one(tmp_path: Path) -> None:
    made = context(tmp_path, [candidate(FP32)], [runtime_candidate(FP32)], [server_candidate(FP32)])
    assert decide(made)["one_by_one"] is None
    read = Decision.read(made.output)
    assert "one by one" not in decision_text(read) + candidate_text(read.candidates[0], read)

    imported(one_by_one="the spec says `batch: none`").write(made.inputs["import"])
    assert decide(made)["one_by_one"] == "the spec says `batch: none`"
    read = Decision.read(made.output)
    for text in (decision_text(read), candidate_text(read.candidates[0], read)):
        assert "requests are answered one by one: the spec says `batch: none`." in text
