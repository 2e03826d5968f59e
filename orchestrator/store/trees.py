"""Results of steps: folders under their own digest, committed whole, read-only, checked before use."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import uuid4

from pydantic import ValidationError

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StoreFailed
from orchestrator.store.atomic import fsync_folder, fsync_tree, write_atomic
from orchestrator.store.crash_points import crash_point
from orchestrator.store.digest import FileEntry, Manifest, digest_file, digest_tree
from orchestrator.store.failures import store_errors, store_failed
from orchestrator.store.home import Home
from orchestrator.store.record import Record
from orchestrator.store.scratch import remove_tree

__all__ = ["TreeStore"]

# Every file of a tree gets this modification time (2000-01-01T00:00:00Z). A later write sets another one,
# so its stat shows the change, even within one tick of the clock. Not 0: zip files have no times before 1980.
_MODIFIED_NS = 946_684_800_000_000_000
_RACY_NS = 2_000_000_000  # as for the stat cache: a file changed that recently may change again within the same tick
_SEAL_SUFFIX = ".seal.json"


class TreeStore:
    """The trees of one home.

    A tree's seal, a file beside it, has the inode and times of each of its files as they were when the content was
    last read. It makes checking cheap; a tree without one, or with another one, is read again.

    Args:
        home: where they are kept.
    """

    def __init__(self, home: Home) -> None:
        self._home = home

    def commit(self, folder: Path) -> Manifest:
        """Move `folder` into the store. After the return it is on the disk, even if power is lost.

        If the store already has the same tree, intact, `folder` is removed instead. Nothing may write to it meanwhile.

        Args:
            folder: on the same disk as the store, such as one inside `Home.scratch_folder`.

        Raises:
            StoreFailed: the disk is full, or something in the folder cannot be kept (a link, a device).
        """
        crash_point("tree.before-hash")
        manifest = digest_tree(folder)
        with store_errors("store", folder):
            if self.holds(manifest.digest) and not self.verify(manifest):
                remove_tree(folder)
                return manifest
            _freeze(folder)
            crash_point("tree.before-fsync")
            fsync_tree(folder)
            crash_point("tree.after-fsync")
            final = self.path(manifest.digest)
            if not final.parent.is_dir():
                final.parent.mkdir(mode=0o700, exist_ok=True)
                fsync_folder(self._home.trees)
            self._move_in(folder, manifest)
            crash_point("tree.after-rename")
            fsync_folder(final.parent)
            crash_point("tree.after-folder-fsync")
            self._seal(manifest.digest, dict(_walk(final)))
        return manifest

    def path(self, digest: str) -> Path:
        """Where the tree is, or would be."""
        return self._home.trees / digest[:2] / digest

    def holds(self, digest: str) -> bool:
        """Whether the tree is there; `verify` checks whether it is intact."""
        return self.path(digest).is_dir()

    def verify(self, manifest: Manifest, *, deep: bool = False) -> str | None:
        """What is wrong with a stored tree, in words; None when it is intact.

        Names, sizes and times are always checked, a file's content only where they leave a doubt.

        Args:
            manifest: what should be there.
            deep: read everything, which also finds what a failing disk has changed.
        """
        folder = self.path(manifest.digest)
        if not folder.is_dir():
            return "it is gone"
        sealed = {} if deep else self._sealed(manifest.digest)
        doubtful = False
        try:
            found = dict(_walk(folder))
            if missing := sorted(manifest.files.keys() - found.keys()):
                return f"{missing[0]} is missing"
            if strange := sorted(found.keys() - manifest.files.keys()):
                return f"{strange[0]} does not belong to it"
            for name, entry in manifest.files.items():
                if damage := _visible_damage(entry, found[name]):
                    return f"{name} {damage}"
                if sealed.get(name) != _Marks.of(found[name]):
                    doubtful = True
                    if digest_file(folder / name) != entry.sha256:
                        return f"{name} has different content"
        except OSError as error:
            return f"{error.filename or folder} cannot be read: {error.strerror}"
        if doubtful:
            # A store that can only be read can still be used; it is just read again the next time.
            with contextlib.suppress(StoreFailed):
                self._seal(manifest.digest, found)
        return None

    def discard(self, digest: str) -> int:
        """Remove a tree atomically.

        Returns:
            How many bytes that freed; 0 if it was not there.

        Raises:
            StoreFailed: it cannot be removed.
        """
        folder = self.path(digest)
        with store_errors("remove", folder):
            crash_point("tree.before-discard")
            self._seal_file(digest).unlink(missing_ok=True)
            away = self._home.scratch / f"discarded-{uuid4().hex}"
            try:
                folder.chmod(0o700)
                folder.rename(away)
            except FileNotFoundError:
                return 0
            crash_point("tree.after-discard")
            return remove_tree(away)

    def digests(self) -> Iterator[str]:
        """The digests of all trees that are there, whole or not."""
        for shelf in sorted(self._home.trees.glob("??")):
            for entry in sorted(shelf.iterdir()):
                if not entry.name.endswith(_SEAL_SUFFIX) and not entry.name.startswith("."):
                    yield entry.name

    def _move_in(self, folder: Path, manifest: Manifest) -> None:
        final = self.path(manifest.digest)
        while True:
            try:
                folder.rename(final)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
            else:
                # Only now: a folder that cannot be written cannot be moved either.
                final.chmod(0o555)
                return
            if not self.verify(manifest):
                remove_tree(folder)
                return
            self.discard(manifest.digest)

    def _seal_file(self, digest: str) -> Path:
        return self.path(digest).with_name(digest + _SEAL_SUFFIX)

    def _sealed(self, digest: str) -> Mapping[str, _Marks]:
        try:
            return _Seal.model_validate_json(self._seal_file(digest).read_bytes()).files
        except (OSError, ValidationError):  # none yet, damaged, or another version's: the tree is read again
            return {}

    def _seal(self, digest: str, found: Mapping[str, os.stat_result]) -> None:
        """Write down how the files looked before they were read, so that a change since then is seen."""
        newest = time.time_ns() - _RACY_NS
        marks = {name: _Marks.of(status) for name, status in found.items() if status.st_mtime_ns < newest}
        write_atomic(self._seal_file(digest), _Seal(format=1, files=marks).model_dump_json().encode())


class _Marks(NamedTuple):
    """How a file looked when it was read; times in nanoseconds."""

    inode: int
    modified: int
    changed: int

    @classmethod
    def of(cls, found: os.stat_result) -> _Marks:
        return cls(found.st_ino, found.st_mtime_ns, found.st_ctime_ns)


class _Seal(Record):
    """The content of a seal: path relative to the tree → the file's marks."""

    format: Literal[1]
    files: dict[str, _Marks]


