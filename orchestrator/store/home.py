"""Where mlo keeps everything: one folder, `.mlo` at the root of the repository, or MLO_HOME."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator import __version__
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StoreFailed
from orchestrator.store.anchor import STORE, anchor
from orchestrator.store.atomic import write_atomic

__all__ = ["LAYOUT", "Home"]

_CACHEDIR_TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# Backup programs may leave this folder out: mlo computes it again. See https://bford.info/cachedir/\n"
)

LAYOUT = 2
"""The arrangement of files and documents in a home. Rises when older homes can no longer be read."""

_FIRST_LAYOUT = "layout 1"


@dataclass(frozen=True, slots=True)
class Home:
    """The folder that mlo keeps everything in. Nothing here is touched before `prepare`.

    Attributes:
        root: its absolute path.
    """

    root: Path

    @classmethod
    def find(cls, folder: Path, env: Mapping[str, str]) -> Home:
        """MLO_HOME (relative to the working folder, `~` understood) if it is set and not empty, else `.mlo` as `anchor` says.

        Args:
            folder: of the spec, or the working folder.
            env: the environment.
        """
        if named := env.get("MLO_HOME"):
            return cls(Path(named).expanduser().absolute())
        return cls(anchor(folder) / STORE)

    @property
    def trees(self) -> Path:
        """Results of steps, by digest; read-only."""
        return self.root / "trees"

    @property
    def receipts(self) -> Path:
        """Receipts by key, and the last key of each deployment's steps."""
        return self.root / "receipts"

    @property
    def scratch(self) -> Path:
        """Folders that steps work in."""
        return self.root / "scratch"

    @property
    def locks(self) -> Path:
        """Lock files; their presence means nothing."""
        return self.root / "locks"

    @property
    def logs(self) -> Path:
        """Logs and reproduce scripts of steps."""
        return self.root / "logs"

    @property
    def deployments(self) -> Path:
        """What the local target keeps, a folder for each deployment."""
        return self.root / "deployments"

    @property
    def images(self) -> Path:
        """What is known of images that were built here, a folder for each."""
        return self.root / "images"

    @property
    def hashes(self) -> Path:
        """What package indexes said of the files of images; may be lost."""
        return self.root / "hashes"

    @property
    def state_file(self) -> Path:
        """What is deployed."""
        return self.root / "state.json"

    @property
    def identity_file(self) -> Path:
        """What tells this store from others, once something outside of it is marked as its own."""
        return self.root / "identity"

    @property
    def stat_cache(self) -> Path:
        """Digests of files by their stat; may be lost."""
        return self.root / "stat_cache.json"

    @property
    def in_use_lock(self) -> Path:
        """Shared by all users of trees and receipts; exclusive for garbage collection."""
        return self.locks / "in-use.lock"

    @property
    def layout_file(self) -> Path:
        """Which layout this home has, and who made it: `layout 2, made by mlo 0.2.0`."""
        return self.root / "layout"

    def lock_file(self, name: str) -> Path:
        """The lock of that name, such as `state` or `deployment-digits`."""
        return self.locks / f"{name}.lock"

    def prepare(self) -> None:
        """Create what is missing. The folders are this user's alone: models and samples may be confidential.

        Raises:
            StoreFailed: E702, it cannot be created or written; E715, it has the layout of another version of mlo.
        """
        folders = (self.trees, self.receipts, self.scratch, self.locks, self.logs, self.deployments)
        try:
            # Parents get the umask's mode: only mlo's own folder is closed to others.
            self.root.parent.mkdir(parents=True, exist_ok=True)
            self.root.mkdir(mode=0o700, exist_ok=True)
            if not self._has_layout():
                # Before the folders: a home that has folders and no layout is an old one.
                write_atomic(self.layout_file, f"layout {LAYOUT}, made by mlo {__version__}\n".encode())
            for folder in folders:
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreFailed(self._unusable((error.strerror or str(error)).lower())) from error
        for folder in (self.root, *folders):
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise StoreFailed(self._unusable(f"{folder} cannot be written"))
        for name, content in ((".gitignore", b"*\n"), ("CACHEDIR.TAG", _CACHEDIR_TAG)):
            if not (self.root / name).exists():
                write_atomic(self.root / name, content)

    def _has_layout(self) -> bool:
        """Whether this home has this version's layout; a home that is new has none.

        Raises:
            StoreFailed: it has another one.
        """
        is_used = self.trees.exists() or self.state_file.exists()  # before the look at the layout, which comes first
        try:
            text = self.layout_file.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            if not is_used:
                return False
            text = _FIRST_LAYOUT
        found = re.match(r"layout (\d+)\b", text)
        number = None if found is None else int(found[1])
        if number != LAYOUT:
            raise StoreFailed(self._of_another_version(number, text))
        return True

    def _of_another_version(self, number: int | None, text: str) -> Diagnostic:
        elsewhere = "set MLO_HOME to another folder"
        if number is None:
            remedy = f"restore {self.layout_file}, or {elsewhere}"
            cause = f"its file `layout` does not name a layout: {text[:60]!r}"
        elif number > LAYOUT:
            remedy = f"use the newer version of mlo, or {elsewhere}"
            cause = f"it is {text}, and mlo {__version__} reads layout {LAYOUT}"
        else:
            cause = f"it has layout {number}, and mlo {__version__} reads layout {LAYOUT}"
            remedy = (
                "if it has deployments, destroy them with the version that created them; then remove the folder "
                f"(its results can be computed again), or {elsewhere}"
            )
        return Diagnostic(
            "E715",
            f"the store {self.root} was created by another version of mlo",
            cause=cause,
            remedy=remedy,
            notes=("the store was not modified",),
        )

    def _unusable(self, cause: str) -> Diagnostic:
        return Diagnostic(
            code="E702",
            message=f"cannot store files in {self.root}",
            cause=cause,
            remedy="set MLO_HOME to a folder that you can write to",
        )
