"""A step's output is stored under its digest, cannot be changed unnoticed, and is stored once."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import StoreFailed
from orchestrator.store.digest import Manifest
from orchestrator.store.home import Home
from orchestrator.store.scratch import remove_tree
from orchestrator.store.store import Store
from orchestrator.store.trees import TreeStore

Spawn = Callable[..., "subprocess.Popen[str]"]

_COMMIT = """
import importlib.metadata, os, sys  # pydantic imports the first when it builds a model, which that user may not read then
from pathlib import Path
from orchestrator.store.home import Home
from orchestrator.store.store import Store
from orchestrator.store.trees import TreeStore

home = Home(Path(sys.argv[1]))
if len(sys.argv) > 2:
    os.setgid(int(sys.argv[2])), os.setuid(int(sys.argv[2]))
home.prepare()
store = TreeStore(home)
print("ready", flush=True)
sys.stdin.readline()
for turn in range(5):
    with Store.at(home).scratch_folder() as scratch:
        (scratch / "output" / "inner").mkdir(parents=True)
        (scratch / "output" / "inner" / "data").write_bytes(bytes([turn]) * 100_000)
        manifest = store.commit(scratch / "output")
    damage = store.verify(manifest, deep=True)
    assert damage is None, damage
    print(manifest.digest)
if len(sys.argv) > 2:
    print(store.discard(manifest.digest), store.holds(manifest.digest))
