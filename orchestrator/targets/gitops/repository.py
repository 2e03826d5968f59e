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
        """The repository that `folder` is in, or would be in; None if there is none."""
        for above in folder.parents:
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
        while not self._taken():
            if time.monotonic() > until:
                raise self._busy()
            time.sleep(_PAUSE)
        try:
            yield
        finally:
            self._index_lock.unlink(missing_ok=True)

    def _taken(self) -> bool:
        """Whether the lock could be taken; it then names this process."""
        with store_errors("lock", self._index_lock):
            try:
                handle = os.open(self._index_lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                return False
            with os.fdopen(handle, "wb") as file:
                file.write(f"{_HOLDER}{os.getpid()}\n".encode())
            return True

    def unlock_killed(self) -> None:
        """Remove the lock of an mlo that was killed while it held it; one of a Git command stays."""
        lock = self._index_lock
        try:
            text = lock.read_text(encoding="ascii", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return
        if not text.startswith(_HOLDER):
            return
        pid = text.removeprefix(_HOLDER).strip()
        if pid.isdecimal() and not Path("/proc", pid).exists():
            with store_errors("remove", lock):
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
