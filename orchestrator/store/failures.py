"""Turns the operating system's errors about the store into errors that say what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StoreFailed

__all__ = ["store_errors", "store_failed"]

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


@contextmanager
def store_errors(doing: str, path: Path) -> Iterator[None]:
    """Raise StoreFailed for every OSError inside: a full disk, a quota, no permission, a broken device.

    Args:
        doing: the attempted action, such as "write"; the message reads "cannot write PATH".
        path: the file or folder, if the error names none.
    """
    try:
        yield
    except OSError as error:
        raise store_failed(doing, path, error) from error


def store_failed(doing: str, path: Path, error: OSError) -> StoreFailed:
    """The StoreFailed that explains why `path` cannot be written or read, and what to do."""
    return StoreFailed(
        Diagnostic(
            code="E701",
            message=f"cannot {doing} {path}",
            cause=_cause(error),
            remedy=_remedy(path, error),
        )
    )


def _cause(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _remedy(path: Path, error: OSError) -> str:
    folder = _existing(path)
    match error.errno:
        case errno.ENOSPC:
            return (
                f"free space on the disk of {folder} ({_free(folder)} left; `mlo gc` removes what no deployment "
                "needs), then run the same command again: finished steps are kept"
            )
        case errno.EDQUOT | errno.EFBIG:
            return (
                f"raise the limit or quota for {folder}, or free space (`mlo gc`), then run the same command again: "
                "finished steps are kept"
            )
        case errno.EROFS:
            return f"make the file system of {folder} writable, or use another location: MLO_HOME for the store, `deploy: path:` for a folder"
        case errno.EACCES | errno.EPERM:
            return f"get read and write permission for {folder}, or use another location: MLO_HOME for the store, `deploy: path:` for a folder"
        case errno.EMFILE | errno.ENFILE:
            return "raise the limit of open files (`ulimit -n`) and run the same command again"
        case errno.EIO:
            return f"check the disk of {folder}, which reports an I/O error"
        case _:
            return f"check {folder}, then run the same command again"


def _existing(path: Path) -> Path:
    """The nearest folder of `path` that exists."""
    for folder in (path, *path.parents):
        if folder.is_dir():
            return folder
    return Path("/")


def _free(folder: Path) -> str:
    try:
        status = os.statvfs(folder)
    except OSError:  # the disk itself fails, which the original error reports
        return "an unknown amount"
    size = float(status.f_bavail * status.f_frsize)
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"
