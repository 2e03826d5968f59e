"""Derives names and relative paths for a first spec from the location of the model."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["deployment_name", "located", "relative_path"]

_GENERIC = frozenset({"model", "pytorch-model", "saved-model", "saved_model", "weights", "checkpoint", "last", "best"})
"""Generic file names; the folder's name is more specific."""

_LONGEST = 40


def deployment_name(model: Path) -> str:
    """A valid deployment name from the file or folder, or from the parent folder if that name is generic."""
    path = located(model)
    stem = path.name if path.is_dir() else path.name.partition(".")[0]
    folder = path.parent.name
    if folder and (_name(stem) in _GENERIC or stem.isdecimal()):
        return _name(folder)
    return _name(stem)


def _name(text: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not name[:1].isalpha():
        name = f"model-{name}".strip("-")
    return name[:_LONGEST].strip("-")


def located(path: Path) -> Path:
    """The path with links and dots in its parent folders resolved; the last component stays as given."""
    return path.parent.resolve() / path.name if path.name not in {"", ".."} else path.resolve()


def relative_path(path: Path, folder: Path) -> str:
    """`path` relative to `folder`, for a spec in that folder."""
    return Path(os.path.relpath(located(path), folder.resolve())).as_posix()
