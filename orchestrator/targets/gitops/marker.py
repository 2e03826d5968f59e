"""The marker of a folder for Git: whose files it holds, and what each of them is. It is committed together with them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.spec.strict import Strict
from orchestrator.store.atomic import pretty_json
from orchestrator.store.digest import digest_file
from orchestrator.store.record import first_problem

__all__ = ["MARKER", "GitMarker", "drift", "files_below", "folder_unusable", "foreign_files", "read_marker"]

MARKER = ".mlo-gitops.json"
_FORMAT: Literal[1] = 1
_CONFLICT = re.compile(rb"^<<<<<<< ", re.MULTILINE)


class GitMarker(Strict):
    """The marker's content. It holds no revision, no time and no place, so that the same release has the same bytes anywhere.

    Attributes:
        format: of the file.
        name: the deployment's.
        files: path below the folder → sha256 of all that mlo wrote, except for the marker.
    """

    format: Literal[1] = _FORMAT
    name: str
    files: dict[str, str]

    @classmethod
    def of(cls, name: str, tree: Path) -> GitMarker:
        """The marker for all files below `tree`."""
        return cls(name=name, files={file: digest_file(tree / file) for file in files_below(tree)})

    def content(self) -> bytes:
        """The bytes of its file."""
        return pretty_json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """One value for everything that it lists."""
        return hashlib.sha256(self.content()).hexdigest()


def read_marker(folder: Path, name: str) -> GitMarker | None:
    """The marker of `folder`; None where there is none.

    Raises:
        DeployFailed: E671, it is another deployment's, another version of mlo wrote it, or it cannot be read.
    """
    try:
        data = (folder / MARKER).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        file = shlex.quote(str(folder / MARKER))
        readable = (
            f"`ls -ld {file}` shows what it is: make it readable, as with `chmod u+r {file}`, or {_restore(folder)}"
        )
        raise folder_unusable(folder, f"its {MARKER} cannot be read: {error}", readable) from error
    try:
        document = json.loads(data)
    except ValueError as error:
        merging = _CONFLICT.search(data) is not None
        cause = f"its {MARKER} has the conflicts of a merge" if merging else f"its {MARKER} cannot be read: {error}"
        raise folder_unusable(folder, cause, _restore(folder)) from error
    if not isinstance(document, dict) or type(document.get("format")) is not int:
        raise folder_unusable(folder, f"its {MARKER} is damaged: it has no format", _restore(folder))
    if document["format"] != _FORMAT:
        age = "a newer" if document["format"] > _FORMAT else "an older"
        cause = (
            f"{age} version of mlo wrote its {MARKER}: it has format {document['format']}, and this one reads {_FORMAT}"
        )
        raise folder_unusable(folder, cause, "run that version of mlo, or name another folder in `deploy: path:`")
    try:
        marker = GitMarker.model_validate_json(data)
    except ValidationError as error:
        raise folder_unusable(folder, f"its {MARKER} is damaged: {first_problem(error)}", _restore(folder)) from error
    if marker.name != name:
        raise folder_unusable(folder, f"it holds the deployment {marker.name}")
    return marker


def _restore(folder: Path) -> str:
    git = f"git -C {shlex.quote(str(folder))}"
    return (
        f"restore it from the last commit that has it, as with `{git} checkout HEAD -- {MARKER}`, then run the command again: "
        "`mlo apply` writes the other files anew"
    )


def drift(folder: Path, marker: GitMarker) -> tuple[str, ...]:
    """What differs from what mlo wrote, a clause for each file."""
    found = []
    for file, digest in marker.files.items():
        path = folder / file
        if path.is_symlink() or not path.is_file():
            found.append(f"{file} is missing" if not os.path.lexists(path) else f"{file} is no regular file")
        elif digest_file(path) != digest:
            found.append(f"{file} was changed")
    return tuple(found)


def foreign_files(folder: Path, marker: GitMarker | None) -> tuple[str, ...]:
    """The files below `folder` that mlo did not write, links included."""
    own = {MARKER, *marker.files} if marker is not None else set()
    return tuple(file for file in files_below(folder) if file not in own)


def files_below(folder: Path) -> Iterator[str]:
    """The paths of all that is no folder below `folder`, relative to it, in order; links are not followed."""
    found = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        found += [(here / name).relative_to(folder).as_posix() for name in (*files, *links)]
    return iter(sorted(found))


def folder_unusable(folder: Path, cause: str, remedy: str = "") -> DeployFailed:
    """Why this folder cannot be deployed into."""
    return DeployFailed(
        Diagnostic(
            "E671",
            f"{folder} cannot be deployed into",
            cause=cause,
            remedy=remedy or "name another folder in `deploy: path:`, or move away what is in this one",
            at=("deploy", "path"),
        )
    )
