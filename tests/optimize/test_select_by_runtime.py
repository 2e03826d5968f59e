"""Selection when not every candidate has a server, and the decision's notes on servers and on the original model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts.runtime_report import CandidateRuntimeResult
from orchestrator.artifacts.server_report import CandidateServerResult, MeasuredProgram
from orchestrator.steps.context import StepContext
from tests.optimize.select_case import candidate, context, decide, not_served, runtime_candidate, server_candidate

ONNX, LITE, SAVED = "onnx-fp32", "tflite-fp32", "saved-model-fp32"


def at_runtime(variant: str, ratio: float, *, given: bool = False) -> CandidateRuntimeResult:
    return runtime_candidate(variant, ratio=ratio, given=given)


def no_server(variant: str, reason: str = "it runs on devices, not in a server") -> CandidateServerResult:
    return not_served(variant, "no server", reason)


def in_a_folder(made: StepContext, **slo: Any) -> StepContext:
    asked = {"p99_latency": None, "throughput": None, "enforce": True, **slo}
    return replace(made, params={**made.params, "runtime_level": ["tensorflow-serving", "litert"], "slo": asked})


def given_as(made: StepContext, source: str) -> StepContext:
    return replace(made, params={**made.params, "source": source})


def fate_and_reason(decision: dict[str, Any], variant: str) -> tuple[str, str]:
    return next((c["fate"], c["reason"]) for c in decision["candidates"] if c["variant"] == variant)


def free(variant: str, **numbers: Any) -> CandidateServerResult:
    return server_candidate(variant, limit=None, wanted=None, **numbers)


@pytest.mark.parametrize(("onnx", "lite", "wins"), [(0.6, 0.3, LITE), (0.3, 0.6, ONNX)])
def test_in_a_folder_a_model_for_devices_competes_by_its_runtime_with_candidates_that_have_servers(
    tmp_path: Path, onnx: float, lite: float, wins: str
) -> None:
    rows = [candidate(ONNX), candidate(LITE)]
    runtime = [at_runtime(ONNX, onnx), at_runtime(LITE, lite)]
    decision = decide(in_a_folder(context(tmp_path, rows, runtime, [free(ONNX), no_server(LITE)])))

    loser = ONNX if wins == LITE else LITE
    assert decision["winner"]["variant"] == wins
    assert decision["compared"] == "runtimes"
    assert fate_and_reason(decision, loser) == ("lost", f"runtime: 2.4 ms per call, 2.00 times worse than {wins}")
    assert fate_and_reason(decision, wins)[1].startswith("best runtime: 1.2 ms per call; ")
    assert any("it runs on devices, not in a server" in note for note in decision["notes"])


def test_a_proven_service_level_takes_precedence_over_a_faster_model_for_devices(tmp_path: Path) -> None:
    rows = [candidate(ONNX), candidate(LITE)]
    runtime = [at_runtime(ONNX, 0.6), at_runtime(LITE, 0.3)]
    made = context(tmp_path, rows, runtime, [server_candidate(ONNX), no_server(LITE)])
    decision = decide(in_a_folder(made, p99_latency=0.02, throughput=200.0))

    assert decision["winner"]["variant"] == ONNX
    assert decision["compared"] == "servers"
    assert fate_and_reason(decision, LITE)[0] == "inconclusive"


def test_in_a_folder_where_all_have_servers_these_are_compared(tmp_path: Path) -> None:
    rows = [candidate(ONNX), candidate(SAVED)]
    runtime = [at_runtime(ONNX, 0.3), at_runtime(SAVED, 0.6)]
    served = free(SAVED, p99=0.002)
    decision = decide(in_a_folder(context(tmp_path, rows, runtime, [free(ONNX), served])))

    assert decision["winner"]["variant"] == SAVED
    assert decision["compared"] == "servers"


@pytest.mark.parametrize("ratio", [0.481, 0.5, 0.519])
def test_runtimes_within_five_percent_tie_and_the_order_of_the_spec_decides(tmp_path: Path, ratio: float) -> None:
    rows = [candidate(ONNX), candidate(LITE)]
    runtime = [at_runtime(ONNX, 0.5), at_runtime(LITE, ratio)]
    decision = decide(in_a_folder(context(tmp_path, rows, runtime, [free(ONNX), no_server(LITE)])))

    assert decision["winner"]["variant"] == ONNX
    assert "time ties with tflite-fp32; it is first in the spec" in fate_and_reason(decision, ONNX)[1]
    assert fate_and_reason(decision, LITE) == (
        "lost", f"runtime: {4 * ratio:.3g} ms per call, not measurably better than onnx-fp32",
    )  # fmt: skip


def test_more_than_five_percent_is_not_a_tie(tmp_path: Path) -> None:
    rows = [candidate(ONNX), candidate(LITE)]
    runtime = [at_runtime(ONNX, 0.5), at_runtime(LITE, 0.47)]
    decision = decide(in_a_folder(context(tmp_path, rows, runtime, [free(ONNX), no_server(LITE)])))
    assert decision["winner"]["variant"] == LITE


def test_a_converted_original_model_is_noted_with_its_cost(tmp_path: Path) -> None:
    rows, runtime = [candidate(ONNX, given=True)], [at_runtime(ONNX, 1.8, given=True)]
    made = given_as(context(tmp_path, rows, runtime, [server_candidate(ONNX)]), "tflite")

    assert (
        "onnx-fp32 is the original model, converted because no server takes tflite; it takes 1.80 times as long as the "
        "original"
    ) in decide(made)["notes"]


@pytest.mark.parametrize("source", ["onnx", "tflite"])
def test_no_such_note_if_the_original_format_competes(tmp_path: Path, source: str) -> None:
    names = [ONNX] if source == "onnx" else [ONNX, LITE]
    runtime = [at_runtime(name, ratio, given=True) for name, ratio in zip((ONNX, LITE), (0.8, 1.0), strict=True)]
    server = [free(ONNX), no_server(LITE)]
    made = context(tmp_path, [candidate(n, given=True) for n in names], runtime[: len(names)], server[: len(names)])

    decision = decide(in_a_folder(given_as(made, source)))

    assert decision["winner"]["variant"] == ONNX
    assert not any("is the original model" in note for note in decision["notes"])


@pytest.mark.parametrize(
    ("program", "noted"),
    [
        (MeasuredProgram(name="tensorflow/serving:latest", version="sha256:12ab", rendered=False), True),
        (MeasuredProgram(name="tensorflow/serving:2.20.0", version="sha256:34cd", rendered=True), False),
        (None, False),
    ],
)
def test_a_server_of_another_version_than_the_rendered_one_is_noted(
    tmp_path: Path, program: MeasuredProgram | None, noted: bool
) -> None:
    served = server_candidate(SAVED, program=program)
    decision = decide(context(tmp_path, [candidate(SAVED)], [at_runtime(SAVED, 0.5)], [served]))

    assert decision["candidates"][0]["server"]["program"] == (None if program is None else program.model_dump())
    note = (
        "the server of saved-model-fp32 was measured with tensorflow/serving:latest (sha256:12ab), which is not the rendered "
        "version"
    )
    assert (note in decision["notes"]) == noted
