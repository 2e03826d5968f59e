"""Who changes a deployment, from which commit, and why, as `mlo history` shows it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.release.live import Live
from orchestrator.release.origin import Reason, change_now
from orchestrator.store.state import Change, Deployment, PlacementRecord, Revision
from orchestrator.targets.target import Observed

PLACE = PlacementRecord(target="local", version=1, settings={})


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A spec in a folder of a repository with one commit."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = tmp_path / "specs"
    folder.mkdir()
    (folder / "digits.yaml").write_text("slo: 10ms\n", encoding="utf-8")
    for command in (
        ["init", "--quiet"],
        ["add", "."],
        ["-c", "user.name=Ann", "-c", "user.email=ann@example.com", "commit", "--quiet", "--message", "Deploy"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return folder / "digits.yaml"


def _head(spec: Path) -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=spec.parent, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.processes
def test_a_change_records_the_commit_and_whether_the_spec_is_of_it(spec: Path) -> None:
    reason = Reason("deploy", "replaces revision 1", "the new service level", spec)
    change = change_now(reason)
    assert (change.commit, change.modified) == (_head(spec), False)
    assert change.why == "replaces revision 1: the new service level"
    assert change.user.endswith(f"@{os.uname().nodename}")

    spec.write_text("slo: 9ms\n", encoding="utf-8")
    assert change_now(reason).modified
    new = spec.with_name("new.yaml")
    new.write_text("", encoding="utf-8")
    assert change_now(replace(reason, spec_file=new)).modified


@pytest.mark.processes
def test_a_hook_of_another_repository_does_not_mislead(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert change_now(Reason("deploy", "first deployment", "", spec)).commit is not None


def test_outside_of_a_repository_and_without_git_there_is_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.touch()
    assert change_now(Reason("deploy", "first deployment", "", spec)).commit is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert change_now(Reason("deploy", "first deployment", "", spec)).commit is None


def _revision(number: int, *changes: Change) -> Revision:
    return Revision(
        revision=number, backend="onnxruntime", variant="onnx-fp32", rendered_digest=f"r{number}",
        deployed="2026-01-01T00:00:00+00:00", spec_digest="", decision_digest="", imported_digest="", gates={},
        threads=1, placement=PLACE, changes=changes,
    )  # fmt: skip


def _live(*history: Revision) -> Live:
    last = history[-1]
    deployment = Deployment(
        name="digits", placement=PLACE, revision=last.revision, highest=2, backend="onnxruntime", variant="onnx-fp32",
        endpoint="http://127.0.0.1:1", spec_file="/spec.yaml", spec_digest="", decision_digest="", model_digest="",
        rendered_digest=last.rendered_digest, history=history,
    )  # fmt: skip
    return Live(deployment, Observed(running=True, health="healthy", reason="", endpoint=None, revision=last.revision))


DEPLOYED = Change(op="deploy", at="2026-01-01T10:00:00+00:00", user="ann@build", why="first deployment")
BACK = Change(op="rollback", at="2026-01-02T10:00:00+00:00", user="bob@desk", why="rollback from revision 2: slow")


def test_after_a_rollback_the_plan_says_that_an_apply_would_undo_it() -> None:
    live = _live(_revision(2, DEPLOYED), _revision(1, DEPLOYED, BACK))
    by = "the rollback of 2026-01-02T10:00:00+00:00 by bob@desk (rollback from revision 2: slow)"
    assert live.compare("r2") == (
        "~",
        f"replaces revision 1 and undoes {by}: it brings back what revision 2 was",
    )
    assert live.compare("r3") == ("~", f"replaces revision 1 and undoes {by}")
    status, reason = live.compare(None)
    assert status == "known after run"
    assert f"revision 1 serves after {by}, which an apply would undo" in reason
    assert live.compare("r1") == ("=", "revision 1 serves and is healthy")


def test_without_a_rollback_nothing_is_undone() -> None:
    live = _live(_revision(1, DEPLOYED), _revision(2, DEPLOYED))
    assert live.compare("r3") == ("~", "replaces revision 2")
