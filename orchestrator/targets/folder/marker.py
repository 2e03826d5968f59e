"""The marker file of a target folder: its deployment, and the revisions that mlo copied there."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import Busy, DeployFailed
from orchestrator.spec.strict import Strict
from orchestrator.store.atomic import pretty_json, write_atomic
from orchestrator.store.locks import try_lock
from orchestrator.store.record import first_problem

__all__ = ["MARKER", "CopiedRevision", "Marker", "folder_unusable", "lock_folder", "read_marker", "write_marker"]

MARKER = ".mlo-deployed.json"
_FORMAT: Literal[2] = 2


class CopiedRevision(Strict):
    """A revision that was copied into the folder.

    Attributes:
        digest: of its tree.
        backend: whose layout it has.
        used: whether it was ever in use; others are removed together with the release that copied them.
    """

    digest: str
    backend: str
    used: bool


class Marker(Strict):
    """The marker's content.

    Attributes:
        format: of the file.
        name: the deployment's.
        backend: whose layout says which revision is in use; None before the first.
        revisions: by number.
    """

    format: Literal[2] = _FORMAT
    name: str
    backend: str | None
    revisions: dict[int, CopiedRevision]

    def with_revision(self, revision: int, copied: CopiedRevision) -> Marker:
        """The same with this revision."""
        return self.model_copy(update={"revisions": {**self.revisions, revision: copied}})

    def only(self, kept: Collection[int]) -> Marker:
        """The same with these revisions alone."""
        return self.model_copy(update={"revisions": {n: copied for n, copied in self.revisions.items() if n in kept}})

    def used_with(self, backend: str) -> Marker:
        """The same, with this backend's layout saying what is in use."""
        return self.model_copy(update={"backend": backend})

    @staticmethod
    def file(folder: Path) -> Path:
        """Where it lies."""
        return folder / MARKER


def read_marker(folder: Path, name: str) -> Marker | None:
    """The marker of `folder`; None where there is none.

    Raises:
        DeployFailed: E620, it is another deployment's, another version of mlo wrote it, or it cannot be read.
    """
    try:
        data = Marker.file(folder).read_bytes()
        document = json.loads(data)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise folder_unusable(folder, f"its {MARKER} cannot be read: {error}") from error
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise folder_unusable(folder, f"its {MARKER} is damaged: it has no format")
    if document["format"] != _FORMAT:
        age = "a newer" if document["format"] > _FORMAT else "an older"
        raise folder_unusable(
            folder,
            f"{age} version of mlo wrote its {MARKER}: it has format {document['format']}, and this one reads {_FORMAT}",
        )
    try:
        marker = Marker.model_validate_json(data)
    except ValidationError as error:
        raise folder_unusable(folder, f"its {MARKER} is damaged: {first_problem(error)}") from error
    if marker.name != name:
        raise folder_unusable(folder, f"it holds the deployment {marker.name}")
    return marker


def write_marker(folder: Path, marker: Marker) -> None:
    """Replace the marker.

    Raises:
        StoreFailed: the folder cannot be written.
    """
    write_atomic(Marker.file(folder), pretty_json(marker.model_dump(mode="json")))


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder itself for the block; the kernel frees it in any case. A missing folder is not locked.

    Raises:
        Busy: E605.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        yield
        return
    try:
        if not try_lock(handle):
            raise Busy(
                Diagnostic(
                    "E605",
                    f"another command is deploying into {folder}",
                    remedy="wait until it has ended, then run the command again",
                )
            )
        yield
    finally:
        os.close(handle)


def folder_unusable(folder: Path, cause: str) -> DeployFailed:
    """Why this folder cannot be deployed into."""
    return DeployFailed(
        Diagnostic(
            "E620",
            f"{folder} cannot be deployed into",
            cause=cause,
            remedy="name another folder in `deploy: path:`, or make this one empty and writable",
            at=("deploy", "path"),
        )
    )
