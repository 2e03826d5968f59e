"""The Git repository around a folder: where its root is, and its index, which is kept from commits while files change."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import Busy
from orchestrator.store.failures import store_errors
from orchestrator.store.locks import create_held, unless_held

__all__ = ["Repository"]

_SECONDS = 10.0
_PAUSE = 0.02
_HOLDER = "mlo "


@dataclass(frozen=True, slots=True)
class Repository:
    """A Git repository.

    Attributes:
        root: of its work tree.
        git: its folder `.git`, or what a file of that name leads to, as in a work tree of its own or a submodule.
    """

    root: Path
    git: Path

    @classmethod
    def around(cls, folder: Path) -> Repository | None:
        """The repository that `folder` is in, or would be in; None if there is none. Git does not follow links into others."""
        for above in (folder.parent.resolve() / folder.name).parents:
            entry = above / ".git"
            if entry.is_dir():
                return cls(above, entry)
            if entry.is_file():
                kind, _, place = entry.read_text(encoding="utf-8", errors="replace").strip().partition(": ")
                if kind == "gitdir" and (above / place).is_dir():
                    return cls(above, above / place)
        return None

    @property
    def _index_lock(self) -> Path:
        """Git takes this file to read files for a commit (`git add`, `git commit -a`) and to write them (`git checkout`).

        Source: Git's manual, "api-lockfile": a lock is a file that is created exclusively, and removed by its creator.
        """
        return self.git / "index.lock"

    @contextmanager
    def no_git_command(self) -> Iterator[None]:
        """Keep Git commands from reading or writing files for the block, which should take milliseconds.

        Raises:
            Busy: E605, one has been at work for ten seconds.
        """
        until = time.monotonic() + _SECONDS
        while (handle := self._taken()) is None:
            if time.monotonic() > until:
                raise self._busy()
            time.sleep(_PAUSE)
        try:
            yield
        finally:
            self._index_lock.unlink(missing_ok=True)
            os.close(handle)

    def _taken(self) -> int | None:
        """The lock, open and held by this process until it ends or closes it; None if it could not be taken."""
        with store_errors("lock", self._index_lock):
            try:
                handle = create_held(self._index_lock, 0o644)
            except FileExistsError:
                return None
            try:
                os.write(handle, f"{_HOLDER}{os.getpid()}\n".encode())
            except BaseException:  # without its holder in it, nobody would know that it may be removed
                self._index_lock.unlink(missing_ok=True)
                os.close(handle)
                raise
            return handle

    def unlock_killed(self) -> None:
        """Remove the lock of an mlo that was killed while it held it; one of a Git command stays.

        The kernel knows whether its holder lives, not the number in it, which another process may have by now.
        """
        lock = self._index_lock
        try:
            text = lock.read_text(encoding="ascii", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return
        if not text.startswith(_HOLDER):
            return
        with store_errors("remove", lock), unless_held(lock) as killed:
            if killed:
                lock.unlink(missing_ok=True)

    def _busy(self) -> Busy:
        return Busy(
            Diagnostic(
                "E605",
                f"a Git command is at work in {self.root}",
                cause=f"{self._index_lock} exists",
                remedy="wait until it has ended, then run the command again; if none is running, one was killed: remove the file",
            )
        )
