"""What a command shows when nothing won."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.artifacts.decision import Decision
from orchestrator.cli.refused import refused_decisions
from orchestrator.errors import StepFailed
from orchestrator.select.step import select
from orchestrator.steps.context import StepError
from tests.cli.conftest import conforms
from tests.optimize.select_case import candidate, context, runtime_candidate, server_candidate


@pytest.fixture
def refused(tmp_path: Path) -> StepFailed:
    """The error of a run in which the only candidate misses the service level."""
    name = "onnx-fp32"
    made = context(
        tmp_path, [candidate(name)], [runtime_candidate(name)], [server_candidate(name, p99=0.0312, over=100)]
    )
    with pytest.raises(StepError) as caught:
        select(made)
    return StepFailed(caught.value.diagnostic, explained_in=made.output)


def test_the_table_and_the_reasons_come_before_the_error_which_does_not_repeat_them(
    refused: StepFailed, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StepFailed) as caught, refused_decisions():
        raise refused
    shown = capsys.readouterr().out
    assert shown.split()[0] == "candidate"
    assert "onnx-fp32: slo missed: p99 31.2 ms at 200/s, 11.2 ms over the limit of 20 ms" in " ".join(shown.split())
    assert f"decision: {refused.explained_in} (chart.svg, decision.json)" in shown
    assert caught.value.diagnostics[0].message == "no candidate meets the SLO"
    assert caught.value.diagnostics[0].notes == ()


def test_with_json_the_decision_is_in_the_document_of_errors(
    refused: StepFailed, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(StepFailed) as caught, refused_decisions(as_json=True):
        raise refused
    assert capsys.readouterr().out == ""
    document = json.loads(json.dumps({"errors": [d.as_json() for d in refused.diagnostics], **caught.value.also}))
    conforms(document, "errors")
    assert document["refused"]["decision"]["winner"] is None
    assert document["refused"]["decision"]["candidates"][0]["fate"] == "slo missed"
    assert (Path(document["refused"]["evidence"]) / Decision.FILE).is_file()


def test_other_failures_pass_unchanged(capsys: pytest.CaptureFixture[str], refused: StepFailed) -> None:
    other = StepFailed(*refused.diagnostics)
    with pytest.raises(StepFailed) as caught, refused_decisions():
        raise other
    assert caught.value.diagnostics == refused.diagnostics
    assert capsys.readouterr().out == ""
