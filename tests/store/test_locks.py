"""One holder at a time; a waiting process learns who holds the lock; a dead holder holds nothing."""

from __future__ import annotations

import fcntl
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import Busy, ExitCode
from orchestrator.store.locks import lock, probe_flock, share

pytestmark = pytest.mark.processes

Spawn = Callable[..., "subprocess.Popen[str]"]

_HOLD = """
import sys
from pathlib import Path
from orchestrator.store.locks import lock

with lock(Path(sys.argv[1]), timeout=0, info={"what": "applying digits"}):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deployment-digits.lock"


def _holder(spawn: Spawn, path: Path) -> subprocess.Popen[str]:
    process = spawn(_HOLD, path)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def _let_go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_a_held_lock_is_busy_and_says_who_holds_it(path: Path, spawn: Spawn) -> None:
    process = _holder(spawn, path)
    with pytest.raises(Busy) as caught, lock(path, timeout=0, info={"what": "destroying digits"}):
        pass
    assert caught.value.exit_code == ExitCode.TRY_AGAIN
    diagnostic = caught.value.diagnostics[0]
    assert diagnostic.code == "E703"
    assert f"process {process.pid} (applying digits, since 20" in diagnostic.message
    assert "do not remove the lock file" in diagnostic.remedy


def test_a_waiting_process_is_told_the_holder_once_and_then_gets_the_lock(path: Path, spawn: Spawn) -> None:
    process = _holder(spawn, path)
    with pytest.raises(Busy) as busy, lock(path, timeout=0, info={"what": "next"}):
        pass
    assert busy.value.diagnostics[0].code == "E703"
    told: list[str] = []

    def waiting(holder: str) -> None:
        told.append(holder)
        _let_go(process)

    with lock(path, timeout=60, info={"what": "next"}, on_wait=waiting):
        pass
    assert len(told) == 1
    assert told[0].startswith(f"process {process.pid} (applying digits")


def test_a_killed_holder_holds_nothing(path: Path, spawn: Spawn) -> None:
    process = _holder(spawn, path)
    process.kill()
    process.wait()
    assert b"applying digits" in path.read_bytes(), "its text is still there, and is not believed"
    with lock(path, timeout=0, info={"what": "next"}):
        assert b"applying digits" not in path.read_bytes()


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[]", b'{"pid": 1}', b"[" * 100_000])
def test_any_text_in_the_file_does_no_harm(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    with lock(path, timeout=0, info={"what": "first"}):
        path.write_bytes(text)
        with pytest.raises(Busy, match="another process"), lock(path, timeout=0.05, info={"what": "second"}):
            pass


def test_threads_exclude_each_other(path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with lock(path, timeout=60, info={"what": "work"}):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80
    assert max(most) == 1


def test_a_lock_file_that_was_removed_meanwhile_excludes_no_one_and_is_created_again(path: Path) -> None:
    with lock(path, timeout=0, info={"what": "first"}):
        path.unlink()
        with lock(path, timeout=0, info={"what": "second"}), pytest.raises(Busy), lock(path, timeout=0, info={}):
            pass


def test_shared_holders_exclude_an_exclusive_one(path: Path) -> None:
    with share(path, timeout=0, info={"what": "one"}):
        with share(path, timeout=0, info={"what": "two"}):
            pass
        with pytest.raises(Busy), lock(path, timeout=0, info={"what": "alone"}):
            pass
    with lock(path, timeout=0, info={"what": "alone"}), pytest.raises(Busy), share(path, timeout=0, info={}):
        pass


def test_the_wait_ends_at_its_timeout(path: Path) -> None:
    with lock(path, timeout=0, info={"what": "first"}):
        began = time.monotonic()
        with pytest.raises(Busy, match=r"first") as caught, lock(path, timeout=0.3, info={"what": "second"}):
            pass
        assert time.monotonic() - began >= 0.3
        assert caught.value.diagnostics[0].cause == "the lock was still held after 0.3 s"


def test_a_folder_where_flock_excludes_passes_the_probe(tmp_path: Path) -> None:
    assert probe_flock(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_folder_in_which_flock_does_not_exclude_causes_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    def broken(handle: int, operation: int) -> None:
        if fails:
            raise OSError(37, "No locks available")

    # No file system here has broken locks: stand in for one.
    monkeypatch.setattr(fcntl, "flock", broken)
    warning = probe_flock(tmp_path)
    assert warning is not None
    assert (warning.code, warning.severity) == ("W708", "warning")
    assert ("No locks available" in warning.cause) == fails
    assert "MLO_HOME" in warning.remedy
    monkeypatch.undo()
    elsewhere = tmp_path / "on-a-local-disk"
    elsewhere.mkdir()
    assert probe_flock(elsewhere) is None