def _walk(folder: Path, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """All that is no folder below `folder`: POSIX path relative to it, and its own stat."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}", entry.stat(follow_symlinks=False)


def _visible_damage(entry: FileEntry, found: os.stat_result) -> str:
    if not stat.S_ISREG(found.st_mode):
        return "is no longer a regular file"
    if found.st_size != entry.size:
        return f"has {found.st_size} bytes instead of {entry.size}"
    if bool(found.st_mode & stat.S_IXUSR) != entry.executable:
        return "is no longer executable" if entry.executable else "is executable now"
    return ""


def _freeze(folder: Path) -> None:
    """Make all below `folder` read-only, with the same time everywhere; drop folders without files.

    `folder` itself stays writable: it has to be moved yet.
    """
    for place, _, files in os.walk(folder, topdown=False):
        here = Path(place)
        for name in files:
            file = here / name
            found = file.lstat()
            if found.st_nlink > 1:
                raise StoreFailed(
                    Diagnostic(
                        code="E706",
                        message=f"cannot store {file}",
                        cause="it has a hard link elsewhere, through which it could be modified later",
                        remedy="copy the file instead of linking it",
                    )
                )
            os.utime(file, ns=(_MODIFIED_NS, _MODIFIED_NS))
            file.chmod(0o555 if found.st_mode & stat.S_IXUSR else 0o444)
        if here != folder:
            here.chmod(0o555)
            _drop_if_empty(here)


def _drop_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise store_failed("store", folder, error) from error
