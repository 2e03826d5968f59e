"""The layout of revisions in a deployment folder, and which of them is in use."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from orchestrator.store.atomic import TEMPORARY_PREFIX, fsync_folder

__all__ = ["Layout", "LinkedLayout"]


class Layout(Protocol):
    """One way of keeping several revisions in one folder."""

    def source(self, serving: Path) -> Path:
        """The part of a rendered serving folder to copy for each revision."""

    def place(self, revision: int) -> Path:
        """The path of that part of a revision."""

    def in_use(self) -> int | None:
        """The revision that readers use; None if there is none."""

    def use(self, revision: int, kept: Sequence[int], serving: Path | None) -> tuple[str, ...]:
        """Switch readers to this revision, atomically.

        Args:
            revision: a complete revision.
            kept: the revisions that are kept.
            serving: its rendered folder, for files outside of its place; None leaves those unchanged.

        Returns:
            What the user should know, a sentence each.
        """

    def retire(self) -> None:
        """Remove the record of the revision in use; the caller removes the revisions."""


class LinkedLayout:
    """`revisions/N` and a link `current` to one of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._link = folder / "current"

    def source(self, serving: Path) -> Path:
        """All of it."""
        return serving

    def place(self, revision: int) -> Path:
        """`revisions/N`."""
        return self._folder / "revisions" / str(revision)

    def in_use(self) -> int | None:
        """The target of the link."""
        try:
            match = re.fullmatch(r"revisions/([0-9]{1,9})", os.fspath(self._link.readlink()))
        except OSError:  # there is none, or something else has its name
            return None
        return int(match[1]) if match else None

    def use(self, revision: int, kept: Sequence[int], serving: Path | None) -> tuple[str, ...]:
        """Replace the link atomically."""
        del kept, serving
        new = self._folder / f"{TEMPORARY_PREFIX}current"
        new.unlink(missing_ok=True)
        new.symlink_to(f"revisions/{revision}")
        new.replace(self._link)
        fsync_folder(self._folder)
        return ()

    def retire(self) -> None:
        """Remove the link."""
        self._link.unlink(missing_ok=True)