"""


@pytest.fixture
def store(home: Home) -> TreeStore:
    return TreeStore(home)


def _commit(home: Home, content: bytes = b"model") -> Manifest:
    with Store.at(home).scratch_folder() as scratch:
        output = scratch / "output"
        (output / "inner").mkdir(parents=True)
        (output / "inner" / "model.onnx").write_bytes(content)
        (output / "run.sh").write_text("#!/bin/sh\n")
        (output / "run.sh").chmod(0o700)
        (output / "nothing").mkdir()
        return TreeStore(home).commit(output)


def _overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(0o444)


def test_a_committed_tree_is_whole_and_read_only(home: Home, store: TreeStore) -> None:
    manifest = _commit(home)
    folder = store.path(manifest.digest)
    assert store.holds(manifest.digest)
    assert store.verify(manifest) is None
    assert store.verify(manifest, deep=True) is None
    assert (folder / "inner" / "model.onnx").read_bytes() == b"model"
    modes = {
        name: stat.S_IMODE((folder / name).stat().st_mode) for name in (".", "inner", "inner/model.onnx", "run.sh")
    }
    assert modes == {".": 0o555, "inner": 0o555, "inner/model.onnx": 0o444, "run.sh": 0o555}
    assert not (folder / "nothing").exists()
    assert list(store.digests()) == [manifest.digest]


def test_the_same_tree_is_kept_once(home: Home, store: TreeStore) -> None:
    first = _commit(home)
    inode = store.path(first.digest).stat().st_ino
    assert _commit(home) == first
    assert store.path(first.digest).stat().st_ino == inode
    assert list(home.scratch.iterdir()) == []


@pytest.mark.processes
def test_eight_processes_committing_the_same_trees_agree(home: Home, spawn: Spawn) -> None:
    processes = [spawn(_COMMIT, home.root) for _ in range(8)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        printed.append(out)
    assert len(set(printed)) == 1
    assert sorted(TreeStore(home).digests()) == sorted(set(printed[0].split()))
    assert list(home.scratch.iterdir()) == []


@pytest.mark.processes
@pytest.mark.skipif(os.getuid() != 0, reason="the other tests run without privileges already")
def test_a_user_without_privileges_can_commit_and_discard(spawn: Spawn) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 65534, 65534)
        process = spawn(_COMMIT, Path(folder) / ".mlo", 65534)
        out, err = process.communicate("go\n", timeout=120)
        assert process.returncode == 0, err
        assert out.endswith("100000 False\n")


def test_a_flipped_byte_is_detected_without_reading_unchanged_files(home: Home, store: TreeStore) -> None:
    manifest = _commit(home)
    _overwrite(store.path(manifest.digest) / "inner" / "model.onnx", b"mOdel")
    assert store.verify(manifest) == "inner/model.onnx has different content"


def test_a_flipped_byte_is_detected_even_if_the_time_was_reset(home: Home, store: TreeStore) -> None:
    manifest = _commit(home)
    path = store.path(manifest.digest) / "inner" / "model.onnx"
    times = path.stat()
    _overwrite(path, b"mOdel")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert store.verify(manifest) == "inner/model.onnx has different content"
    assert store.verify(manifest, deep=True) == "inner/model.onnx has different content"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("shorter", "inner/model.onnx has 2 bytes instead of 5"),
        ("missing", "inner/model.onnx is missing"),
        ("strange", "strange does not belong to it"),
        ("link", "inner/model.onnx is no longer a regular file"),
        ("mode", "run.sh is no longer executable"),
        ("gone", "it is gone"),
    ],
)
def test_other_damage_is_named(home: Home, store: TreeStore, damage: str, said: str) -> None:
    manifest = _commit(home)
    folder = store.path(manifest.digest)
    model = folder / "inner" / "model.onnx"
    for place in (folder, folder / "inner"):
        place.chmod(0o755)
    match damage:
        case "shorter":
            _overwrite(model, b"mo")
        case "missing":
            model.unlink()
        case "strange":
            (folder / "strange").write_bytes(b"")
        case "link":
            model.unlink()
            model.symlink_to("../run.sh")
        case "mode":
            (folder / "run.sh").chmod(0o444)
        case _:
            remove_tree(folder)
    assert store.verify(manifest) == said


def test_a_touched_file_is_read_again_and_found_unchanged(home: Home, store: TreeStore) -> None:
    manifest = _commit(home)
    os.utime(store.path(manifest.digest) / "inner" / "model.onnx")
    assert store.verify(manifest) is None


@pytest.mark.parametrize("seal", [None, b"", b"[]", b'{"inner/model.onnx": 3}', b'{"format": 2, "files": {}}'])
def test_a_lost_or_damaged_seal_costs_nothing_but_time(home: Home, store: TreeStore, seal: bytes | None) -> None:
    manifest = _commit(home)
    (file,) = home.trees.glob("??/*.seal.json")
    file.unlink()
    if seal is not None:
        file.write_bytes(seal)
    assert store.verify(manifest) is None
    sealed = json.loads(file.read_bytes())
    assert sealed["format"] == 1
    assert "inner/model.onnx" in sealed["files"]


def test_committing_again_replaces_a_damaged_tree(home: Home, store: TreeStore) -> None:
    manifest = _commit(home)
    _overwrite(store.path(manifest.digest) / "inner" / "model.onnx", b"mOdel")
    assert _commit(home) == manifest
    assert store.verify(manifest, deep=True) is None


def test_a_discarded_tree_is_gone_with_all_that_belongs_to_it(home: Home, store: TreeStore) -> None:
    manifest = _commit(home)
    assert store.discard(manifest.digest) == manifest.size
    assert store.discard(manifest.digest) == 0
    assert store.verify(manifest) == "it is gone"
    assert [path for path in home.trees.rglob("*") if path.is_file()] == []


def test_links_are_refused_and_the_store_stays_as_it_was(home: Home, store: TreeStore, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"the user's own")
    weights.chmod(0o644)
    for link in (Path.symlink_to, Path.hardlink_to):
        with Store.at(home).scratch_folder() as scratch:
            link(scratch / "weights", weights)
            with pytest.raises(StoreFailed) as caught:
                store.commit(scratch)
            assert caught.value.diagnostics[0].code == "E706"
    assert list(store.digests()) == []
    assert stat.S_IMODE(weights.stat().st_mode) == 0o644
