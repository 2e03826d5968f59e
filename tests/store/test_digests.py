"""The same content has the same digest everywhere, and is only read if it may have changed."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from orchestrator.errors import StoreFailed
from orchestrator.store.digest import Manifest, StatCache, digest_file, digest_tree, sha256_bytes
from orchestrator.store.home import Home


def _tree(root: Path) -> Path:
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "model.onnx").write_bytes(b"model")
    (root / "facts.json").write_text("{}")
    return root


def _age(path: Path, seconds: float = 10) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_a_tree_keeps_its_digest_when_it_is_copied_and_aged(tmp_path: Path) -> None:
    first = _tree(tmp_path / "first")
    second = tmp_path / "elsewhere" / "second"
    shutil.copytree(first, second)
    _age(second / "facts.json", 1e6)
    (second / "empty").mkdir()
    assert digest_tree(first) == digest_tree(second)
    assert list(digest_tree(first).files) == ["a/b/model.onnx", "facts.json"]
    assert digest_tree(first).files["facts.json"].sha256 == sha256_bytes(b"{}")


@pytest.mark.parametrize("change", ["content", "name", "place", "executable", "more", "less"])
def test_a_tree_has_another_digest_after_any_change(tmp_path: Path, change: str) -> None:
    root = _tree(tmp_path / "tree")
    before = digest_tree(root).digest
    model = root / "a" / "b" / "model.onnx"
    match change:
        case "content":
            model.write_bytes(b"mOdel")
        case "name":
            model.rename(model.with_name("model.pt"))
        case "place":
            model.rename(root / "a" / "model.onnx")
        case "executable":
            model.chmod(0o755)
        case "more":
            (root / "more").write_bytes(b"")
        case _:
            model.unlink()
    assert digest_tree(root).digest != before


@pytest.mark.parametrize("target", ["facts.json", "a", "/nowhere"])
def test_links_in_a_tree_are_refused_by_name(tmp_path: Path, target: str) -> None:
    root = _tree(tmp_path / "tree")
    (root / "link").symlink_to(target)
    with pytest.raises(StoreFailed) as caught:
        digest_tree(root)
    assert str(root / "link") in caught.value.diagnostics[0].message
    assert target in caught.value.diagnostics[0].cause


def test_a_pipe_and_an_unreadable_name_are_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(StoreFailed, match="pipe"):
        digest_tree(tmp_path)
    with pytest.raises(OSError, match="not a regular file"):
        digest_file(tmp_path / "pipe")
    (tmp_path / "pipe").unlink()
    (tmp_path / os.fsdecode(b"\xff")).write_bytes(b"")
    with pytest.raises(StoreFailed, match="xff"):
        digest_tree(tmp_path)


def test_a_manifest_survives_json_and_refuses_a_changed_one(tmp_path: Path) -> None:
    manifest = digest_tree(_tree(tmp_path / "tree"))
    document = json.loads(json.dumps(manifest.as_json()))
    assert Manifest.from_json(document) == manifest
    assert manifest.size == 7
    document["files"]["facts.json"]["size"] = 3
    with pytest.raises(ValueError):
        Manifest.from_json(document)
    with pytest.raises(ValueError):
        Manifest.from_json({"digest": manifest.digest, "files": {"a": "b"}})


def test_a_file_that_cannot_be_read_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        digest_file(tmp_path / "none", None)
    with pytest.raises(IsADirectoryError):
        digest_file(tmp_path)


def test_the_cache_answers_for_a_settled_file_only_while_its_stat_is_the_same(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    _age(path)
    cache = StatCache(home)
    digest = digest_file(path, cache)
    cache.save()

    later = StatCache(home)
    assert later.get(path, path.stat()) == digest == sha256_bytes(b"one")
    times = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert digest_file(path, later) == sha256_bytes(b"two"), "the change time betrays it"


def test_the_cache_distrusts_a_file_that_was_changed_just_before_it_was_read(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "fresh"
    path.write_bytes(b"one")
    cache = StatCache(home)
    digest_file(path, cache)
    cache.save()
    assert StatCache(home).get(path, path.stat()) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"x": 1, "y": [1, 2]}', b'{"format": 2, "files": {}}', b"\xff" * 100, b"[" * 100_000],
)
def test_a_damaged_or_lost_cache_costs_nothing_but_time(home: Home, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    home.stat_cache.write_bytes(content)
    cache = StatCache(home)
    assert digest_file(path, cache) == sha256_bytes(b"one")
    cache.save()
    shutil.rmtree(home.root)
    cache = StatCache(home)
    assert digest_file(path, cache) == sha256_bytes(b"one")
    cache.save()


def test_an_entry_that_is_no_digest_is_never_believed(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"one")
    _age(path)
    cache = StatCache(home)
    digest = digest_file(path, cache)
    cache.save()
    assert StatCache(home).get(path, path.stat()) == digest
    for wrong in (b"DEADBEEF", b"z" * 64):
        home.stat_cache.write_bytes(home.stat_cache.read_bytes().replace(digest.encode(), wrong))
        assert StatCache(home).get(path, path.stat()) is None
        assert digest_file(path, StatCache(home)) == digest


def test_two_caches_saved_one_after_the_other_keep_both_entries(home: Home, tmp_path: Path) -> None:
    caches = [StatCache(home), StatCache(home)]
    for number, cache in enumerate(caches):
        path = tmp_path / str(number)
        path.write_bytes(b"data")
        _age(path)
        digest_file(path, cache)
    for cache in caches:
        cache.save()
    for number in range(2):
        path = tmp_path / str(number)
        assert StatCache(home).get(path, path.stat()) == sha256_bytes(b"data")
