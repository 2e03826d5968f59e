"""A file is complete or does not exist, and JSON that is hashed has a unique form."""

from __future__ import annotations

import json
import random
import stat
import subprocess
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import StoreFailed
from orchestrator.store.atomic import (
    TEMPORARY_PREFIX,
    canonical_json,
    copy_folder_atomic,
    pretty_json,
    write_atomic,
)
from orchestrator.store.gc import sweep
from orchestrator.store.home import Home
from orchestrator.store.store import Store

Spawn = Callable[..., "subprocess.Popen[str]"]

_WRITE_FOR_EVER = """
import json, sys
from pathlib import Path
from orchestrator.store.atomic import write_atomic

path, serial = Path(sys.argv[1]), 0
while True:
    serial += 1
    write_atomic(path, json.dumps({"serial": serial, "ballast": "x" * 50_000}).encode())
    if serial == 1:
        print("ready", flush=True)
"""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcé", max_size=3), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.processes
def test_sixty_kills_at_random_times_leave_only_whole_files(home: Home, spawn: Spawn) -> None:
    path = home.root / "written.json"
    dice = random.Random(7)
    for _ in range(60):
        writer = spawn(_WRITE_FOR_EVER, path)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(dice.uniform(0, 0.01))
        writer.kill()
        writer.wait()
        assert len(json.loads(path.read_bytes())["ballast"]) == 50_000
    sweep(Store.at(home))
    assert not list(home.root.glob(f"{TEMPORARY_PREFIX}*"))


def test_a_file_is_replaced_with_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("former")
    write_atomic(path, b"new", mode=0o600)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_write_that_fails_leaves_neither_a_temporary_nor_a_change(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(StoreFailed) as caught:
        write_atomic(tmp_path / "folder", b"data")
    assert str(tmp_path / "folder") in caught.value.diagnostics[0].message
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def test_a_missing_folder_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed) as caught:
        write_atomic(tmp_path / "no" / "file", b"data")
    diagnostic = caught.value.diagnostics[0]
    assert diagnostic.code == "E701"
    assert diagnostic.message == f"cannot write {tmp_path / 'no' / 'file'}"
    assert diagnostic.cause == "no such file or directory"
    assert str(tmp_path) in diagnostic.remedy


def test_canonical_json_has_one_form_for_one_value() -> None:
    assert canonical_json({"b": 17.0, "a": [1, True, None, 0.5]}) == b'{"a":[1,true,null,0.5],"b":17}'
    assert canonical_json({"a": -0.0}) == canonical_json({"a": 0})
    decomposed = unicodedata.normalize("NFD", "é")
    assert canonical_json({decomposed: decomposed}) == canonical_json({"é": "é"})


@given(json_values)
def test_canonical_json_reads_back_to_a_value_with_the_same_form(value: Any) -> None:
    form = canonical_json(value)
    assert canonical_json(json.loads(form)) == form


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")], "\ud800", {"é": 1, "e\u0301": 2}])
def test_canonical_json_refuses_values_without_a_unique_form(value: Any) -> None:
    with pytest.raises(ValueError):
        canonical_json(value)


@pytest.mark.parametrize("value", [{1: "a"}, {"a": {2, 3}}, b"bytes", Path("path")])
def test_canonical_json_refuses_values_that_are_not_json(value: Any) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


def test_pretty_json_is_sorted_indented_and_ends_with_a_newline() -> None:
    assert pretty_json({"b": "é", "a": [1]}) == '{\n "a": [\n  1\n ],\n "b": "é"\n}\n'.encode()
    with pytest.raises(ValueError):
        pretty_json(float("nan"))


def _folder(place: Path, content: str) -> Path:
    place.mkdir(parents=True)
    (place / "model").write_text(content)
    return place


def test_a_folder_that_cannot_be_replaced_is_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = _folder(tmp_path / "there" / "1", "old"), _folder(tmp_path / "new", "new")
    rename = Path.rename

    def full(path: Path, target: Path) -> Path:
        if path.name == f"{TEMPORARY_PREFIX}1":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="No space"):
        copy_folder_atomic(new, old)
    assert (old / "model").read_text() == "old"
    assert [path.name for path in old.parent.iterdir()] == ["1"]


def test_a_folder_whose_replacement_was_killed_half_way_comes_back(tmp_path: Path) -> None:
    place, new = tmp_path / "there" / "1", _folder(tmp_path / "new", "new")
    former = _folder(place.with_name(f"{TEMPORARY_PREFIX}1.former"), "old")
    with pytest.raises(OSError, match="nothing"):
        copy_folder_atomic(tmp_path / "nothing", place)
    assert (place / "model").read_text() == "old"
    copy_folder_atomic(new, place)
    assert (place / "model").read_text() == "new"
    assert not former.exists()
