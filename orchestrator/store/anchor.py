"""Which folder a store belongs to, so that a command finds it from every folder of a project, as git finds its repository."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["STORE", "anchor"]

STORE = ".mlo"
"""The store's folder in the one that it belongs to."""


def anchor(folder: Path) -> Path:
    """The root of the repository that a folder lies in; outside of one the nearest folder with a store, or the folder itself.

    A repository or store that somebody else has left in a folder above, such as /tmp, is passed over: it counts if it is of this
    user, of root, or of the owner of `folder`.

    Args:
        folder: of the spec, or the working folder.
    """
    folder = folder.resolve()
    trusted = {os.geteuid(), 0, _owner(folder)}
    places = (folder, *folder.parents)
    for name, is_one in ((".git", _is_repository), (STORE, Path.is_dir)):
        for place in places:
            found = place / name
            with suppress(OSError):  # of a folder that this user may not read
                if is_one(found) and _owner(found) in trusted:
                    return place
    return folder


def _is_repository(found: Path) -> bool:
    """A file is what linked work trees and submodules have."""
    return found.is_file() or (found / "HEAD").is_file()


def _owner(path: Path) -> int | None:
    try:
        return path.stat().st_uid
    except OSError:
        return None
