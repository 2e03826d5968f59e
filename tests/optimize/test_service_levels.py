"""The service level in the choice: what meets it, what misses it, and what was not measured well enough to say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts.decision import Decision
from orchestrator.artifacts.measurement import NotMeasured
from orchestrator.artifacts.server_report import CandidateServerResult, OtherProcesses
from orchestrator.cli.decision_text import candidate_text, decision_text
from orchestrator.select.service_level import distance_text, service_level
from orchestrator.select.step import select
from orchestrator.steps.context import StepError
from tests.optimize.select_case import (
    FP32,
    INT8,
    candidate,
    context,
    decide,
    fates,
    not_served,
    reasons,
    runtime_candidate,
    server_candidate,
    two,
    wire_result,
)

NO_BINARY = "tensorflow-serving cannot be started here: no binary"


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
    assert "accept the best candidate with `slo: {enforce: false}`" in caught.value.remedy
    decision = decide(context(tmp_path / "b", [candidate(FP32)], [runtime_candidate(FP32)], [busy], enforce=False))
    assert decision["winner"]["variant"] == FP32


def test_a_limit_that_a_busy_machine_missed_is_not_proven_and_the_evidence_says_how_busy_it_was(tmp_path: Path) -> None:
    others = OtherProcesses(cpus=0.48, disturbed=2, again=8)
    server = server_candidate(FP32, p99=0.0464, over=100, others=others)
    with pytest.raises(StepError) as caught:
        decide(context(tmp_path / "a", [candidate(FP32)], [runtime_candidate(FP32)], [server]))
    assert caught.value.diagnostic.message == "no candidate is proven to meet the SLO"
    assert caught.value.remedy.startswith(
        "measure again with `mlo apply SPEC --replace benchmark.server` when less else runs on this machine"
    )
    decision = decide(context(tmp_path / "b", [candidate(FP32)], [runtime_candidate(FP32)], [server], enforce=False))
    assert decision["candidates"][0]["slo"] == "inconclusive"
    assert any("SLO not proven" in note for note in decision["notes"])
    assert (
        "other processes used the CPUs while servers were measured: onnx-fp32: 48 %, 8 segments measured again, 2 still disturbed"
        in decision["notes"]
    )


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


def test_a_service_level_is_not_claimed_from_a_runtime_alone(tmp_path: Path) -> None:
    server = [not_served("saved-model-fp32", "no server", NO_BINARY)]

    with pytest.raises(StepError) as refused:
        select(context(tmp_path, [candidate("saved-model-fp32")], [runtime_candidate("saved-model-fp32")], server))

    assert refused.value.code == "E501"
    assert "over the wire" in refused.value.cause
