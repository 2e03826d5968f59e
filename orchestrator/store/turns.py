"""A lock whose turns come first come, first served: a queue of tickets, each locked while its process waits."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import Busy
from orchestrator.store.failures import store_errors
from orchestrator.store.home import Home
from orchestrator.store.locks import create_held, holder_of, open_locked, unless_held, write_holder
from orchestrator.store.user_folder import user_folder

__all__ = ["Place", "in_turn", "measuring_lock"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5  # seconds; short looks, and few, because others measure meanwhile
_MUTEX_PAUSE, _MUTEX_TOLD_AFTER = 0.005, 2.0  # seconds; it is held for a few system calls
_STOPPED_AFTER = 10.0  # seconds without a sign of life: its process is stopped, as by Ctrl-Z
_SHARED, _ALONE = ".shared", ".alone"


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the queue a process is.

    Attributes:
        number: 1 for the next one.
        behind_exclusive: whether the lock, or an earlier place, is of one that has it exclusively.
        holder: who has the lock exclusively; empty if nobody does.
    """

    number: int
    behind_exclusive: bool
    holder: str


def measuring_lock(home: Home) -> Path:
    """One lock for all stores of a user, or this store's own if the user has no writable cache folder."""
    folder = user_folder()
    return home.lock_file("measuring") if folder is None else folder / "measuring.lock"


@contextmanager
def in_turn(
    path: Path,
    *,
    shared: bool,
    info: Mapping[str, Any],
    on_wait: Callable[[Place], None],
    given_up: Callable[[], bool],
) -> Iterator[None]:
    """Hold the lock at `path`, after all who came before: who wants to share it does not pass an earlier exclusive one either.

    Tickets lie in a folder beside the lock, named by number. The kernel frees that of a process that dies, however it dies, and
    the next process that looks removes it.

    Args:
        path: the lock file; its folder exists.
        shared: together with others who share it, or exclusively.
        info: for those who wait: "what" is being done.
        on_wait: called with the place when the wait begins, and whenever the place changes.
        given_up: whether to wait no longer.

    Raises:
        Busy: the wait was given up.
        StoreFailed: the lock, or a ticket, cannot be written.
    """
    handle = _Queue(path, shared=shared).acquire(on_wait, given_up)
    try:
        write_holder(handle, info)
        yield
    finally:
        os.close(handle)


class _Queue:
    """The queue of a lock, as one who waits in it sees it."""

    def __init__(self, path: Path, *, shared: bool) -> None:
        self._path = path
        self._folder = path.with_suffix(".queue")
        self._shared = shared
        self._ticket: Path | None = None
        self._handle = -1

    def acquire(self, on_wait: Callable[[Place], None], given_up: Callable[[], bool]) -> int:
        """The open, locked file, once it is this one's turn."""
        told, pause = 0, _FIRST_PAUSE
        try:
            while True:
                with self._mutex(on_wait, given_up):
                    ahead = self._ahead()
                    handle = None if ahead else open_locked(self._path, shared=self._shared)
                    if handle is not None:
                        self._leave()
                        return handle
                    self._stay()
                    place = self._place(ahead)
                if place.number != told:
                    told = place.number
                    on_wait(place)
                self._pause(pause, given_up)
                pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            self._leave()

    @contextmanager
    def _mutex(self, on_wait: Callable[[Place], None], given_up: Callable[[], bool]) -> Iterator[None]:
        """Between a look at the queue and what follows from it, nobody else changes it.

        It is held for a few system calls, unless its process is stopped just then: those who wait for long are told which.
        """
        with store_errors("create", self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file, pause, told, begun = self._folder / "queue.lock", _MUTEX_PAUSE, False, time.monotonic()
        while (handle := open_locked(file, shared=False)) is None:
            if not told and time.monotonic() - begun > _MUTEX_TOLD_AFTER:
                told, pause = True, _LONGEST_PAUSE
                on_wait(Place(1, behind_exclusive=True, holder=holder_of(file)))
            self._pause(pause, given_up, of=file)
        try:
            write_holder(handle, {"what": "looking at the queue"})
            yield
        finally:
            os.close(handle)

    def _pause(self, seconds: float, given_up: Callable[[], bool], of: Path | None = None) -> None:
        if given_up():
            holder = holder_of(of or self._path)
            raise Busy(
                Diagnostic(
                    "E703",
                    f"{self._path.stem} is locked by {holder}",
                    cause="the wait was given up",
                    remedy="run the same command again once that process has finished",
                )
            )
        time.sleep(seconds)

    def _ahead(self) -> list[Path]:
        """The tickets before this one's, of live processes; those of dead ones are removed."""
        ahead = []
        for ticket in self._tickets():
            if ticket == self._ticket:
                break
            with unless_held(ticket) as dead:
                if dead:
                    ticket.unlink(missing_ok=True)
                elif not _is_stopped(ticket):
                    ahead.append(ticket)
        return ahead

    def _tickets(self) -> list[Path]:
        """All tickets, in the order in which they were taken."""
        return sorted(file for file in self._folder.iterdir() if file.suffix in (_SHARED, _ALONE))

    def _stay(self) -> None:
        """Take a ticket, or show that this process still waits."""
        if self._ticket is not None:
            with suppress(FileNotFoundError):
                os.utime(self._ticket)
                return
            self._leave()  # somebody emptied the folder
        number = 1 + max((int(ticket.stem) for ticket in self._tickets()), default=0)
        ticket = self._folder / f"{number:012d}{_SHARED if self._shared else _ALONE}"
        with store_errors("create", ticket):
            self._handle = create_held(ticket, 0o600)
        self._ticket = ticket

    def _leave(self) -> None:
        if self._ticket is not None:
            with suppress(OSError):  # then it is removed by the next one that looks
                self._ticket.unlink(missing_ok=True)
            os.close(self._handle)
            self._ticket = None

    def _place(self, ahead: list[Path]) -> Place:
        probe = open_locked(self._path, shared=True)
        if probe is not None:
            os.close(probe)
        exclusive = probe is None or any(ticket.suffix == _ALONE for ticket in ahead)
        # The file names the last one of those who share, which may have ended before the others.
        return Place(len(ahead) + 1, exclusive, holder_of(self._path) if probe is None else "")


def _is_stopped(ticket: Path) -> bool:
    """Whether its process lives and gives no sign of life: it does not hold up others, and keeps its place."""
    try:
        return time.time() - ticket.stat().st_mtime > _STOPPED_AFTER
    except FileNotFoundError:
        return True
