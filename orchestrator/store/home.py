"""Where everything that mlo keeps lies: one folder, `.mlo` beside where the command runs, or MLO_HOME."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StoreFailed
from orchestrator.store import scratch
from orchestrator.store.atomic import write_atomic
from orchestrator.store.locks import share

__all__ = ["Home"]

_CACHEDIR_TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# Backup programs may leave this folder out: mlo computes it again. See https://bford.info/cachedir/\n"
)


@dataclass(frozen=True, slots=True)
class Home:
    """The folder that mlo keeps everything in. Nothing here is touched before `prepare`.

    Attributes:
        root: its absolute path.
    """

    root: Path

    @classmethod
    def find(cls, cwd: Path, env: Mapping[str, str]) -> Home:
        """MLO_HOME (relative to `cwd`, `~` understood) if it is set and not empty, else `.mlo` in `cwd`."""
        return cls((cwd / Path(env.get("MLO_HOME") or ".mlo").expanduser()).absolute())

    @property
    def trees(self) -> Path:
        """Results of steps, by digest; read-only."""
        return self.root / "trees"

    @property
    def receipts(self) -> Path:
        """What is done, by key, and which key each deployment's step had last."""
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
    def state_file(self) -> Path:
        """What is deployed."""
        return self.root / "state.json"

    @property
    def stat_cache(self) -> Path:
        """Digests of files by their stat; may be lost."""
        return self.root / "stat_cache.json"

    @property
    def in_use_lock(self) -> Path:
        """Shared by whoever uses trees and receipts; held alone by garbage collection."""
        return self.locks / "in-use.lock"

    def prepare(self) -> None:
        """Create what is missing. The folders are this user's alone: models and samples may be confidential.

        Raises:
            StoreFailed: it cannot be created or written.
        """
        folders = (self.trees, self.receipts, self.scratch, self.locks, self.logs, self.deployments)
        try:
            # Parents get the umask's mode, not ours: only what is mlo's own is closed to others.
            self.root.parent.mkdir(parents=True, exist_ok=True)
            for folder in (self.root, *folders):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreFailed(self._unusable((error.strerror or str(error)).lower())) from error
        for folder in (self.root, *folders):
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise StoreFailed(self._unusable(f"{folder} cannot be written"))
        for name, content in ((".gitignore", b"*\n"), ("CACHEDIR.TAG", _CACHEDIR_TAG)):
            if not (self.root / name).exists():
                write_atomic(self.root / name, content)

    def _unusable(self, cause: str) -> Diagnostic:
        return Diagnostic(
            code="E702",
            message=f"cannot keep anything in {self.root}",
            cause=cause,
            remedy="set MLO_HOME to a folder that you can write to, or run the command from such a folder",
        )

    @contextmanager
    def in_use(self, what: str, timeout: float = 600.0) -> Iterator[None]:
        """Keep garbage collection out while trees and receipts are used; any number of users at once.

        Args:
            what: what is being done, for the message of whoever has to wait.
            timeout: seconds to wait for a garbage collection that is running.

        Raises:
            Busy: garbage collection did not end in time.
        """
        with share(self.in_use_lock, timeout=timeout, info={"what": what}):
            yield

    @contextmanager
    def scratch_folder(self) -> Iterator[Path]:
        """A new, empty folder on the same disk as the trees; removed at the end with all that is left in it.

        Garbage collection is kept out meanwhile: a tree that is committed inside has its receipt before it is looked for.

        Raises:
            StoreFailed: it cannot be created.
            Busy: garbage collection did not end in time.
        """
        with self.in_use("running a step"), scratch.scratch_folder(self.scratch) as folder:
            yield folder
