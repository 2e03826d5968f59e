"""What a file or a folder is, as a sha256: the same content has the same digest wherever it lies."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StoreFailed
from orchestrator.store.atomic import write_atomic
from orchestrator.store.failures import store_errors
from orchestrator.store.record import Record

if TYPE_CHECKING:
    from orchestrator.store.home import Home

__all__ = ["FileEntry", "Manifest", "StatCache", "digest_file", "digest_path", "digest_tree", "sha256_bytes"]

_DOMAIN = b"mlo.tree.v1\0"
_TRIES = 3

# A file changed twice within one tick of the file system's clock looks unchanged to a stat in between. Git calls such
# entries racily clean and distrusts them likewise (Documentation/technical/racy-git.txt).
_RACY = 2_000_000_000  # nanoseconds
_MOST_ENTRIES = 50_000


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a tree.

    Attributes:
        sha256: of its content, 64 hex digits.
        size: in bytes.
        executable: whether its owner may execute it.
    """

    sha256: str
    size: int
    executable: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a tree.

    Attributes:
        files: POSIX path relative to the tree → entry, sorted; empty folders do not count.
        digest: sha256 over all of it, 64 hex digits.
    """

    files: Mapping[str, FileEntry]
    digest: str

    @classmethod
    def of(cls, files: Mapping[str, FileEntry]) -> Manifest:
        """The manifest of these files."""
        ordered = {name: files[name] for name in sorted(files)}
        hasher = hashlib.sha256(_DOMAIN)
        for name, entry in ordered.items():
            # Paths hold no NUL, and the other fields no line end: different trees give different bytes.
            line = f"{name}\0{'x' if entry.executable else '-'} {entry.size} {entry.sha256}\n"
            hasher.update(line.encode())
        return cls(MappingProxyType(ordered), hasher.hexdigest())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())

    def as_json(self) -> dict[str, Any]:
        """The form that receipts keep."""
        files = {
            name: {"sha256": entry.sha256, "size": entry.size, "executable": entry.executable}
            for name, entry in self.files.items()
        }
        return {"digest": self.digest, "files": files}

    @classmethod
    def from_json(cls, document: Any) -> Manifest:
        """The manifest of that form.

        Raises:
            ValueError: the digest is not that of the files, or the document has another form.
        """
        try:
            manifest = cls.of(
                {
                    str(name): FileEntry(str(entry["sha256"]), int(entry["size"]), bool(entry["executable"]))
                    for name, entry in document["files"].items()
                }
            )
            named = document["digest"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a manifest: {error!r}") from error
        if named != manifest.digest:
            raise ValueError("the manifest's digest is not that of its files")
        return manifest


def sha256_bytes(data: bytes) -> str:
    """The sha256 of `data`, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


class StatCache:
    """Digests of files by path, size, both times and inode, so that a large file is read once and not for every plan.

    It is safe in concurrent use: the file is replaced as a whole, and losing a race only costs reading a file again.
    Losing it costs time and nothing else.

    Args:
        home: where it is kept.
    """

    def __init__(self, home: Home) -> None:
        self._file = home.stat_cache
        self._entries: dict[str, _Known] | None = None
        self._new: dict[str, _Known] = {}

    def get(self, path: Path, now: os.stat_result) -> str | None:
        """The digest of the file that has this stat, if it is known and can be trusted."""
        if self._entries is None:
            self._entries = self._load()
        entry = self._entries.get(str(path))
        if entry is None or entry.file != _Identity.of(now):
            return None
        return entry.digest if entry.stored - now.st_mtime_ns >= _RACY else None

    def put(self, path: Path, then: os.stat_result, digest: str) -> None:
        """Keep the digest of a file that had this stat before and after it was read."""
        if self._entries is None:
            self._entries = self._load()
        entry = _Known(_Identity.of(then), time.time_ns(), digest)
        self._entries[str(path)] = self._new[str(path)] = entry

    def save(self) -> None:
        """Write new entries to the disk; a full or read-only disk is ignored."""
        if not self._new:
            return
        entries = self._load() | self._new
        if len(entries) > _MOST_ENTRIES:
            newest = sorted(entries, key=lambda path: entries[path].stored)[-_MOST_ENTRIES:]
            entries = {path: entries[path] for path in newest}
        # The cache only saves time; a command that has done its work does not fail without it.
        with contextlib.suppress(StoreFailed):
            write_atomic(self._file, _Cache(format=1, files=entries).model_dump_json().encode())
            self._new.clear()

    def _load(self) -> dict[str, _Known]:
        try:
            return _Cache.model_validate_json(self._file.read_bytes()).files
        except (OSError, ValidationError):  # none yet, damaged, or another version's: everything is read again
            return {}


