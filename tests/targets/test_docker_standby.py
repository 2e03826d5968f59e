"""What stands by while a front takes over a port: what it starts, and what it leaves alone."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, NotFound

from orchestrator.containers.engine import EngineAddress
from orchestrator.targets.docker import standby
from orchestrator.targets.docker.standby import finish_exchange, standing_by


class Fronts:
    """An engine with two fronts, each running, stopped or (None) removed, of which some cannot be started."""

    def __init__(self, former: bool | None, successor: bool | None, *unstartable: str) -> None:
        self.running = {"former": former, "successor": successor}
        self.unstartable = unstartable
        self.looks = 0

    def inspect_container(self, front: str) -> dict[str, Any]:
        self.looks += 1
        if self.running[front] is None:
            raise NotFound("no such container")
        return {"State": {"Running": self.running[front]}}

    def start(self, front: str) -> None:
        if self.running[front] is None:
            raise NotFound("no such container")
        if front in self.unstartable:
            raise APIError("port is already allocated")
        self.running[front] = True


@pytest.mark.parametrize(
    ("former", "successor", "unstartable", "then"),
    [
        (False, False, (), (False, True)),
        (None, False, (), (None, True)),
        (False, False, ("successor",), (True, False)),
        (False, True, (), (False, True)),
        (
            False,
            None,
            (),
            (False, None),
        ),  # it was given up, and whoever did that has begun to exchange the former one again
        (None, None, (), (None, None)),  # the deployment was destroyed
    ],
)
def test_one_of_two_fronts_runs_unless_another_command_has_seen_to_it(
    former: bool | None, successor: bool | None, unstartable: tuple[str, ...], then: tuple[bool | None, bool | None]
) -> None:
    there = Fronts(former, successor, *unstartable)
    finish_exchange(there, "former", "successor")
    assert tuple(there.running.values()) == then


def test_a_former_front_that_goes_on_running_is_left_alone_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "_WATCH_SECONDS", 0.1)
    monkeypatch.setattr(standby, "_POLL_SECONDS", 0.01)
    there = Fronts(True, False)
    finish_exchange(there, "former", "successor")
    assert there.looks
    assert there.running == {"former": True, "successor": False}


def test_a_former_front_that_stops_late_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    there = Fronts(True, False)
    monkeypatch.setattr("time.sleep", lambda _: there.running.update(former=False))
    finish_exchange(there, "former", "successor")
    assert there.running == {"former": False, "successor": True}


def test_it_runs_where_mlo_is_not_installed_and_python_does_not_search_the_folder_that_it_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n{shlex.quote(sys.executable)} -S "$@"\necho $? > {tmp_path}/code\n')
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with standing_by(EngineAddress("unix:///nonexistent"), "former", "successor"):
        pass
    assert (tmp_path / "code").read_text() == "0\n"
