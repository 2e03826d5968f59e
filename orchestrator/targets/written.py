"""What targets share that write files and run no server: there is nothing to ask, no log, and no share of the traffic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import UsageError
from orchestrator.targets.certificate import Expected, in_file
from orchestrator.targets.target import Health, Observed, require_whole_share

__all__ = ["ReadBy", "WrittenTarget"]


@dataclass(frozen=True, slots=True)
class ReadBy:
    """Who reads the files, and so runs the server.

    Attributes:
        cause: why mlo runs none, in one clause.
        ask: what to do to get an answer.
        log: what to do to see the log.
    """

    cause: str
    ask: str
    log: str


class WrittenTarget:
    """The part of such a target that does not depend on what it writes.

    Args:
        target: its name.
        name: the deployment's.
        folder: where the files are, absolute.
        read_by: who reads them.

    Raises:
        ValueError: the folder is not absolute.
    """

    def __init__(self, target: str, name: str, folder: Path, read_by: ReadBy) -> None:
        if not folder.is_absolute():
            raise ValueError(f"{folder} is not an absolute path")
        self._target = target
        self._name = name
        self._folder = folder
        self._read_by = read_by

    def url(self) -> str:
        """There is none: whoever reads the files answers requests."""
        raise UsageError(
            Diagnostic("E619", f"{self._name} has no server here", cause=self._read_by.cause, remedy=self._read_by.ask)
        )

    def logs(self, lines: int, *, follow: bool) -> Iterator[str]:
        """There are none: whoever reads the files keeps the log."""
        del lines, follow
        raise UsageError(
            Diagnostic("E615", f"{self._name} has no log here", cause=self._read_by.cause, remedy=self._read_by.log)
        )

    def certificate(self, named: Path, url: str) -> Expected:
        """What is in the file, which nobody asks for: mlo runs no server here."""
        del url
        return in_file(named)

    def split(self, revision: int, share: float) -> None:
        """All traffic goes to one revision.

        Raises:
            DeployFailed: E623.
        """
        del revision
        require_whole_share(self._target, share)

    def _observed(
        self, health: Health, reason: str, revision: int | None = None, backend: str | None = None
    ) -> Observed:
        return Observed(revision is not None, health, reason, str(self._folder), revision, backend)

    def _left(self) -> tuple[str, ...]:
        """What is still in the folder once all that mlo wrote is removed."""
        return ("except for files that mlo did not write",) if self._folder.exists() else ()
