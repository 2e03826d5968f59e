"""The marker of a folder that is deployed into: whose it is, and what mlo has put there."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import Busy, DeployFailed
from orchestrator.store.atomic import pretty_json, write_atomic

__all__ = ["MARKER", "Marker", "Put", "alone_in", "read_marker", "taken", "write_marker"]

MARKER = ".mlo-deployed.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Put:
    """A revision that was put there.

    Attributes:
        digest: of its tree.
        backend: whose layout it lies in.
        used: whether it was ever the one in use; others are candidates, and go when they are withdrawn.
    """

    digest: str
    backend: str
    used: bool


@dataclass(frozen=True, slots=True)
class Marker:
    """What the marker says.

    Attributes:
        name: the deployment's.
        backend: whose layout says which revision is in use; empty before the first.
        revisions: by number.
    """

    name: str
    backend: str
    revisions: Mapping[int, Put]

    def with_revision(self, revision: int, put: Put) -> Marker:
        """The same with this revision."""
        return replace(self, revisions={**self.revisions, revision: put})

    def only(self, kept: Collection[int]) -> Marker:
        """The same with these revisions alone."""
        return replace(self, revisions={n: put for n, put in self.revisions.items() if n in kept})

    @staticmethod
    def file(folder: Path) -> Path:
        """Where it lies."""
        return folder / MARKER


def read_marker(folder: Path, name: str) -> Marker | None:
    """The marker of `folder`; None where there is none.

    Raises:
        DeployFailed: E620, it is another deployment's, or cannot be read.
    """
    try:
        document = json.loads(Marker.file(folder).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise taken(folder, f"its {MARKER} cannot be read: {error}") from error
    try:
        if document["format"] != _FORMAT:
            raise taken(folder, f"its {MARKER} has another format")
        marker = Marker(
            str(document["name"]),
            str(document["backend"]),
            {
                int(number): Put(str(put["digest"]), str(put["backend"]), used=bool(put["used"]))
                for number, put in document["revisions"].items()
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise taken(folder, f"its {MARKER} is damaged: {type(error).__name__}: {error}") from error
    if marker.name != name:
        raise taken(folder, f"it holds the deployment {marker.name}")
    return marker


def write_marker(folder: Path, marker: Marker) -> None:
    """Replace the marker.

    Raises:
        StoreFailed: the folder cannot be written.
    """
    revisions = {str(number): asdict(put) for number, put in sorted(marker.revisions.items())}
    document = {"format": _FORMAT, "name": marker.name, "backend": marker.backend, "revisions": revisions}
    write_atomic(Marker.file(folder), pretty_json(document))


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder itself for the block; the kernel frees it whatever happens. Nothing holds what is not there.

    Raises:
        Busy: E605.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        yield
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(
                Diagnostic(
                    "E605",
                    f"{folder} is being deployed into by another command",
                    remedy="wait until it has ended, then run the command again",
                )
            ) from error
        yield
    finally:
        os.close(handle)


def taken(folder: Path, cause: str) -> DeployFailed:
    """Why this folder cannot be deployed into."""
    return DeployFailed(
        Diagnostic(
            "E620",
            f"{folder} cannot be deployed into",
            cause=cause,
            remedy="name another folder in `deploy: path:`, or move away what is there",
        )
    )
