"""What a command shows when nothing won."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orchestrator.artifacts.decision import Decision
from orchestrator.cli.main import cli
from orchestrator.cli.refused import refused_decisions
from orchestrator.errors import SpecInvalid, StepFailed, UsageError
from orchestrator.select.step import select
from orchestrator.steps.context import StepError
from orchestrator.store.home import Home
from orchestrator.store.receipts import Receipt
from orchestrator.store.store import Store
from orchestrator.store.user_code import NO_USER_CODE
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


def _explained(*arguments: str) -> None:
    cli.main(["explain", *arguments], prog_name="mlo", standalone_mode=False)


def test_the_decision_is_explained_by_the_name_too(
    refused: StepFailed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused.explained_in is not None
    monkeypatch.setenv("MLO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    store = Store.open(Home(tmp_path / "home"))
    with store.scratch_folder() as scratch:
        shutil.copytree(refused.explained_in, scratch / "output")
        manifest = store.trees.commit(scratch / "output")
    receipt = {"key": "0" * 64, "step": "select", "kind": "select", "deployment": "digits", "outcome": "failed"}
    more = {"parts": {}, "summary": {}, "seconds": 1.0, "peak_bytes": None, "started": "", "version": "1"}
    error = refused.diagnostics[0]
    store.receipts.write(
        Receipt.model_validate({**receipt, **more, "manifest": manifest, "error": error, "found": NO_USER_CODE})
    )

    _explained("digits")
    shown = " ".join(capsys.readouterr().out.split())
    assert "no candidate meets the SLO" in shown
    assert "onnx-fp32" in shown
    _explained("digits", "onnx-fp32")
    assert "over the limit of 20 ms" in " ".join(capsys.readouterr().out.split())

    Path("digits").mkdir()  # as the folder of the spec is often called
    _explained("digits")
    assert "no candidate meets the SLO" in " ".join(capsys.readouterr().out.split())
    Path("digits").rmdir()
    Path("digits").write_text("no spec", encoding="utf-8")
    _explained("digits")
    assert "no candidate meets the SLO" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SpecInvalid):
        _explained("./digits")

    with pytest.raises(UsageError) as unknown:
        _explained("digits", "onnx-fp23")
    told = unknown.value.diagnostics[0]
    assert (told.code, told.remedy) == (
        "E217",
        "did you mean `onnx-fp32`; or give the spec: mlo explain SPEC onnx-fp23",
    )
    with pytest.raises(UsageError) as nothing:
        _explained("faces")
    assert nothing.value.diagnostics[0].code == "E602"
    assert "mlo explain faces.yaml" in nothing.value.diagnostics[0].remedy


def test_other_failures_pass_unchanged(capsys: pytest.CaptureFixture[str], refused: StepFailed) -> None:
    other = StepFailed(*refused.diagnostics)
    with pytest.raises(StepFailed) as caught, refused_decisions():
        raise other
    assert caught.value.diagnostics == refused.diagnostics
    assert capsys.readouterr().out == ""
