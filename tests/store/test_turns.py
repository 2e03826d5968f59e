"""Turns at a lock come first come, first served, whatever happens to those who wait."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import Busy
from orchestrator.store.locks import open_locked, write_holder
from orchestrator.store.turns import Place, in_turn

pytestmark = pytest.mark.processes

Spawn = Callable[..., "subprocess.Popen[str]"]

_TAKE_A_TURN = """
import sys
from pathlib import Path
from orchestrator.store.turns import in_turn

path, name, shared = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "shared"
told = lambda place: print(place.number, place.behind_exclusive, flush=True)
with in_turn(path, shared=shared, info={"what": name}, on_wait=told, given_up=lambda: False):
    with open(path.with_name("order"), "a") as order:
        order.write(name + " ")
    print("turn", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "measuring.lock"


@pytest.fixture
def turn(spawn: Spawn, path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start a process that takes a turn; it has the turn or waits when this returns."""

    def start(name: str, says: str, *, shared: bool = False) -> subprocess.Popen[str]:
        process = spawn(_TAKE_A_TURN, path, name, "shared" if shared else "alone")
        assert _line(process) == says
        return process

    return start


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.wait(60) == 0


def _order(path: Path) -> list[str]:
    return path.with_name("order").read_text(encoding="utf-8").split()


Turn = Callable[..., "subprocess.Popen[str]"]


def test_turns_come_in_the_order_of_arrival(path: Path, turn: Turn) -> None:
    processes = [turn("0", "turn"), *(turn(str(n), f"{n} True") for n in range(1, 6))]
    for process in processes:
        _end(process)
    assert _order(path) == ["0", "1", "2", "3", "4", "5"]


def test_who_waits_is_told_each_place_once(turn: Turn) -> None:
    holder, first, second = turn("a", "turn"), turn("b", "1 True"), turn("c", "2 True")
    _end(holder)
    assert _line(first) == "turn"
    assert _line(second) == "1 True"
    _end(first)
    assert _line(second) == "turn"


def test_one_that_shares_does_not_pass_a_measurement_that_waits(path: Path, turn: Turn) -> None:
    sharing = turn("a", "turn", shared=True)
    measuring = turn("b", "1 False")
    later = turn("c", "2 True", shared=True)
    _end(sharing)
    assert _line(measuring) == "turn"
    _end(measuring)
    _end(later)
    assert _order(path) == ["a", "b", "c"]


def test_those_that_share_run_together(turn: Turn) -> None:
    processes = [turn(name, "turn", shared=True) for name in "abc"]
    for process in processes:
        _end(process)


def test_a_waiting_process_that_is_killed_does_not_hold_up_the_queue(path: Path, turn: Turn) -> None:
    holder, killed, last = turn("a", "turn"), turn("b", "1 True"), turn("c", "2 True")
    killed.kill()
    killed.wait()
    assert _line(last) == "1 True"
    _end(holder)
    _end(last)
    assert _order(path) == ["a", "c"]
    assert not list(path.with_suffix(".queue").glob("0*")), "no ticket is left over"


def test_a_killed_holder_gives_the_turn_to_the_next(path: Path, turn: Turn) -> None:
    holder, first, second = turn("a", "turn"), turn("b", "1 True"), turn("c", "2 True")
    holder.kill()
    holder.wait()
    _end(first)
    _end(second)
    assert _order(path) == ["a", "b", "c"]


def test_a_stopped_process_is_passed_over_and_keeps_its_place(path: Path, turn: Turn) -> None:
    holder, stopped, last = turn("a", "turn"), turn("b", "1 True"), turn("c", "2 True")
    ticket = min(path.with_suffix(".queue").glob("0*"))
    stopped.send_signal(signal.SIGSTOP)
    long_ago = time.time() - 3600
    while time.time() - ticket.stat().st_mtime < 3000:  # the process may be in the middle of a look
        os.utime(ticket, (long_ago, long_ago))
        time.sleep(0.1)
    assert _line(last) == "1 True"
    stopped.send_signal(signal.SIGCONT)
    assert _line(last) == "2 True"
    for process in (holder, stopped, last):
        _end(process)
    assert _order(path) == ["a", "b", "c"]


def test_a_queue_that_was_removed_is_made_again(path: Path, turn: Turn) -> None:
    holder, waiting = turn("a", "turn"), turn("b", "1 True")
    for file in path.with_suffix(".queue").iterdir():
        file.unlink()
    path.with_suffix(".queue").rmdir()
    _end(holder)
    _end(waiting)


def test_a_process_that_was_stopped_while_it_looked_is_named(path: Path) -> None:
    folder = path.with_suffix(".queue")
    folder.mkdir(parents=True)
    handle = open_locked(folder / "queue.lock", shared=False)
    assert handle is not None
    write_holder(handle, {"what": "looking at the queue"})
    told: list[Place] = []
    try:
        with (
            pytest.raises(Busy, match="looking at the queue"),
            in_turn(path, shared=False, info={"what": "a test"}, on_wait=told.append, given_up=lambda: bool(told)),
        ):
            raise AssertionError("another process has it")
    finally:
        os.close(handle)
    assert [(place.number, "looking at the queue" in place.holder) for place in told] == [(1, True)]


def test_who_gives_up_leaves_the_queue(path: Path, turn: Turn) -> None:
    holder = turn("a", "turn")
    told: list[Place] = []
    with (
        pytest.raises(Busy, match="measuring is locked by process"),
        in_turn(path, shared=True, info={"what": "b"}, on_wait=told.append, given_up=lambda: bool(told)),
    ):
        pass
    assert [place.number for place in told] == [1]
    assert f"process {holder.pid} (a, since" in told[0].holder
    _end(holder)
    _end(turn("c", "turn"))
