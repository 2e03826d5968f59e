"""A deployment as files for Git: what a repository holds after each command, what stays, and what mlo never touches."""

from __future__ import annotations

import json

import pytest
import yaml

from orchestrator.errors import DeployFailed, UsageError
from orchestrator.store.home import Home
from orchestrator.store.store import Store
from orchestrator.targets.gitops.marker import MARKER
from orchestrator.targets.gitops.target import GitopsTarget
from orchestrator.targets.table import placements_beside, target_at
from orchestrator.targets.target import Release, Site
from tests.targets.gitops_case import (
    CHART,
    URL,
    Repository,
    image,
)


def test_chart_and_values_name_the_image_by_its_digest_and_hold_no_weights(
    repository: Repository, target: GitopsTarget
) -> None:
    repository.put(target, 1, "one")

    files = repository.files()
    values = yaml.safe_load(files["values.yaml"])
    assert values["image"]["digest"] == image("one").digest
    assert b"Written by mlo" in files["values.yaml"].splitlines()[0], "comments stay"
    assert files["chart/Chart.yaml"] == (CHART / "Chart.yaml").read_bytes()
    assert not [file for file in files if "model.onnx" in file]
    assert sum(map(len, files.values())) < 200_000
    assert (target.observe().health, target.observe().revision) == ("healthy", 1)


def test_a_second_run_changes_no_byte_in_any_store(repository: Repository, target: GitopsTarget) -> None:
    repository.put(target, 1, "one")
    repository.commit("one")
    before = (repository.folder.stat().st_ino, repository.folder.stat().st_mtime_ns)

    repository.put(target, 2, "one")
    assert repository.is_clean()
    repository.put(repository.target("another-home"), 1, "one")
    assert repository.is_clean()
    assert (repository.folder.stat().st_ino, repository.folder.stat().st_mtime_ns) == before, "it was not written"


def test_a_rollback_restores_the_former_bytes(repository: Repository, target: GitopsTarget) -> None:
    repository.put(target, 1, "one")
    repository.commit("one")
    one = repository.files()
    repository.put(target, 2, "two")
    assert repository.git("diff", "--stat")
    repository.commit("two")

    repository.put(target, 1, "one")

    assert repository.files() == one
    assert not repository.git("diff", "HEAD~1")
    assert target.observe().revision == 1
    assert target.history() == (1, 2)


def test_a_rollback_takes_the_bytes_from_the_store_even_if_the_chart_would_give_others(
    repository: Repository, target: GitopsTarget
) -> None:
    repository.put(target, 1, "one")
    one = repository.files()
    repository.put(target, 2, "two")
    (repository.work / "rendered-one" / "chart" / "Chart.yaml").write_text("name: another\n")

    repository.put(target, 1, "one")

    assert repository.files() == one


def test_a_checkout_of_an_earlier_commit_is_seen(repository: Repository, target: GitopsTarget) -> None:
    repository.put(target, 1, "one")
    repository.commit("one")
    repository.put(target, 2, "two")
    repository.commit("two")
    repository.git("checkout", "--quiet", "HEAD~1")
    assert (target.observe().health, target.observe().revision) == ("healthy", 1)

    other = repository.target("another-home")
    assert other.observe().health == "degraded"
    assert "another store wrote, or another commit" in other.observe().reason


def test_files_changed_by_hand_are_drift_by_name_and_the_next_apply_repairs_them(
    repository: Repository, target: GitopsTarget
) -> None:
    repository.put(target, 1, "one")
    wanted = repository.files()
    (repository.folder / "values.yaml").write_text("replicas: {min: 9}\n")
    (repository.folder / "chart" / "templates" / "service.yaml").unlink()

    observed = target.observe()
    assert (observed.health, observed.revision) == ("degraded", 1)
    assert observed.reason == "chart/templates/service.yaml is missing, values.yaml was changed"

    repository.put(target, 2, "one")
    assert repository.files() == wanted
    assert target.observe().health == "healthy"


