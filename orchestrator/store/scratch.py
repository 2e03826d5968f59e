"""Working folders that are removed when their owner ends, even if it was killed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from orchestrator.store.failures import store_errors
from orchestrator.store.locks import create_held

__all__ = ["OWNER_SUFFIX", "remove_tree", "scratch_folder"]

OWNER_SUFFIX = ".owner"


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new, empty folder under `parent`, removed at the end with all that is left in it.

    `NAME.owner` beside it is locked as long as this process lives, so that a sweep can recognise stray folders.

    Raises:
        StoreFailed: it cannot be created.
    """
    folder = parent / uuid4().hex
    owner = folder.with_name(folder.name + OWNER_SUFFIX)
    with store_errors("create", folder):
        handle = create_held(owner, 0o600)
    try:
        with store_errors("create", folder):
            folder.mkdir(mode=0o700)
        yield folder
    finally:
        # What cannot be removed now is left to the next sweep; an error here must not hide that of the work itself.
        with contextlib.suppress(OSError):
            remove_tree(folder)
            owner.unlink(missing_ok=True)
        os.close(handle)


def remove_tree(path: Path) -> int:
    """Remove a folder with all that is in it, read-only or not; links are removed, never followed.

    Returns:
        How many bytes its files had.

    Raises:
        OSError: something cannot be removed. A folder that is not there is no error.
    """
    freed = 0
    # Another process may be removing the same entry: already gone is fine.
    with contextlib.suppress(FileNotFoundError):
        path.chmod(0o700)
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    freed += remove_tree(Path(entry.path))
                else:
                    freed += _remove_file(entry)
        path.rmdir()
    return freed


def _remove_file(entry: os.DirEntry[str]) -> int:
    with contextlib.suppress(FileNotFoundError):
        size = entry.stat(follow_symlinks=False).st_size
        Path(entry.path).unlink()
        return size
    return 0
