"""A round of a search on real models in ONNX Runtime and OpenVINO: whom it measures, and what its report says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts.round_report import RoundReport
from orchestrator.measure.search_round import measure
from orchestrator.measure.statistics import FEWEST_ROUNDS
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import CandidateParameters, RoundParameters
from orchestrator.steps.runtime_options import RuntimeOptions
from tests.measure.real_case import DIGITS, write_import, write_linear_model, write_verdict

pytestmark = [pytest.mark.frameworks, pytest.mark.e2e]

PLAIN = CandidateParameters("onnx-fp32", "onnx-fp32", "onnx", "fp32", "onnxruntime")
ONE_THREAD = replace(PLAIN, candidate="onnx-fp32+threads=1", options=RuntimeOptions(threads=1))
SAME = replace(PLAIN, candidate="onnx-int8", variant="onnx-int8", precision="int8")
WRONG = replace(SAME, candidate="onnx-int8@openvino", backend="openvino")
NOT_MADE = replace(SAME, candidate="onnx-int8:weight-bits=8", variant="onnx-int8:weight-bits=8")


def round_context(folder: Path) -> StepContext:
    inputs = {
        "import": write_import(folder / "import"),
        "variant:onnx-fp32": write_linear_model(folder / "fp32", layers=8),
        "variant:onnx-int8": write_linear_model(folder / "int8", layers=8),
        **{
            f"verdict:{each.candidate}": write_verdict(folder / f"verdict-{each.candidate}", passed=each is not WRONG)
            for each in (PLAIN, SAME, WRONG)
        },
    }
    for name in ("output", "scratch"):
        (folder / name).mkdir()
    parameters = RoundParameters(
        candidates=(PLAIN, ONE_THREAD, SAME, WRONG, NOT_MADE),
        unverified=(ONE_THREAD.candidate,),
        drops=False,
        references=(PLAIN.candidate,),
        at_once=8,
        batch_sizes=(1, 8),
        cpus=2.0,
        memory=2**31,
        objective="throughput",
        time_budget=30.0,
    )
    return StepContext(parameters.as_json(), inputs, folder / "output", folder / "scratch", DIGITS)


def test_a_round_with_many_candidates_has_parts_that_share_what_they_are_compared_with(
    tmp_path: Path,
) -> None:
    context = round_context(tmp_path)
    other = replace(PLAIN, candidate="onnx-fp32+spinning=true", options=RuntimeOptions(spinning=True))
    parameters = RoundParameters.from_json(context.params)
    parameters = replace(
        parameters,
        candidates=(PLAIN, ONE_THREAD, other),
        unverified=(ONE_THREAD.candidate, other.candidate),
        objective="latency",
        at_once=1,
    )
    told: list[str] = []

    measure(replace(context, params=parameters.as_json(), progress=lambda text, _=None: told.append(text)))

    plain, one, two = ({times.number for times in each.times} for each in RoundReport.read(context.output).candidates)
    assert not one & two
    assert plain == one | two
    assert any(text.startswith("part 2 of 2: ") for text in told)


def test_a_round_measures_each_file_once_and_what_is_verified_or_needs_no_verdict(tmp_path: Path) -> None:
    context = round_context(tmp_path)
    told: list[str] = []

    summary = measure(replace(context, progress=lambda text, _=None: told.append(text)))

    report = RoundReport.read(context.output)
    rows: dict[str, Any] = {each.candidate: each for each in report.candidates}
    assert {name: row.fate for name, row in rows.items()} == {
        "onnx-fp32": "measured",
        "onnx-fp32+threads=1": "measured",
        "onnx-int8": "same",
        "onnx-int8@openvino": "not measured",
        "onnx-int8:weight-bits=8": "not measured",
    }
    assert (rows["onnx-int8"].same_as, rows["onnx-int8"].times) == ("onnx-fp32", ())
    assert rows["onnx-int8@openvino"].reason == "not measured: it failed verification"
    assert rows["onnx-int8:weight-bits=8"].reason == "not measured: its conversion failed"
    assert report.batch_sizes == (1, 8)
    assert report.seconds > 0
    for name in ("onnx-fp32", "onnx-fp32+threads=1"):
        times = rows[name].times
        assert len(times) >= FEWEST_ROUNDS
        assert all(each.row > 0 and each.call > 0 for each in times)
    assert any(" leads with " in text for text in told)
    assert "2 measured to the end" in summary["line"]
