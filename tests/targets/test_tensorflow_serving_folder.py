"""A deployment as a folder of versions, as TensorFlow Serving reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.backends.backend import ServingSettings
from orchestrator.backends.tensorflow_serving.backend import TENSORFLOW_SERVING
from orchestrator.backends.tensorflow_serving.versions import served_versions
from orchestrator.errors import DeployFailed
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.targets.folder.marker import MARKER
from orchestrator.targets.folder.target import FolderTarget
from orchestrator.targets.target import Release

_SIGNATURE = Signature(
    (Tensor("x", "float32", ("batch", 3)),), (Tensor("y", "float32", ("batch", 3)),), {"batch": (1, 8)}, "batch"
)


def _rendered(root: Path, content: str) -> Path:
    variant, folder = root / f"variant-{content}" / "saved_model", root / f"rendered-{content}"
    if not folder.exists():
        variant.mkdir(parents=True)
        (variant / "saved_model.pb").write_text(content)
        settings = ServingSettings(
            name="digits", backend="tensorflow-serving", variant="saved-model-fp32", format="saved-model",
            precision="fp32", signature=_SIGNATURE, cpus=1.0, memory=2**30, max_batch_size=8, max_delay=0.0,
            startup_seconds=60, drain_seconds=5, model_digest="0" * 64, decision_digest="2" * 64,
            tools={},
        )  # fmt: skip
        TENSORFLOW_SERVING.write_folder(settings, variant.parent, folder)
    return folder


def _put(target: FolderTarget, root: Path, revision: int, content: str) -> None:
    target.prepare()
    target.start(Release(revision, _rendered(root, content), "tensorflow-serving", "digits", 1, 60))
    target.switch(revision)


def _versions(folder: Path) -> tuple[tuple[int, ...], dict[str, int]]:
    found = served_versions(folder)
    assert found is not None
    return found.versions, dict(found.labels)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "deployed"


@pytest.fixture
def target(folder: Path) -> FolderTarget:
    return FolderTarget(folder, "digits", keep=2)


def test_each_revision_is_a_version_and_the_labels_follow_the_one_in_use(
    target: FolderTarget, folder: Path, tmp_path: Path
) -> None:
    _put(target, tmp_path, 1, "one")
    assert _versions(folder) == ((1,), {"stable": 1})
    assert (folder / "models" / "digits" / "1" / "saved_model.pb").read_text() == "one"

    target.start(Release(2, _rendered(tmp_path, "two"), "tensorflow-serving", "digits", 1, 60))
    assert _versions(folder) == ((1, 2), {"stable": 1}), "loaded already, and not asked yet"
    target.switch(2)
    assert _versions(folder) == ((1, 2), {"stable": 2, "previous": 1})
    observed = target.observe()
    assert (observed.revision, observed.health, observed.backend) == (2, "healthy", "tensorflow-serving")

    _put(target, tmp_path, 3, "three")
    assert _versions(folder) == ((2, 3), {"stable": 3, "previous": 2})


def test_going_back_moves_labels_and_copies_nothing(target: FolderTarget, folder: Path, tmp_path: Path) -> None:
    _put(target, tmp_path, 1, "one")
    _put(target, tmp_path, 2, "two")
    inode = (folder / "models" / "digits" / "1").stat().st_ino
    _put(target, tmp_path, 1, "one")
    assert _versions(folder) == ((1, 2), {"stable": 1, "previous": 2})
    assert (folder / "models" / "digits" / "1").stat().st_ino == inode
    # What is in use stays, though it is not among the newest two.
    _put(target, tmp_path, 3, "three")
    assert _versions(folder) == ((1, 3), {"stable": 3, "previous": 1})


def test_a_candidate_that_is_dropped_leaves_the_live_one(target: FolderTarget, folder: Path, tmp_path: Path) -> None:
    _put(target, tmp_path, 1, "one")
    target.start(Release(2, _rendered(tmp_path, "two"), "tensorflow-serving", "digits", 1, 60))
    target.drop(2)
    assert _versions(folder) == ((1,), {"stable": 1})


def test_everything_that_was_deployed_is_removed_again(target: FolderTarget, folder: Path, tmp_path: Path) -> None:
    _put(target, tmp_path, 1, "one")
    _put(target, tmp_path, 2, "two")
    (folder / "notes.txt").write_text("mine")
    target.stop()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_another_format_replaces_the_folders_content(target: FolderTarget, folder: Path, tmp_path: Path) -> None:
    _put(target, tmp_path, 1, "one")
    serving = tmp_path / "tflite"
    serving.mkdir()
    (serving / "model.tflite").write_text("two")
    target.start(Release(2, serving, "litert", "digits", 1, 60))
    target.switch(2)
    assert sorted(path.name for path in folder.iterdir()) == [MARKER, "current", "revisions"]


def test_a_modified_configuration_is_not_overwritten(target: FolderTarget, folder: Path, tmp_path: Path) -> None:
    _put(target, tmp_path, 1, "one")
    (folder / "models.config").write_text("model_config_list {}")
    with pytest.raises(DeployFailed) as failure:
        _put(target, tmp_path, 2, "two")
    (told,) = failure.value.diagnostics
    assert told.code == "E620"
    assert "models.config cannot be used: it is not a file that mlo writes" in told.cause
    assert (folder / "models.config").read_text() == "model_config_list {}"
