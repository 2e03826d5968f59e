"""Commits beside a deployment for Git, and mlo killed at any point: what is committed is whole."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import Busy, DeployFailed, StoreFailed
from orchestrator.targets.gitops import repository as git
from orchestrator.targets.gitops.target import GitopsTarget
from tests.targets.gitops_case import (
    Repository,
)


def test_git_commands_wait_and_mlo_waits_for_them(
    repository: Repository, target: GitopsTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.targets.gitops.repository._SECONDS", 0.1)
    repository.put(target, 1, "one")
    held = repository.root / ".git" / "index.lock"
    held.touch()  # as a Git command that reads files for a commit
    with pytest.raises(Busy) as busy:
        repository.put(target, 2, "two")
    assert busy.value.diagnostics[0].code == "E605"
    assert str(held) in busy.value.diagnostics[0].cause
    assert held.exists()
    assert target.observe().revision == 1
    held.unlink()
    repository.put(target, 2, "two")
    assert not held.exists()


def test_a_merge_in_conflict_ends_as_the_refusal_says(repository: Repository, target: GitopsTarget) -> None:
    repository.put(target, 1, "one")
    repository.commit("one")
    repository.git("checkout", "--quiet", "-b", "other")
    repository.put(target, 2, "two")
    repository.commit("two")
    repository.git("checkout", "--quiet", "main")
    repository.put(target, 3, "three")
    repository.commit("three")
    subprocess.run(["git", "-C", str(repository.root), "merge", "--quiet", "other"], check=False, capture_output=True)
    before = repository.files()

    with pytest.raises(DeployFailed) as refused:
        repository.put(target, 4, "two")
    (diagnostic,) = refused.value.diagnostics
    assert diagnostic.cause == "its .mlo-gitops.json has the conflicts of a merge"
    assert repository.files() == before
    said = re.search(r"`(git [^`]* checkout [^`]*)`", diagnostic.remedy)
    assert said is not None
    subprocess.run(["bash", "-c", said[1]], cwd=repository.work, check=True, capture_output=True)
    repository.put(target, 4, "two")
    repository.commit("merged")
    assert target.observe().health == "healthy"
    assert repository.git("log", "--format=%s", "-1", "--merges").strip() == "merged"
    assert not repository.git("diff", "other", "--", "deployments")


@pytest.mark.parametrize("where", ["the root", "the folder", "a folder in it", "another repository"])
def test_what_is_to_be_done_next_commits_any_path_from_anywhere(
    repository: Repository, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, folder = repository.target(path="my deployments/it's"), repository.root / "my deployments" / "it's"
    repository.put(target, 1, "one")
    repository.commit("one")
    other = repository.root / "submodule"
    repository.git("init", "--quiet", str(other))
    (repository.root / ".git" / "info").mkdir(exist_ok=True)
    (repository.root / ".git" / "info" / "exclude").write_text("submodule\n")
    inside = folder / "chart" / "templates"
    stands = {"the root": repository.root, "the folder": folder, "a folder in it": inside, "another repository": other}
    monkeypatch.chdir(stands[where])
    repository.put(target, 2, "two")  # which replaces the folder that the shell stands in
    identity = {f"GIT_{role}_{key}": "me@here" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    script = f"{target.describe().then} --quiet --message two"
    subprocess.run(["bash", "-c", script], env={**os.environ, **identity}, check=True)
    assert repository.is_clean()
    assert repository.git("log", "--format=%s").splitlines() == ["two", "one"]


def test_a_shell_that_came_by_a_link_is_led_to_the_new_folder(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    link.symlink_to(repository.root)
    target = repository.target(path=str(link / "deployments" / "digits"))
    repository.put(target, 1, "one")
    monkeypatch.chdir(link / "deployments" / "digits")  # the system knows it by the path without the link
    assert target.describe().then == f"cd {link}/deployments/digits && git add --all . && git commit"


def test_files_outside_of_a_repository_are_not_said_to_be_committed_by_git_add(
    repository: Repository, tmp_path: Path
) -> None:
    target = repository.target(path=str(tmp_path / "elsewhere" / "digits"))
    assert target.describe().then.endswith("put it into a Git repository and commit it")


_DEPLOY = """
import os, sys
import orchestrator.targets.gitops.swap as swap
from pathlib import Path
from orchestrator.targets.target import Release
from tests.targets.gitops_case import Repository
repository = Repository.__new__(Repository)
repository.root, repository.work = Path(sys.argv[1]), Path(sys.argv[2])
target = repository.target()
if "between-renames" in os.environ["MLO_CRASH_AT"]:
    swap._EXCHANGE = 1 << 30  # as on NFS: EINVAL
if sys.argv[3] == "stop":
    with target.lock():
        target.stop()
else:
    repository.put(target, int(sys.argv[3]), sys.argv[4])
