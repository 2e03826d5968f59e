"""A supervisor that runs out of handles or ends: a revision says why it failed, and every server is stopped."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from orchestrator.targets.local.journal import Journal
from orchestrator.targets.local.messages import Launching, Recipe
from orchestrator.targets.local.revision import Revision
from orchestrator.targets.local.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable


class _Leaving:
    """A revision that is being stopped; it is gone once it is asked to take nothing more."""

    def __init__(self, failure: OSError | None = None) -> None:
        self.gone = False
        self._asked = asyncio.Event()
        self._failure = failure

    async def stop(self) -> None:
        await self._asked.wait()
        if self._failure is not None:
            raise self._failure
        self.gone = True

    async def take_back(self, idle_seconds: float) -> None:
        del idle_seconds
        self._asked.set()
        await asyncio.sleep(0.05)


def test_servers_that_end_while_the_supervisor_stops_are_no_obstacle(tmp_path: Path) -> None:
    async def check() -> None:
        supervisor = Supervisor(tmp_path)
        leaving = [_Leaving(), _Leaving(), _Leaving(OSError("no handle is left"))]
        for each in leaving:
            task = asyncio.create_task(each.stop())
            supervisor._leaving[task] = cast("Revision", each)
            task.add_done_callback(supervisor._leaving.pop)
        supervisor._stop.set()
        await supervisor.run(lambda: None)
        assert [each.gone for each in leaving] == [True, True, False]

    asyncio.run(check())
    assert "has stopped" in (tmp_path / "serving.log").read_text()


def test_a_server_that_cannot_be_stopped_is_reported_and_the_others_are_stopped(tmp_path: Path) -> None:
    class Served:
        def __init__(self, failure: OSError | None) -> None:
            self.gone = False
            self._failure = failure

        async def stop(self, drain_seconds: float) -> None:
            del drain_seconds
            if self._failure is not None:
                raise self._failure
            await asyncio.sleep(0.05)
            self.gone = True

    async def check() -> None:
        supervisor = Supervisor(tmp_path)
        served = {1: Served(OSError("no handle is left")), 2: Served(None)}
        supervisor._revisions.update({number: cast("Revision", each) for number, each in served.items()})
        supervisor._stop.set()
        await supervisor.run(lambda: None)
        assert served[2].gone

    asyncio.run(check())
    assert "a server was not stopped properly: OSError('no handle is left')" in (tmp_path / "serving.log").read_text()


def test_without_a_free_handle_a_revision_fails_with_the_reason_and_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(changed: Callable[[], None]) -> None:
        del changed
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("orchestrator.targets.local.revision.Handover", exhausted)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    recipe = Recipe(revision=1, backend="onnxruntime", name="m", serving=str(tmp_path), threads=1, startup_seconds=5)
    launching = Launching(
        argv=("/bin/false",), env={}, cwd=str(tmp_path), port=1, scratch=str(scratch), ready_path="/", handover="--handover"
    )  # fmt: skip

    async def check() -> None:
        journal, held = Journal(tmp_path), socket.socket()
        revision = Revision(recipe, launching, [held], journal, lambda: None)
        await asyncio.sleep(0.05)
        status = revision.status(serving=False)
        assert (status.state, status.reason) == (
            "failed",
            "the server cannot be started: [Errno 24] Too many open files",
        )
        await revision.stop(0.0)
        assert held.fileno() == -1
        assert not scratch.exists()
        journal.close()

    asyncio.run(check())
