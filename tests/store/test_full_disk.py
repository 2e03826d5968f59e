"""A full or read-only disk is reported with what to do, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.errors import StoreFailed
from orchestrator.store.atomic import TEMPORARY_PREFIX, write_atomic
from orchestrator.store.digest import Manifest, StatCache, digest_file
from orchestrator.store.home import Home
from orchestrator.store.locks import lock
from orchestrator.store.receipts import Receipt, Receipts
from orchestrator.store.state import State, StateFile
from orchestrator.store.store import Store
from orchestrator.store.trees import TreeStore
from orchestrator.store.user_code import NO_USER_CODE

Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "mlo-test", str(folder)]
    if os.getuid() != 0:
        pytest.skip("mounting a small disk needs root")
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _receipt(manifest: Manifest, key: str = "key", summary: str = "") -> Receipt:
    return Receipt(
        key=key,
        step="convert",
        kind="convert",
        deployment="digits",
        outcome="done",
        parts={},
        manifest=manifest,
        summary={"text": summary},
        error=None,
        found=NO_USER_CODE,
        seconds=1.0,
        peak_bytes=None,
        started="",
        version="0.1.0",
    )


def _fill(folder: Path) -> Path:
    """Use all the space that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    return ballast


def test_a_full_disk_is_reported_with_what_to_do_and_loses_nothing(small_disk: Path) -> None:
    home = Home(small_disk / ".mlo")
    home.prepare()
    trees, receipts, state = TreeStore(home), Receipts(home), StateFile(home)
    with Store.at(home).scratch_folder() as scratch:
        (scratch / "output").mkdir()
        (scratch / "output" / "model").write_bytes(b"m" * 10_000)
        manifest = trees.commit(scratch / "output")
    receipts.write(_receipt(manifest))
    kept = state.update(lambda before: State(deployments=before.deployments, serial=before.serial + 1))
    ballast = _fill(small_disk)

    attempts: list[tuple[Callable[[], None], Path]] = [
        (lambda: receipts.write(_receipt(manifest, "other", "x" * 10_000)), home.receipts),
        (lambda: receipts.write(_receipt(manifest, "key", "x" * 10_000)), home.receipts),
        (lambda: write_atomic(home.state_file, b"x" * 10_000), home.state_file),
    ]
    for attempt, path in attempts:
        with pytest.raises(StoreFailed) as caught:
            attempt()
        diagnostic = caught.value.diagnostics[0]
        assert diagnostic.code == "E701"
        assert diagnostic.message.startswith(f"cannot write {path}")
        assert diagnostic.cause == "no space left on device"
        assert "0 bytes left" in diagnostic.remedy
        assert "mlo gc" in diagnostic.remedy
    cache = StatCache(home)
    digest_file(Path(__file__), cache)
    cache.save()
    with lock(home.locks / "new.lock", timeout=0, info={"what": "holding on a full disk"}):
        pass

    assert receipts.read("key") == _receipt(manifest)
    assert receipts.read("other") is None
    assert receipts.damage("other") == ""
    assert trees.verify(manifest, deep=True) is None
    assert state.read() == kept
    assert not list(home.root.rglob(f"{TEMPORARY_PREFIX}*"))

    ballast.unlink()
    receipts.write(_receipt(manifest, "other", "x" * 10_000))
    assert receipts.read("other") is not None


def test_a_disk_that_fills_up_while_a_tree_is_committed_leaves_a_result_or_none(small_disk: Path) -> None:
    home = Home(small_disk / ".mlo")
    home.prepare()
    trees = TreeStore(home)
    with Store.at(home).scratch_folder() as scratch:
        (scratch / "output").mkdir()
        for number in range(200):
            (scratch / "output" / f"{number:0200d}").write_bytes(b"m")
        ballast = _fill(small_disk)
        with pytest.raises(StoreFailed, match="cannot"):
            trees.commit(scratch / "output")
        ballast.unlink()
    assert all(trees.path(digest).is_dir() for digest in trees.digests())
    assert list(home.scratch.iterdir()) == []


_LIMITED = """
import resource, sys
from pathlib import Path
from orchestrator.errors import StoreFailed
from orchestrator.store.atomic import write_atomic

path = Path(sys.argv[1])
write_atomic(path, b"former")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(path, b"x" * 2000)
except StoreFailed as error:
    print(error.diagnostics[0].cause, error.diagnostics[0].remedy, sep="\\n")
"""


@pytest.mark.processes
def test_a_limit_on_file_sizes_is_reported_in_the_same_way(tmp_path: Path, spawn: Spawn) -> None:
    out, err = spawn(_LIMITED, tmp_path / "file").communicate(timeout=60)
    cause, remedy = out.splitlines()
    assert cause == "file too large", err
    assert "raise the limit" in remedy
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("file", b"former")]


def test_a_read_only_disk_is_reported_before_anything_is_started(small_disk: Path) -> None:
    home = Home(small_disk / ".mlo")
    home.prepare()
    with Store.at(home).scratch_folder() as scratch:
        (scratch / "model").write_bytes(b"model")
        manifest = TreeStore(home).commit(scratch)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreFailed) as caught:
        home.prepare()
    assert caught.value.diagnostics[0].code == "E702"
    with pytest.raises(StoreFailed) as caught:
        write_atomic(home.state_file, b"{}")
    assert caught.value.diagnostics[0].cause == "read-only file system"
    assert "MLO_HOME" in caught.value.diagnostics[0].remedy
    assert TreeStore(home).verify(manifest, deep=True) is None