"""


def killed_at(point: str, repository: Repository, *arguments: str) -> None:
    for content in arguments[1:]:
        repository.release(1, content)
    killed = subprocess.run(
        [sys.executable, "-c", _DEPLOY, str(repository.root), str(repository.work), *arguments],
        env={**os.environ, "MLO_CRASH_AT": point},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL


@pytest.mark.processes
@pytest.mark.parametrize("point", ["gitops.started", "gitops.staged", "gitops.exchanged", "gitops.switched"])
def test_a_commit_after_a_kill_at_any_point_holds_the_former_or_the_new_files(
    repository: Repository, target: GitopsTarget, point: str
) -> None:
    repository.put(target, 1, "one")
    one = repository.files()
    (repository.folder / "notes.md").write_text("mine")
    killed_at(point, repository, "2", "two")

    repository.commit("after the kill")
    after = repository.files()
    assert after.pop("notes.md") == b"mine"
    committed = repository.git("ls-files").splitlines()
    assert sorted(committed) == sorted(f"deployments/digits/{file}" for file in [*after, "notes.md"]), "nothing else"
    assert target.observe().health == "healthy"
    assert target.observe().revision == (1 if after == one else 2)

    repository.put(target, 3, "three")
    assert target.observe().revision == 3
    assert sorted(path.name for path in repository.folder.parent.iterdir()) == ["digits"], "nothing is left"
    assert (repository.folder / "notes.md").read_text() == "mine"


@pytest.mark.processes
def test_a_kill_between_two_renames_loses_neither_the_files_nor_the_lock_of_the_index(
    repository: Repository, target: GitopsTarget
) -> None:
    repository.put(target, 1, "one")
    one, lock = repository.files(), repository.root / ".git" / "index.lock"
    killed_at("gitops.between-renames", repository, "2", "two")
    assert repository.files() == {}
    lock.write_text(f"mlo {os.getpid()}\n")  # as if this process had the number of the killed one

    with target.lock():  # what the next command does first
        assert not lock.exists()
        assert repository.files() == one
    assert target.observe().revision == 1
    repository.commit("after the kill")
    repository.put(target, 3, "three")
    assert target.observe().revision == 3


@pytest.mark.processes
@pytest.mark.parametrize("point", ["gitops.rest-staged", "gitops.cleared"])
def test_a_removal_that_is_killed_is_whole_or_was_not_begun(
    repository: Repository, target: GitopsTarget, point: str
) -> None:
    repository.put(target, 1, "one")
    killed_at(point, repository, "stop")
    assert repository.files() == {} or target.observe().health == "healthy"
    with target.lock():
        target.stop()
    assert not repository.folder.parent.exists() or not any(repository.folder.parent.iterdir())


@pytest.mark.processes
def test_without_an_exchange_of_folders_a_kill_between_two_renames_is_settled(
    repository: Repository, target: GitopsTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.targets.gitops.swap._EXCHANGE", 1 << 30)  # as on NFS: EINVAL
    repository.put(target, 1, "one")
    repository.put(target, 2, "two")
    assert target.observe().revision == 2
    repository.put(target, 3, "three")
    two = repository.target()

    def killed(point: str) -> None:
        if point == "gitops.between-renames":
            raise KeyboardInterrupt

    with monkeypatch.context() as dies:
        dies.setattr("orchestrator.targets.gitops.swap.crash_point", killed)
        with pytest.raises(KeyboardInterrupt):
            repository.put(two, 4, "four")
    assert two.observe().revision == 3
    assert not (repository.root / ".git" / "index.lock").exists()


@pytest.mark.processes
def test_commits_that_are_made_all_the_while_never_hold_half_of_a_change(
    repository: Repository, target: GitopsTarget
) -> None:
    repository.put(target, 1, "one")
    repository.commit("one")
    repository.put(target, 2, "two")
    repository.commit("two")
    whole = {repository.git("rev-parse", f"{commit}:deployments/digits").strip() for commit in ("HEAD", "HEAD~1")}
    script = (
        "while [ ! -e stop ]; do git add --all deployments && git write-tree; done 2>/dev/null | sort | uniq > trees"
    )
    with subprocess.Popen(["bash", "-c", script], cwd=repository.root) as adding:
        for revision in range(3, 23):
            repository.put(target, revision, "one" if revision % 2 else "two")
        (repository.root / "stop").touch()
        adding.wait(timeout=60)
    trees = (repository.root / "trees").read_text().split()
    assert {repository.git("rev-parse", f"{tree}:deployments/digits").strip() for tree in trees} == whole


def test_a_lock_that_a_living_mlo_holds_stays(repository: Repository, target: GitopsTarget) -> None:
    repository.put(target, 1, "one")
    around = git.Repository.around(repository.folder)
    assert around is not None
    with around.no_git_command():
        with target.lock():
            pass
        assert (repository.root / ".git" / "index.lock").exists()
    assert not (repository.root / ".git" / "index.lock").exists()


def test_a_full_disk_leaves_no_lock(
    repository: Repository, target: GitopsTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.put(target, 1, "one")
    around = git.Repository.around(repository.folder)
    assert around is not None

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StoreFailed) as caught, around.no_git_command():
            pass
    assert caught.value.diagnostics[0].cause == "no space left on device"
    assert not (repository.root / ".git" / "index.lock").exists()
    repository.put(target, 2, "two")
