"""Remains of killed processes are swept, results that no deployment needs are collected, and those in use are kept."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable

import pytest

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import Busy, StoreFailed
from orchestrator.store.atomic import TEMPORARY_PREFIX
from orchestrator.store.digest import Manifest
from orchestrator.store.gc import collect, sweep
from orchestrator.store.home import Home
from orchestrator.store.locks import lock
from orchestrator.store.receipts import Receipt, Receipts
from orchestrator.store.state import Deployment, Image, Intent, PlacementRecord, Revision, StateFile
from orchestrator.store.store import Store
from orchestrator.store.trees import TreeStore
from orchestrator.store.user_code import NO_USER_CODE

Spawn = Callable[..., "subprocess.Popen[str]"]

_WORK = """
import sys
from pathlib import Path
from orchestrator.store.home import Home
from orchestrator.store.store import Store

home = Home(Path(sys.argv[1]))
with Store.at(home).scratch_folder() as scratch:
    (scratch / "output").mkdir()
    (scratch / "output" / "half").write_bytes(b"x" * 1000)
    (scratch / "output").chmod(0o555)
    print(scratch, flush=True)
    sys.stdin.readline()
    print((scratch / "output" / "half").stat().st_size)
"""


def _done(home: Home, name: str, content: str, deployment: str = "digits") -> Manifest:
    """A finished step: its tree and its receipt."""
    with Store.at(home).scratch_folder() as scratch:
        (scratch / "output").mkdir()
        (scratch / "output" / name).write_text(content)
        manifest = TreeStore(home).commit(scratch / "output")
    Receipts(home).write(
        Receipt(
            key=f"{name}-{content}",
            step=name,
            kind=name,
            deployment=deployment,
            outcome="done",
            parts={},
            manifest=manifest,
            summary={},
            error=None,
            found=NO_USER_CODE,
            seconds=1.0,
            peak_bytes=None,
            started="",
            version="0.1.0",
        )
    )
    return manifest


def _deployment(rendered: str, history: tuple[Revision, ...] = ()) -> Deployment:
    return Deployment(
        name="digits",
        placement=PlacementRecord(target="local", version=1, settings={}),
        highest=2,
        revision=2,
        backend="onnxruntime",
        variant="onnx-fp32",
        endpoint="",
        spec_file="",
        spec_digest="",
        decision_digest="",
        model_digest="",
        rendered_digest=rendered,
        history=history,
    )


def _revision(rendered: str, imported: str) -> Revision:
    return Revision(
        revision=1,
        backend="onnxruntime",
        variant="onnx-fp32",
        rendered_digest=rendered,
        deployed="",
        spec_digest="",
        decision_digest="",
        imported_digest=imported,
        gates={},
        threads=1,
        placement=PlacementRecord(target="local", version=1, settings={}),
    )


@pytest.mark.processes
def test_scratch_folders_are_removed_after_their_owner_and_not_before(home: Home, spawn: Spawn) -> None:
    killed, alive = spawn(_WORK, home.root), spawn(_WORK, home.root)
    for process in (killed, alive):
        assert process.stdout is not None
        process.stdout.readline()
    killed.kill()
    killed.wait()
    assert len(list(home.scratch.iterdir())) == 4, "two folders, each with its owner file"
    assert sweep(Store.at(home)) == 1000
    assert len(list(home.scratch.iterdir())) == 2
    out, err = alive.communicate("go\n", timeout=60)
    assert out == "1000\n", err
    assert list(home.scratch.iterdir()) == []


def test_scratch_folders_without_an_owner_are_removed_after_a_day(home: Home) -> None:
    old, young = home.scratch / "old", home.scratch / "young"
    for folder in (old, young):
        folder.mkdir()
        (folder / "file").write_bytes(b"12")
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    assert sweep(Store.at(home)) == 2
    assert list(home.scratch.iterdir()) == [young]


def test_stray_temporaries_are_swept_from_every_folder(home: Home) -> None:
    _done(home, "convert", "1")
    places = (home.root, home.receipts, home.receipts / "latest", home.locks, *home.trees.glob("??"))
    for folder in places:
        (folder / f"{TEMPORARY_PREFIX}stray").write_bytes(b"12")
    assert sweep(Store.at(home)) == 2 * len(places)
    assert not list(home.root.rglob(f"{TEMPORARY_PREFIX}*"))


def test_only_results_that_no_deployment_needs_are_collected(home: Home) -> None:
    old, new, other = _done(home, "convert", "1"), _done(home, "convert", "2"), _done(home, "convert", "3", "other")
    receipts, trees = Receipts(home), TreeStore(home)
    assert collect(Store.at(home), keep_receipts={"convert-1"}) == 0
    assert collect(Store.at(home)) > old.size
    assert collect(Store.at(home)) == 0
    assert list(receipts.all_keys()) == ["convert-2", "convert-3"]
    assert sorted(trees.digests()) == sorted([new.digest, other.digest])
    assert trees.verify(new, deep=True) is None


def test_trees_that_the_state_needs_for_a_rollback_are_kept(home: Home) -> None:
    manifests = [_done(home, "render", content) for content in "12345"]
    history = (_revision(manifests[1].digest, manifests[2].digest),)
    StateFile(home).update(lambda state: state.with_deployment(_deployment(manifests[0].digest, history)))
    collect(Store.at(home))
    assert list(Receipts(home).all_keys()) == ["render-1", "render-2", "render-3", "render-5"]
    assert [TreeStore(home).holds(manifest.digest) for manifest in manifests] == [True, True, True, False, True]


def test_the_results_of_a_destroyed_deployment_are_collected(home: Home) -> None:
    gone, other = _done(home, "convert", "1"), _done(home, "convert", "2", "other")
    Receipts(home).forget("digits")
    assert collect(Store.at(home)) > gone.size
    assert list(TreeStore(home).digests()) == [other.digest]


def test_the_results_of_steps_that_a_plan_no_longer_has_are_collected(home: Home) -> None:
    _done(home, "convert", "1")
    kept, other = _done(home, "import", "2"), _done(home, "convert", "3", "other")
    Receipts(home).forget("digits", but={"import"})
    collect(Store.at(home))
    assert sorted(TreeStore(home).digests()) == sorted([kept.digest, other.digest])


def test_what_was_never_deployed_is_kept_for_a_month_after_its_last_use(home: Home) -> None:
    long_ago = time.time() - 31 * 24 * 3600
    for name in ("draft", "used", "digits"):
        _done(home, "convert", name, name)
    StateFile(home).update(lambda state: state.with_deployment(_deployment("")))
    for entry in (home.receipts / "latest").iterdir():
        os.utime(entry, (long_ago, long_ago))
    Receipts(home).remember("used", "convert", "convert-used")
    collect(Store.at(home))
    assert list(Receipts(home).all_keys()) == ["convert-digits", "convert-used"]


def test_the_trees_of_a_change_that_was_interrupted_are_kept(home: Home) -> None:
    serving, begun, _ = (_done(home, "render", content) for content in "123")
    deployment = _deployment(serving.digest)
    intent = Intent.now("deploy", 3, deployment.placement, _deployment(begun.digest))
    StateFile(home).update(lambda state: state.with_deployment(deployment.with_intent(intent)))
    collect(Store.at(home))
    assert TreeStore(home).holds(begun.digest), "the next run adopts it if traffic has been switched to it"


def test_a_receipt_that_cannot_be_read_and_a_tree_without_one_are_collected(home: Home) -> None:
    with Store.at(home).scratch_folder() as scratch:
        (scratch / "lonely").write_bytes(b"12")
        TreeStore(home).commit(scratch)
    (home.receipts / "torn.json").write_bytes(b"{")
    assert collect(Store.at(home)) == 3
    assert list(TreeStore(home).digests()) == []
    assert list(Receipts(home).all_keys()) == []


@pytest.mark.processes
def test_nothing_is_collected_while_a_run_uses_the_store(home: Home, spawn: Spawn) -> None:
    _done(home, "convert", "1")
    _done(home, "convert", "2")
    process = spawn(_WORK, home.root)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(Busy, match=f"process {process.pid}"):
        collect(Store.at(home))
    assert len(list(Receipts(home).all_keys())) == 2
    process.kill()
    process.wait()
    assert collect(Store.at(home)) > 0


def test_lock_files_without_a_holder_are_collected(home: Home) -> None:
    with lock(home.locks / "held.lock", timeout=0, info={"what": "work"}):
        with lock(home.locks / "free.lock", timeout=0, info={"what": "work"}):
            pass
        assert collect(Store.at(home)) > 0
        assert sorted(file.name for file in home.locks.iterdir()) == ["held.lock", "in-use.lock"]
        with pytest.raises(Busy), lock(home.locks / "held.lock", timeout=0, info={"what": "more"}):
            pass


def test_nothing_is_collected_when_the_state_cannot_be_read(home: Home) -> None:
    _done(home, "convert", "1")
    _done(home, "convert", "2")
    home.state_file.write_bytes(b"{")
    with pytest.raises(StoreFailed):
        collect(Store.at(home))
    assert len(list(Receipts(home).all_keys())) == 2


def test_the_receipt_of_a_failed_step_is_collected_once_replaced(home: Home) -> None:
    receipts = Receipts(home)
    _done(home, "convert", "1")
    done = receipts.read("convert-1")
    assert done is not None
    receipts.write(
        done.model_copy(
            update={"key": "failed-1", "outcome": "failed", "manifest": None, "error": Diagnostic("E410", "no")}
        )
    )
    receipts.write(
        done.model_copy(
            update={"key": "failed-2", "outcome": "failed", "manifest": None, "error": Diagnostic("E410", "no")}
        )
    )
    collect(Store.at(home))
    assert list(receipts.all_keys()) == ["failed-2"]


def test_what_is_known_of_images_goes_after_a_month_unless_they_are_deployed(home: Home) -> None:
    old, deployed, new = (home.images / name for name in ("a" * 64, "b" * 64, "c" * 64))
    said_long_ago, said_now = home.hashes / "1.json", home.hashes / "2.json"
    for folder in (old, deployed, new):
        folder.mkdir(parents=True)
        (folder / "image.json").write_text("{}")
    home.hashes.mkdir()
    for file in (said_long_ago, said_now):
        file.write_text("{}")
    then = time.time() - 31 * 24 * 3600
    for path in (old, deployed, said_long_ago):
        os.utime(path, (then, then))
    image = Image(name="digits:1", id=f"sha256:{deployed.name}", platform="linux/amd64")
    history = (_revision("d", "d").model_copy(update={"image": image}),)
    StateFile(home).update(lambda state: state.with_deployment(_deployment("d", history)))
    collect(Store.at(home))
    assert sorted(home.images.iterdir()) == [deployed, new]
    assert list(home.hashes.iterdir()) == [said_now]
