"""Replaces a folder by another one in one step of the file system; files that mlo did not write stay where they are."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from orchestrator.store.atomic import TEMPORARY_PREFIX, fsync_folder, fsync_tree
from orchestrator.store.crash_points import crash_point
from orchestrator.store.failures import store_errors
from orchestrator.store.scratch import remove_tree
from orchestrator.targets.gitops.marker import MARKER, folder_unusable, foreign_files, read_marker
from orchestrator.targets.gitops.repository import Repository

__all__ = ["check_room", "clear", "replace_folder", "settle"]

_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_AT_FDCWD = -100
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV})


def check_room(folder: Path, name: str, wanted: tuple[str, ...]) -> None:
    """Check that no file of others lies where mlo would write one.

    Raises:
        DeployFailed: E671.
    """
    others = foreign_files(folder, read_marker(folder, name)) if folder.is_dir() else ()
    taken = {file: file for file in others}
    for file in others:  # a file cannot lie below another one
        taken |= {above.as_posix(): file for above in PurePosixPath(file).parents}
    for file in (*wanted, MARKER):
        for part in (PurePosixPath(file), *PurePosixPath(file).parents):
            other = part.as_posix() if part.as_posix() in others else None
            if other is not None or (part == PurePosixPath(file) and file in taken):
                raise folder_unusable(
                    folder,
                    f"{other or taken[file]} is in the way of {file}, and not from mlo",
                    f"move {other or taken[file]} to another place",
                )


def replace_folder(folder: Path, name: str, tree: Path) -> None:
    """Let `folder` hold the files of `tree`, with its marker, in place of what mlo wrote there before.

    Whoever lists the folder sees the former or the new files; Git commands that read files wait, or fail with a message, for
    the milliseconds of the change. Files of others are in the new folder as they were: the same files, by their hard links.

    Raises:
        DeployFailed: E671, a file of others is in the way.
        Busy: E605, a Git command is at work.
        StoreFailed: it cannot be written; it is as before.
    """
    with store_errors("write", folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _stage(folder) as stage:
            new = stage / "new"
            with _complete(new) as building:
                _copy(tree, building)
                fsync_tree(building)
                _link_others(folder, name, building)
            crash_point("gitops.staged")
            with _no_git_command(folder):
                _exchange(new, folder, stage)
            crash_point("gitops.exchanged")
            fsync_folder(folder.parent)
            _rescue(stage, folder, name)


def clear(folder: Path, name: str) -> None:
    """Remove what mlo wrote into `folder`, and the folder too if nothing else is in it, in one step.

    Raises:
        DeployFailed: E671, its marker cannot be read.
        Busy: E605, a Git command is at work.
        StoreFailed: it cannot be written; it is as before.
    """
    with store_errors("clean up", folder), _stage(folder) as stage:
        new = stage / "new"
        if others := foreign_files(folder, read_marker(folder, name)):
            with _complete(new) as building:
                building.mkdir(mode=0o755)
                _link_others(folder, name, building)
        crash_point("gitops.rest-staged")
        with _no_git_command(folder):
            if others:
                _exchange(new, folder, stage)
            else:
                folder.rename(stage / "former")
        crash_point("gitops.cleared")
        fsync_folder(folder.parent)
        _rescue(stage, folder, name)


def settle(folder: Path, name: str) -> None:
    """Clean up after an mlo that was killed in the middle of a change; the caller holds the folder's lock."""
    repository = Repository.around(folder)
    if repository is not None:
        repository.unlock_killed()
    stage = _stage_of(folder)
    if stage.is_dir():
        with store_errors("clean up", stage):
            _restore(stage, folder)
            _rescue(stage, folder, name)
            remove_tree(stage)


def _stage_of(folder: Path) -> Path:
    return folder.with_name(f"{TEMPORARY_PREFIX}mlo-{folder.name}")


@contextmanager
def _stage(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder` that Git ignores, for the next files and then for the former ones."""
    stage = _stage_of(folder)
    stage.mkdir(mode=0o755)
    try:
        (stage / ".gitignore").write_bytes(b"*\n")
        yield stage
    finally:
        _restore(stage, folder)
        remove_tree(stage)


@contextmanager
def _complete(new: Path) -> Iterator[Path]:
    """Where to build what becomes `new` when it is complete, so that a `new` always is."""
    building = new.with_name("building")
    yield building
    for place, _, _ in os.walk(building):
        fsync_folder(Path(place))
    building.rename(new)


def _restore(stage: Path, folder: Path) -> None:
    """Put the former folder back where a change in two renames stopped after the first."""
    former, new = stage / "former", stage / "new"
    if former.is_dir() and new.is_dir() and not os.path.lexists(folder):
        former.rename(folder)


def _copy(tree: Path, new: Path) -> None:
    new.mkdir(mode=0o755)
    for path in sorted(tree.rglob("*")):
        copy = new / path.relative_to(tree)
        if path.is_dir():
            copy.mkdir(mode=0o755)
        else:
            shutil.copyfile(path, copy)
            copy.chmod(0o644)


def _link_others(source: Path, name: str, place: Path) -> None:
    """Let the files of `source` that mlo did not write lie in `place` too."""
    if not source.is_dir():
        return
    for file in foreign_files(source, read_marker(source, name)):
        if not os.path.lexists(place / file):
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            os.link(source / file, place / file, follow_symlinks=False)


def _rescue(stage: Path, folder: Path, name: str) -> None:
    """Bring over what others wrote into the former folder in the moment before it was replaced."""
    for left in (stage / "former", stage / "new"):
        _link_others(left, name, folder)


@contextmanager
def _no_git_command(folder: Path) -> Iterator[None]:
    repository = Repository.around(folder)
    if repository is None:
        yield
        return
    with repository.no_git_command():
        yield


def _exchange(new: Path, folder: Path, stage: Path) -> None:
    """Let the two folders change places; a folder that is not there yet, or is empty, is just replaced."""
    if not folder.exists() or not any(folder.iterdir()):
        new.rename(folder)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(folder), _EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    if code not in _UNSUPPORTED:
        raise OSError(code, os.strerror(code), str(folder))
    # A file system without it, such as NFS: two renames, which Git commands do not see, and `settle` completes.
    folder.rename(stage / "former")
    crash_point("gitops.between-renames")
    new.rename(folder)
