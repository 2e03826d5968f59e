"""Files that are written whole or not at all, and JSON in one canonical form."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from orchestrator.store.crash_points import crash_point
from orchestrator.store.failures import store_errors
from orchestrator.store.locks import create_held
from orchestrator.store.scratch import remove_tree

__all__ = [
    "TEMPORARY_PREFIX",
    "canonical_json",
    "copy_folder_atomic",
    "fsync_folder",
    "fsync_tree",
    "pretty_json",
    "write_atomic",
]

TEMPORARY_PREFIX = ".tmp-"


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace the file at `path`: a reader, at any time, finds all of the old or all of the new content.

    After the return it is on the disk, even if power is lost.

    Args:
        path: the file; its folder exists.
        data: the whole content.
        mode: permission bits, less the umask.

    Raises:
        StoreFailed: the disk is full, or the folder cannot be written. The old file is untouched.
    """
    with store_errors("write", path):
        crash_point("atomic.before-create")
        temporary = path.with_name(f"{TEMPORARY_PREFIX}{uuid4().hex}")
        handle = create_held(temporary, mode)
        try:
            try:
                _write_all(handle, data)
                crash_point("atomic.before-fsync")
                os.fsync(handle)
                crash_point("atomic.after-fsync")
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            crash_point("atomic.after-rename")
            fsync_folder(path.parent)
            crash_point("atomic.after-folder-fsync")
        finally:
            os.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def copy_folder_atomic(source: Path, place: Path) -> None:
    """Copy a folder's contents and names beside `place`, then rename: a folder there is only replaced by a complete one.

    Modes are those of new files, not of `source`. What a killed copy leaves behind has `TEMPORARY_PREFIX`.

    Raises:
        OSError: something cannot be read or written; `place` is as before.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    partial, former = (place.with_name(f"{TEMPORARY_PREFIX}{place.name}{end}") for end in ("", ".former"))
    if former.exists() and not place.exists():
        former.rename(place)  # killed between the two renames below
    for left in (partial, former):
        if left.exists():
            remove_tree(left)
    try:
        source.stat()  # rglob finds nothing in a folder that is missing
        partial.mkdir(mode=0o755)
        for path in sorted(source.rglob("*")):
            copy = partial / path.relative_to(source)
            if path.is_dir():
                copy.mkdir(mode=0o755)
            else:
                shutil.copyfile(path, copy)
                copy.chmod(0o644)
        crash_point("folder.copied")
        fsync_tree(partial)
        if place.exists():
            place.rename(former)
        partial.rename(place)
        crash_point("folder.placed")
        fsync_folder(place.parent)
    finally:
        if former.exists() and not place.exists():
            former.rename(place)
        for left in (partial, former):
            if left.exists():
                remove_tree(left)


def fsync_folder(folder: Path) -> None:
    """Flush a folder's own entries (files created, renamed or removed in it) to the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def fsync_tree(path: Path) -> None:
    """Flush every file and folder under `path`, and `path` itself, to the disk.

    Raises:
        OSError: the disk refuses.
    """
    for folder, _, files in os.walk(path, topdown=False):
        for name in files:
            handle = os.open(Path(folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        fsync_folder(Path(folder))


def canonical_json(value: Any) -> bytes:
    """The one form of a JSON value that is hashed: keys sorted, text in NFC, no spaces, 17.0 written as 17.

    Raises:
        ValueError: NaN, an infinity, a lone surrogate, or two keys that are the same in NFC.
        TypeError: a value that is not JSON, or a key that is not text.
    """
    text = json.dumps(_canonical(value), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def _canonical(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else unicodedata.normalize("NFC", value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        members: dict[str, Any] = {}
        for key, member in value.items():
            if not isinstance(key, str):
                raise TypeError(f"a JSON key must be text, not {key!r}")
            name = _canonical(key)
            if name in members:
                raise ValueError(f"two keys are both {name!r} in Unicode's NFC")
            members[name] = _canonical(member)
        return members
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    return value


def pretty_json(value: Any) -> bytes:
    """JSON for people to read and to compare: keys sorted, one space of indent, a newline at the end.

    Raises:
        ValueError: NaN or an infinity, which JSON does not have.
        TypeError: a value that is not JSON.
    """
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode()
