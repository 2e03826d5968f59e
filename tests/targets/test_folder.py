"""A deployment as a folder: what a reader of it sees, what stays, and what mlo never touches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import DeployFailed
from orchestrator.targets.folder.marker import MARKER
from orchestrator.targets.folder.target import FolderTarget
from orchestrator.targets.target import Release


def rendered(root: Path, content: str) -> Path:
    """A serving folder as `render` writes one."""
    serving = root / f"rendered-{content}"
    (serving / "more").mkdir(parents=True)
    (serving / "model.tflite").write_text(content)
    (serving / "more" / "model.json").write_text("{}")
    return serving


def put(target: FolderTarget, root: Path, revision: int, content: str) -> None:
    target.prepare()
    target.start(Release(revision, rendered(root, content), "litert", "digits", 1, 60))
    target.switch(revision)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deployed"


@pytest.fixture
def target(folder: Path) -> FolderTarget:
    return FolderTarget(folder, "digits", keep=2)


def test_the_link_leads_to_the_revision_in_use(target: FolderTarget, folder: Path, tmp_path: Path) -> None:
    put(target, tmp_path, 1, "one")
    assert (folder / "current" / "model.tflite").read_text() == "one"

    target.prepare()
    target.start(Release(2, rendered(tmp_path, "two"), "litert", "digits", 1, 60))
    assert (folder / "current" / "model.tflite").read_text() == "one"

    target.switch(2)
    assert (folder / "current" / "model.tflite").read_text() == "two"
    assert target.observe().revision == 2
    assert target.observe().health == "healthy"


def test_the_newest_revisions_stay_and_a_rollback_only_moves_the_link(
    target: FolderTarget, folder: Path, tmp_path: Path
) -> None:
    for revision, content in enumerate(("one", "two", "three"), start=1):
        put(target, tmp_path, revision, content)
    assert sorted(path.name for path in (folder / "revisions").iterdir()) == ["2", "3"]
    inode = (folder / "revisions" / "2").stat().st_ino

    target.start(Release(2, tmp_path / "rendered-two", "litert", "digits", 1, 60))
    target.switch(2)

    assert (folder / "current" / "model.tflite").read_text() == "two"
    assert (folder / "revisions" / "2").stat().st_ino == inode
    assert sorted(path.name for path in (folder / "revisions").iterdir()) == ["2", "3"]


def test_a_file_that_somebody_changed_is_drift_and_the_next_deploy_repairs_it(
    target: FolderTarget, folder: Path, tmp_path: Path
) -> None:
    put(target, tmp_path, 1, "one")
    (folder / "revisions" / "1" / "model.tflite").write_text("another")
    assert target.observe().health == "degraded"

    target.start(Release(1, tmp_path / "rendered-one", "litert", "digits", 1, 60))
    target.switch(1)

    assert target.observe().health == "healthy"
    assert (folder / "current" / "model.tflite").read_text() == "one"


@pytest.mark.parametrize(
    "what", ["a file of somebody's", "another deployment", "a file in its place", "a broken marker"]
)
def test_files_that_mlo_did_not_write_are_not_touched(
    target: FolderTarget, folder: Path, tmp_path: Path, what: str
) -> None:
    if what == "a file in its place":
        folder.write_text("mine")
    else:
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
    if what == "another deployment":
        (folder / "mine.txt").unlink()
        put(FolderTarget(folder, "other", keep=2), tmp_path, 1, "one")
    if what == "a broken marker":
        (folder / MARKER).write_text("{")

    with pytest.raises(DeployFailed):
        target.check()
    with pytest.raises(DeployFailed) as refused:
        target.prepare()

    assert refused.value.diagnostics[0].code == "E620"
    assert "deploy: path" in refused.value.diagnostics[0].remedy


def test_a_folder_that_cannot_be_made_is_found_before_anything_is_computed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refusals = {
        tmp_path / "file" / "deployed": f"{tmp_path}/file is not a folder",
        Path("/proc/deployed"): "no folder can be made in /proc: ",
    }
    for folder, cause in refusals.items():
        with pytest.raises(DeployFailed) as refused:
            FolderTarget(folder, "digits", keep=2).check()
        diagnostic = refused.value.diagnostics[0]
        assert (diagnostic.code, diagnostic.at) == ("E620", ("deploy", "path"))
        assert diagnostic.cause.startswith(cause)
    FolderTarget(tmp_path / "a" / "b", "digits", keep=2).check()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"], "nothing is left"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_found_before_anything_is_computed(tmp_path: Path) -> None:
    folder = tmp_path / "deployed"
    folder.mkdir(mode=0o555)
    for place in (folder, folder / "below"):
        with pytest.raises(DeployFailed) as refused:
            FolderTarget(place, "digits", keep=2).check()
        assert refused.value.diagnostics[0].cause == f"you may not write to {folder}"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"format": 1}, "an older version of mlo wrote its .mlo-deployed.json: it has format 1, and this one reads 2"),
        ({"format": 3}, "a newer version of mlo wrote"),
        ({"format": None}, "it has no format"),
        ({"more": 1}, "more: extra inputs are not permitted"),
        ({"revisions": {"1": {"digest": "ab", "backend": "litert", "used": 1}}}, "revisions.1.used: "),
        ({"revisions": []}, "revisions: "),
    ],
)
def test_a_marker_that_this_version_cannot_read_is_refused_with_the_reason(
    target: FolderTarget, folder: Path, tmp_path: Path, change: dict[str, Any], cause: str
) -> None:
    put(target, tmp_path, 1, "one")
    marker = json.loads((folder / MARKER).read_text())
    (folder / MARKER).write_text(json.dumps({**marker, **change}))

    with pytest.raises(DeployFailed) as refused:
        target.prepare()

    assert refused.value.diagnostics[0].code == "E620"
    assert cause in refused.value.diagnostics[0].cause
    observed = target.observe()
    assert observed.health == "degraded"
    assert cause in observed.reason


def test_a_modified_revision_in_use_is_degraded_with_the_reason(
    target: FolderTarget, folder: Path, tmp_path: Path
) -> None:
    put(target, tmp_path, 1, "one")
    (folder / "revisions" / "1" / "model.tflite").write_text("changed")
    observed = target.observe()
    assert (observed.health, observed.reason) == ("degraded", "files of revision 1 are missing or were changed")
    assert target.history() == (1,)


def test_stopping_only_removes_what_was_deployed(target: FolderTarget, folder: Path, tmp_path: Path) -> None:
    put(target, tmp_path, 1, "one")
    put(target, tmp_path, 2, "two")
    (folder / "notes.txt").write_text("mine")

    assert target.stop() == ("except for files that mlo did not write",)

    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert target.observe().health == "stopped"

    (folder / "notes.txt").unlink()
    put(target, tmp_path, 3, "three")
    target.stop()
    assert not folder.exists()


def test_a_revision_that_is_not_there_cannot_be_switched_to(target: FolderTarget, tmp_path: Path) -> None:
    put(target, tmp_path, 1, "one")
    with pytest.raises(DeployFailed) as refused:
        target.switch(7)
    assert refused.value.diagnostics[0].code == "E607"
    assert target.observe().revision == 1


def test_dropping_does_not_affect_the_revision_in_use(target: FolderTarget, folder: Path, tmp_path: Path) -> None:
    put(target, tmp_path, 1, "one")
    target.start(Release(2, rendered(tmp_path, "two"), "litert", "digits", 1, 60))
    target.drop(2)
    target.drop(1)
    target.drop(9)
    assert [path.name for path in (folder / "revisions").iterdir()] == ["1"]


_DEPLOY = """
import sys
from pathlib import Path
from orchestrator.targets.folder.target import FolderTarget
from orchestrator.targets.target import Release
target = FolderTarget(Path(sys.argv[1]), "digits", keep=2)
target.prepare()
revision = int(sys.argv[3])
target.start(Release(revision, Path(sys.argv[2]), "litert", "digits", 1, 60))
target.switch(revision)
"""


def killed_at(point: str, folder: Path, serving: Path, revision: int) -> None:
    """A deploy of `serving` that is killed at `point`."""
    killed = subprocess.run(
        [sys.executable, "-c", _DEPLOY, str(folder), str(serving), str(revision)],
        env={**os.environ, "MLO_CRASH_AT": point},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL


@pytest.mark.processes
@pytest.mark.parametrize("point", ["folder.placed", "folder.started", "folder.switched", "atomic.after-rename"])
def test_a_run_killed_at_any_point_leaves_a_whole_revision_in_use(
    target: FolderTarget, folder: Path, tmp_path: Path, point: str
) -> None:
    put(target, tmp_path, 1, "one")
    serving = rendered(tmp_path, "two")
    killed_at(point, folder, serving, 2)

    assert target.observe().health == "healthy"
    assert (folder / "current" / "model.tflite").read_text() in {"one", "two"}

    target.prepare()
    target.start(Release(2, serving, "litert", "digits", 1, 60))
    target.switch(2)
    assert (folder / "current" / "model.tflite").read_text() == "two"
    assert target.observe().health == "healthy"


@pytest.mark.processes
@pytest.mark.parametrize("point", ["folder.copied", "folder.placed", "folder.started"])
@pytest.mark.parametrize("undo", ["drop and stop", "stop"])
def test_a_first_deploy_killed_at_any_point_leaves_a_folder_that_can_be_deployed_into(
    target: FolderTarget, folder: Path, tmp_path: Path, point: str, undo: str
) -> None:
    killed_at(point, folder, rendered(tmp_path, "one"), 1)

    if undo == "drop and stop":
        target.drop(1)
        assert not (folder / "revisions").exists()
    target.stop()
    assert not folder.exists()

    put(target, tmp_path, 2, "two")
    assert target.observe().health == "healthy"


def test_a_copy_that_is_not_what_was_rendered_is_dropped(
    target: FolderTarget, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another(source: Path, place: Path) -> None:
        del source
        place.mkdir(parents=True)
        (place / "model.tflite").write_text("another")

    target.prepare()
    with monkeypatch.context() as disturbed:
        disturbed.setattr("orchestrator.targets.folder.target.copy_folder_atomic", another)
        with pytest.raises(DeployFailed) as refused:
            target.start(Release(1, rendered(tmp_path, "one"), "litert", "digits", 1, 60))
    assert refused.value.diagnostics[0].code == "E621"
    told = "keep other programs from writing to the folder, then run the same command again"
    assert refused.value.diagnostics[0].remedy == told

    target.drop(1)
    assert not (folder / "revisions").exists()
    target.start(Release(1, tmp_path / "rendered-one", "litert", "digits", 1, 60))
    target.drop(1)
    target.stop()
    target.check()