def test_files_of_others_stay_the_same_files(repository: Repository, target: GitopsTarget) -> None:
    repository.put(target, 1, "one")
    own = {
        "notes.md": repository.folder / "notes.md",
        "template": repository.folder / "chart" / "templates" / "own.yaml",
        "link": repository.folder / "link",
    }
    own["notes.md"].write_text("mine")
    own["template"].write_text("kind: ConfigMap")
    own["link"].symlink_to("notes.md")
    before = {name: path.lstat().st_ino for name, path in own.items()}

    repository.put(target, 2, "two")
    assert {name: path.lstat().st_ino for name, path in own.items()} == before
    assert own["link"].read_text() == "mine"
    assert target.observe().health == "healthy"

    assert target.stop() == ("except for files that mlo did not write",)
    assert {name: path.lstat().st_ino for name, path in own.items()} == before
    assert sorted(repository.files()) == ["chart/templates/own.yaml", "link", "notes.md"]
    for path in own.values():
        path.unlink()


def test_a_file_of_others_where_mlo_would_write_one_is_refused(repository: Repository, target: GitopsTarget) -> None:
    repository.put(target, 1, "one")
    (repository.folder / "application.yaml").write_text("mine")

    with pytest.raises(DeployFailed) as refused:
        repository.put(repository.target(argo={"repository": URL}), 2, "one")

    assert refused.value.diagnostics[0].code == "E671"
    assert "application.yaml is in the way" in refused.value.diagnostics[0].cause
    assert (repository.folder / "application.yaml").read_text() == "mine"
    assert target.observe().revision == 1
    assert "move" in refused.value.diagnostics[0].remedy
    (repository.folder / "application.yaml").unlink()
    repository.put(repository.target(argo={"repository": URL}), 2, "one")


@pytest.mark.parametrize(
    "what", ["files of others", "a file in its place", "a link", "another deployment", "a conflict"]
)
def test_a_folder_that_is_not_ours_is_refused_before_anything_is_computed(
    repository: Repository, target: GitopsTarget, what: str
) -> None:
    folder = repository.folder
    folder.parent.mkdir()
    if what == "files of others":
        folder.mkdir()
        (folder / "mine.yaml").write_text("mine")
    elif what == "a file in its place":
        folder.write_text("mine")
    elif what == "a link":
        folder.symlink_to(repository.root)
    else:
        folder.mkdir()
        conflict = "<<<<<<< HEAD\n"
        other = json.dumps({"format": 1, "name": "faces", "files": {}})
        (folder / MARKER).write_text(other if what == "another deployment" else conflict)
    before = sorted(path.name for path in repository.root.rglob("*"))

    with pytest.raises(DeployFailed) as refused:
        target.check()

    diagnostic = refused.value.diagnostics[0]
    assert (diagnostic.code, diagnostic.at) == ("E671", ("deploy", "path"))
    assert diagnostic.remedy
    assert sorted(path.name for path in repository.root.rglob("*")) == before


def test_a_marker_that_cannot_be_read_is_made_readable_or_restored(
    repository: Repository, target: GitopsTarget
) -> None:
    repository.put(target, 1, "one")
    repository.commit("one")
    marker = repository.folder / MARKER
    marker.unlink()
    marker.mkdir()
    with pytest.raises(DeployFailed) as refused:
        target.check()
    (diagnostic,) = refused.value.diagnostics
    assert (diagnostic.code, "Is a directory" in diagnostic.cause) == ("E671", True)
    assert f"make it readable, as with `chmod u+r {marker}`" in diagnostic.remedy
    assert f"checkout HEAD -- {MARKER}`" in diagnostic.remedy
    repository.git("-C", str(repository.folder), "checkout", "--quiet", "HEAD", "--", MARKER)
    target.check()


def test_a_marker_of_another_version_asks_for_that_version(repository: Repository, target: GitopsTarget) -> None:
    repository.put(target, 1, "one")
    (repository.folder / MARKER).write_text(json.dumps({"format": 2, "name": "digits"}))
    with pytest.raises(DeployFailed) as refused:
        target.check()
    (diagnostic,) = refused.value.diagnostics
    assert (diagnostic.code, "a newer version of mlo wrote it" in diagnostic.cause) == ("E671", True)
    assert diagnostic.remedy.startswith("run that version of mlo")


