"""Who wins, who loses and why, as the decision tells it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import click
import pytest

from orchestrator.artifacts.decision import Decision
from orchestrator.artifacts.fates import StepFate
from orchestrator.artifacts.server_report import CandidateServerResult
from orchestrator.artifacts.verdict import Accuracy, GateResult
from orchestrator.artifacts.winner import Winner
from orchestrator.cli.decision_text import candidate_text, decision_text
from orchestrator.diagnostics import Diagnostic
from orchestrator.select.step import select
from orchestrator.steps.context import Ending
from orchestrator.store.digest import digest_tree
from tests.artifacts.made import verdict
from tests.optimize.select_case import (
    FP32,
    INT8,
    SCRIPT,
    candidate,
    context,
    decide,
    fates,
    not_served,
    not_timed,
    reasons,
    runtime_candidate,
    server_candidate,
    two,
)

NO_BINARY = "tensorflow-serving cannot be started here: no binary"


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
        [runtime_candidate(FP32, ratio=0.4), not_timed(INT8, "not measured", "not measured: it failed verification")],
        [server_candidate(FP32)],
        verdicts=verdicts,
    )
    said = reasons(decide(made))
    assert said[INT8] == "min_cosine of y is 0.99998, the limit is 0.99999"
    decision = Decision.read(made.output)
    assert decision.candidates[0].gates == tuple(good)
    assert decision.candidates[0].accuracy == share
    lines = click.unstyle(decision_text(decision)).splitlines()
    assert " 2.5x " in next(
        line for line in lines if line.startswith(FP32)
    )  # by the comparison in turns, as in the report
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


def test_a_p99_seven_times_as_long_loses_whatever_the_number_of_answers(tmp_path: Path) -> None:
    def few(variant: str, p99: float) -> CandidateServerResult:
        slowest = tuple(p99 * (1 - place / 100) for place in range(10))
        return server_candidate(variant, p99=p99, samples=80, interval=(p99 * 0.8, None), slowest=slowest, limit=None)

    decision = two(tmp_path, few(FP32, 0.117), few(INT8, 0.831))
    assert fates(decision) == {FP32: "won", INT8: "lost"}
    assert "7.10 times worse" in reasons(decision)[INT8]


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


def test_what_a_search_dropped_has_its_fate_and_a_row_even_if_it_was_never_made(tmp_path: Path) -> None:
    rows = [candidate("onnx-fp32"), candidate("onnx-int8")]
    case = context(tmp_path, rows, [runtime_candidate("onnx-fp32")], [server_candidate("onnx-fp32")])
    never_made = {**case.params["candidates"][0], "candidate": "onnx-fp32+threads=1"}
    case.params["candidates"].append(never_made)
    case.params["steps"]["onnx-fp32+threads=1"] = ["convert.onnx", "verify.onnx-fp32+threads=1"]
    searched = {
        "onnx-int8": {"fate": "did not help", "reason": "it takes 1.10 times as long as onnx-fp32"},
        "onnx-fp32+threads=1": {"fate": "not tried", "reason": "there was no time"},
    }
    notes = ["the search did not begin"]
    case = replace(case, params={**case.params, "searched": searched, "search_notes": notes})

    assert select(case)["winner"] == "onnx-fp32"

    decision = json.loads((case.output / "decision.json").read_text("utf-8"))
    told = {c["candidate"]: (c["fate"], c["reason"]) for c in decision["candidates"]}
    assert told["onnx-int8"] == ("did not help", "it takes 1.10 times as long as onnx-fp32")
    assert told["onnx-fp32+threads=1"] == ("not tried", "there was no time")
    assert "the search did not begin" in decision["notes"]