class _Identity(NamedTuple):
    """What a file's stat says of its content; times in nanoseconds."""

    size: int
    modified: int
    changed: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> _Identity:
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)


class _Known(NamedTuple):
    """A file's digest, and when it was kept."""

    file: _Identity
    stored: int
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Cache(Record):
    """The content of the file: path → what is known."""

    format: Literal[1]
    files: dict[str, _Known]


def digest_file(path: Path, cache: StatCache | None = None) -> str:
    """The sha256 of a file's content, 64 hex digits; a link is followed.

    Args:
        path: the file, often one of the user's.
        cache: looked up first, and updated.

    Raises:
        OSError: it cannot be read, is no regular file, or keeps changing while it is read.
    """
    absolute = path.absolute()
    if cache is not None and (known := cache.get(absolute, absolute.stat())) is not None:
        return known
    for _ in range(_TRIES):
        before, digest, after = _read(absolute)
        if _Identity.of(before) == _Identity.of(after):
            if cache is not None:
                cache.put(absolute, after, digest)
            return digest
    raise OSError(errno.EBUSY, "it keeps changing while it is read", str(path))


def digest_path(path: Path, cache: StatCache | None = None) -> str:
    """The digest of a file's content, or of the folder at `path` as a tree.

    Raises:
        OSError: as `digest_file`; StoreFailed: as `digest_tree`.
    """
    return digest_tree(path, cache).digest if path.is_dir() else digest_file(path, cache)


def _read(path: Path) -> tuple[os.stat_result, str, os.stat_result]:
    # O_NONBLOCK: a named pipe must not hold up the open.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(handle, "rb", buffering=0) as file:  # noqa: PTH123 - from a descriptor
        before = os.fstat(handle)
        if stat.S_ISDIR(before.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(before.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return before, digest, os.fstat(handle)


def digest_tree(path: Path, cache: StatCache | None = None) -> Manifest:
    """What is in the folder at `path`, all folders below included; empty ones do not count.

    Raises:
        StoreFailed: it cannot be read, or has a link, a device or a name that is not UTF-8 in it.
    """
    files: dict[str, FileEntry] = {}
    with store_errors("read", path):
        _collect(path, "", cache, files)
    return Manifest.of(files)


def _collect(folder: Path, prefix: str, cache: StatCache | None, files: dict[str, FileEntry]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            name, place = f"{prefix}{entry.name}", Path(entry.path)
            if not _is_utf8(name):
                raise _unfit(place, "its name is not UTF-8", "rename it")
            if entry.is_symlink():
                raise _unfit(place, f"it is a link to {place.readlink()}", "put the file itself in its place")
            if entry.is_dir(follow_symlinks=False):
                _collect(place, f"{name}/", cache, files)
            elif entry.is_file(follow_symlinks=False):
                digest = digest_file(place, cache)
                found = entry.stat(follow_symlinks=False)
                files[name] = FileEntry(digest, found.st_size, bool(found.st_mode & stat.S_IXUSR))
            else:
                raise _unfit(place, "it is neither a file nor a folder", "remove it")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # Python reads other bytes as lone surrogates
        return False
    return True


def _unfit(path: Path, cause: str, remedy: str) -> StoreFailed:
    shown = os.fsencode(path).decode(errors="backslashreplace")
    return StoreFailed(Diagnostic(code="E706", message=f"cannot store {shown}", cause=cause, remedy=remedy))
