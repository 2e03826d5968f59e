"""Names and relative paths for a first spec, out of where the model lies."""

from __future__ import annotations

import os
import re
from pathlib import Path

__all__ = ["deployment_name", "located", "relative_path"]

_SAYS_NOTHING = frozenset(
    {"model", "pytorch-model", "saved-model", "saved_model", "weights", "checkpoint", "last", "best"}
)
"""Names that files have whatever the model is: the folder's says more."""

_LONGEST = 40


def deployment_name(model: Path) -> str:
    """A name that a spec can hold: of the file or folder, or of the folder around it where the former says nothing."""
    path = located(model)
    stem = path.name if path.is_dir() else path.name.partition(".")[0]
    folder = path.parent.name
    if folder and (_name(stem) in _SAYS_NOTHING or stem.isdecimal()):
        return _name(folder)
    return _name(stem)


def _name(text: str) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not name[:1].isalpha():
        name = f"model-{name}".strip("-")
    return name[:_LONGEST].strip("-")


def located(path: Path) -> Path:
    """The path without links and dots in its folders, by the name that it was given."""
    return path.parent.resolve() / path.name if path.name not in {"", ".."} else path.resolve()


def relative_path(path: Path, folder: Path) -> str:
    """`path` as a spec in `folder` names it."""
    return Path(os.path.relpath(located(path), folder.resolve())).as_posix()