@pytest.mark.parametrize("which", ["the folder", "the one above"])
def test_a_folder_that_may_not_be_written_is_refused_before_anything_is_computed(
    repository: Repository, target: GitopsTarget, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.put(target, 1, "one")
    closed = repository.folder if which == "the folder" else repository.folder.parent
    # Whoever runs the tests as root may write anywhere.
    monkeypatch.setattr("os.access", lambda path, mode: path != closed)
    with pytest.raises(DeployFailed) as refused:
        target.check()
    diagnostic = refused.value.diagnostics[0]
    assert (diagnostic.code, diagnostic.cause) == ("E671", f"you may not write to {closed}")


def test_destroying_removes_the_folder_and_what_the_store_has(repository: Repository, target: GitopsTarget) -> None:
    repository.put(target, 1, "one")
    repository.commit("one")
    with target.lock():
        assert target.stop() == ()
    assert not repository.folder.exists()
    seen = target.observe()
    assert (seen.health, seen.reason) == ("stopped", f"{target._folder} has no files of mlo")
    assert target.history() == ()
    repository.commit("removed")
    assert not repository.git("ls-files")


def test_nothing_runs_so_there_is_no_url_and_no_log(target: GitopsTarget) -> None:
    with pytest.raises(UsageError) as no_url:
        target.url()
    assert no_url.value.diagnostics[0].code == "E619"
    with pytest.raises(UsageError) as no_log:
        target.logs(10, follow=False)
    assert no_log.value.diagnostics[0].code == "E615"
    assert "kubectl --namespace default logs" in no_log.value.diagnostics[0].remedy


def test_an_image_without_digest_is_refused(repository: Repository, target: GitopsTarget) -> None:
    release = repository.release(1, "one")
    assert release.image is not None
    unpushed = Release(
        1, release.serving, "onnxruntime", "digits", 1, 60, release.image.model_copy(update={"digest": None})
    )
    target.prepare()
    with pytest.raises(DeployFailed) as refused:
        target.start(unpushed)
    assert refused.value.diagnostics[0].code == "E675"
    assert target.history() == ()
    assert not repository.folder.exists()
    assert "set `image.registry` to a registry that this machine may push to" in refused.value.diagnostics[0].remedy
    target.start(release)
    assert target.history() == (1,)


def test_values_that_name_another_image_are_a_bug_and_nothing_is_written(
    repository: Repository, target: GitopsTarget
) -> None:
    release = repository.release(1, "one")
    values = release.rendered / "values.yaml"
    values.write_text(values.read_text().replace("team/digits", "team/faces"))
    target.prepare()
    with pytest.raises(ValueError, match="team/faces"):
        target.start(release)
    assert not repository.folder.exists()


def test_what_is_written_otherwise_is_a_difference(repository: Repository, target: GitopsTarget) -> None:
    assert target.difference("") is None
    repository.put(target, 1, "one")
    assert target.difference("") is None
    assert repository.target(namespace="models", argo={"repository": URL}).difference("") == (
        "`deploy` differs in `namespace`, `argo`"
    )


def test_what_lies_beside_and_is_of_no_given_spec_is_found_by_its_marker(
    repository: Repository, target: GitopsTarget
) -> None:
    repository.put(target, 1, "one")
    parent = repository.folder.parent
    for name, text in (("old", '{"format": 1, "name": "old", "files": {}}'), ("mine", ""), ("damaged", "{")):
        (parent / name).mkdir()
        (parent / name / (MARKER if text else "notes.md")).write_text(text)
    found = placements_beside(target.placement)
    assert list(found) == ["old"]
    site = Site(Store.open(Home(repository.work / "home")), "old")
    old = target_at(found["old"], site)
    with old.lock():
        assert old.stop() == ()
    assert sorted(path.name for path in parent.iterdir()) == ["damaged", "digits", "mine"]
    assert target.observe().health == "healthy"
