"""The state is replaced as a whole, loses no update, and is never overwritten when it cannot be read."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.errors import StoreFailed
from orchestrator.store.home import Home
from orchestrator.store.state import Deployment, Intent, PlacementRecord, Revision, State, StateFile

Spawn = Callable[..., "subprocess.Popen[str]"]

HERE = PlacementRecord(target="folder", version=1, settings={"path": "/srv/digits", "versions": 2})
DIGITS = Deployment(
    name="digits",
    placement=HERE,
    highest=2,
    revision=1,
    backend="onnxruntime",
    variant="onnx-fp32",
    endpoint="http://127.0.0.1:8080",
    spec_file="/specs/digits.yaml",
    spec_digest="01" * 32,
    decision_digest="02" * 32,
    model_digest="03" * 32,
    rendered_digest="04" * 32,
    history=(
        Revision(
            revision=1,
            backend="onnxruntime",
            variant="onnx-fp32",
            rendered_digest="04" * 32,
            deployed="2026-01-02T03:04:05+00:00",
            spec_digest="01" * 32,
            decision_digest="02" * 32,
            imported_digest="05" * 32,
            gates={"max_abs_error": 0.5},
            threads=1,
            placement=HERE,
        ),
    ),
)

_UPDATE = """
import sys
from pathlib import Path
from orchestrator.store.home import Home
from orchestrator.store.state import StateFile

state = StateFile(Home(Path(sys.argv[1])))
print("ready", flush=True)
sys.stdin.readline()

def count(before):
    digits = before.deployments["digits"]
    return before.with_deployment(digits.model_copy(update={"revision": digits.revision + 1}))

for _ in range(50):
    state.update(count)
"""

_INTEND = """
import sys
from pathlib import Path
from orchestrator.store.home import Home
from orchestrator.store.state import Intent, StateFile

def intend(before):
    digits = before.deployments["digits"]
    return before.with_deployment(digits.with_intent(Intent.now("deploy", 2, digits.placement)))

StateFile(Home(Path(sys.argv[1]))).update(intend)
print("ready", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def file(home: Home) -> StateFile:
    return StateFile(home)


def test_before_the_first_write_the_state_is_empty_and_always_the_same(home: Home, file: StateFile) -> None:
    assert file.read() == file.read() == State()
    assert not home.state_file.exists()


def test_a_state_is_read_as_it_was_written(home: Home, file: StateFile) -> None:
    deployment = DIGITS.with_intent(Intent.now("deploy", 2, HERE))
    written = file.update(lambda state: state.with_deployment(deployment))
    assert file.read() == written
    assert written.deployments == {"digits": deployment}
    assert (written.serial, len(written.lineage)) == (1, 32)
    document = json.loads(home.state_file.read_bytes())
    assert document["format"] == 3
    assert document["deployments"]["digits"]["intent"]["pid"] == os.getpid()
    assert home.state_file.stat().st_mode & 0o077 == 0


def test_every_change_increases_the_serial_and_no_change_does_not(file: StateFile) -> None:
    first = file.update(lambda state: state.with_deployment(DIGITS))
    same = file.update(lambda state: state.with_deployment(DIGITS))
    gone = file.update(lambda state: state.without_deployment("digits").without_deployment("other"))
    assert same == first
    assert (gone.serial, gone.lineage, dict(gone.deployments)) == (2, first.lineage, {})


def _entry(**changes: Any) -> Revision:
    return DIGITS.history[0].model_copy(update=changes)


def _with_history(entries: tuple[Revision, ...]) -> Deployment:
    return Deployment(**{**dict(DIGITS), "history": entries})


def test_the_history_keeps_the_last_ten_revisions() -> None:
    entries = tuple(_entry(revision=n, rendered_digest=f"{n:064x}") for n in range(1, 15))
    deployment = _with_history(entries)
    assert [entry.revision for entry in deployment.history] == list(range(5, 15))
    assert f"{14:064x}" in deployment.digests()


@pytest.mark.processes
def test_two_processes_that_update_fifty_times_each_lose_nothing(home: Home, file: StateFile, spawn: Spawn) -> None:
    file.update(lambda state: state.with_deployment(DIGITS))
    processes = [spawn(_UPDATE, home.root) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    state = file.read()
    assert (state.serial, state.deployments["digits"].revision) == (101, 101)


def _document(**changes: Any) -> bytes:
    document = State(lineage="ab" * 16, serial=3, tool="mlo 0.1.0").with_deployment(DIGITS).model_dump(mode="json")
    return json.dumps({**document, **changes}).encode()


def _with_digits(**changes: Any) -> bytes:
    document = json.loads(_document())
    document["deployments"]["digits"].update(changes)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\x00",
        b"[]",
        b"{}",
        b"[" * 100_000,
        _document()[:-20],
        _document(format="1"),
        _document(format=0),
        _document(serial="3"),
        _document(deployments=[]),
        _document(deployments={"digits": None}),
        _with_digits(name="other"),
        _with_digits(revision="1"),
        _with_digits(history=[1]),
        _with_digits(intent={}),
        _with_digits(more=1),
        _with_digits(placement="local"),
        _with_digits(placement={"target": "local", "version": "1", "settings": {}}),
        _with_digits(history=[{**_entry().model_dump(mode="json"), "gates": "{}"}]),
    ],
)
def test_a_state_that_cannot_be_read_is_reported_and_never_overwritten(
    home: Home, file: StateFile, content: bytes
) -> None:
    home.state_file.write_bytes(content)
    for use in (file.read, lambda: file.update(lambda state: state.with_deployment(DIGITS))):
        with pytest.raises(StoreFailed) as caught:
            use()
        diagnostic = caught.value.diagnostics[0]
        assert diagnostic.code == "E704"
        assert str(home.state_file) in diagnostic.message
        assert diagnostic.remedy
    assert home.state_file.read_bytes() == content


def test_a_newer_state_is_refused_with_the_version_that_is_needed(home: Home, file: StateFile) -> None:
    home.state_file.write_bytes(_document(format=4, tool="mlo 7.1", deployments="anything"))
    with pytest.raises(StoreFailed) as caught:
        file.read()
    diagnostic = caught.value.diagnostics[0]
    assert diagnostic.code == "E705"
    assert "mlo 7.1" in diagnostic.remedy
    assert "format 4" in diagnostic.cause


def test_an_intent_keeps_what_is_wanted_across_a_kill(home: Home, file: StateFile) -> None:
    wanted = DIGITS.model_copy(update={"revision": 2})
    intent = Intent.now("deploy", 2, HERE, wanted)
    file.update(lambda state: state.with_deployment(DIGITS.with_intent(intent)))
    found = file.read().deployments["digits"].intent
    assert found == intent
    assert found is not None
    assert found.pid == os.getpid()
    assert found.wanted == wanted


def test_an_older_state_is_refused_with_the_version_that_wrote_it(home: Home, file: StateFile) -> None:
    home.state_file.write_bytes(_document(format=2, tool="mlo 0.0.9"))
    with pytest.raises(StoreFailed) as caught:
        file.read()
    assert caught.value.diagnostics[0].code == "E705"
    assert "an older mlo, mlo 0.0.9" in caught.value.diagnostics[0].message


def test_the_history_has_each_revision_once_the_last_that_served_at_its_end() -> None:
    entries = tuple(_entry(revision=n) for n in (1, 2, 3, 1, 2, 1))
    assert [entry.revision for entry in _with_history(entries).history] == [3, 2, 1]
