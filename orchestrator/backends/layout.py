"""How revisions lie in a folder that is deployed into, and what says which one is in use."""

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
        """The part of a rendered serving folder that is copied for each revision."""

    def place(self, revision: int) -> Path:
        """Where that part of a revision lies."""

    def in_use(self) -> int | None:
        """The revision that readers use; None where there is none."""

    def use(self, revision: int, kept: Sequence[int], serving: Path | None) -> tuple[str, ...]:
        """Let readers use this one from now on, at once.

        Args:
            revision: which; it is whole.
            kept: those that stay.
            serving: the rendered folder that it came from, for what stands outside of its place; None leaves that.

        Returns:
            What a person should know of it, a sentence each.
        """

    def retire(self) -> None:
        """Remove what says which revision is in use; the revisions themselves are the caller's."""


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
        """Where the link leads."""
        try:
            match = re.fullmatch(r"revisions/([0-9]{1,9})", os.fspath(self._link.readlink()))
        except OSError:  # there is none, or something else has its name
            return None
        return int(match[1]) if match else None

    def use(self, revision: int, kept: Sequence[int], serving: Path | None) -> tuple[str, ...]:
        """Replace the link, which a reader sees as it was or as it is."""
        del kept, serving
        new = self._folder / f"{TEMPORARY_PREFIX}current"
        new.unlink(missing_ok=True)
        new.symlink_to(f"revisions/{revision}")
        new.replace(self._link)
        fsync_folder(self._folder)
        return ()

    def retire(self) -> None:
        """The link."""
        self._link.unlink(missing_ok=True)
