"""Locks between processes, by flock: the kernel frees them when their holder ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import Busy
from orchestrator.store.failures import store_errors

__all__ = [
    "create_held",
    "holder_of",
    "is_held",
    "lock",
    "open_locked",
    "probe_flock",
    "share",
    "try_lock",
    "unless_held",
    "write_holder",
]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 1.0  # seconds
_LONGEST_TEXT = 4096  # bytes of a lock file that are looked at


@contextmanager
def lock(
    path: Path,
    *,
    timeout: float,
    info: Mapping[str, Any],
    on_wait: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Hold the lock at `path` exclusively.

    The file's text only names the holder for others. It may be left after a kill and is never trusted: flock decides.

    Args:
        path: the lock file; its folder exists. It is left in place.
        timeout: seconds to wait for the holder; 0 tries once.
        info: for those who wait: "what" is being done; pid, host and time are added.
        on_wait: called with the holder when the wait begins, and whenever the holder changes.

    Raises:
        Busy: it is still held after `timeout` seconds.
        StoreFailed: the lock file cannot be opened.
    """
    with _held(path, fcntl.LOCK_EX, timeout, info, on_wait):
        yield


@contextmanager
def share(
    path: Path,
    *,
    timeout: float,
    info: Mapping[str, Any],
    on_wait: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Hold the lock at `path` together with others who share it; an exclusive holder (`lock`) waits for all of them.

    Arguments and errors are those of `lock`.
    """
    with _held(path, fcntl.LOCK_SH, timeout, info, on_wait):
        yield


@contextmanager
def _held(
    path: Path, kind: int, timeout: float, info: Mapping[str, Any], on_wait: Callable[[str], None] | None
) -> Iterator[None]:
    handle = _acquire(path, kind, timeout, on_wait)
    try:
        write_holder(handle, info)
        yield
    finally:
        os.close(handle)


def _acquire(path: Path, kind: int, timeout: float, on_wait: Callable[[str], None] | None) -> int:
    until = time.monotonic() + timeout
    pause = _FIRST_PAUSE
    reported = ""
    while True:
        handle = open_locked(path, shared=kind == fcntl.LOCK_SH)
        if handle is not None:
            return handle
        left = until - time.monotonic()
        holder = holder_of(path)
        if left <= 0:
            raise Busy(_busy(path, holder, timeout))
        if on_wait is not None and holder != reported:
            reported = holder
            on_wait(holder)
        time.sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)


def open_locked(path: Path, *, shared: bool) -> int | None:
    """The open, locked file at `path`, or None while another process holds it. Closing it frees it.

    Raises:
        StoreFailed: it cannot be opened.
    """
    with store_errors("lock", path):
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if not try_lock(handle, shared=shared):
                    os.close(handle)
                    return None
                if _is_at(path, handle):
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # removed before we had the lock: it would not exclude anybody


def _is_at(path: Path, handle: int) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(handle)
    return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)


def write_holder(handle: int, info: Mapping[str, Any]) -> None:
    """Write into an open lock file who holds it, for those who wait: `info` with pid, host and time."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({**info, "pid": os.getpid(), "host": os.uname().nodename, "since": since})
    # The lock works without its text: on a full disk waiting processes just cannot name the holder.
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)


def holder_of(path: Path) -> str:
    """Describes the holder that a lock file names; it may be a moment old."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_LONGEST_TEXT))
        what, pid, host, since = (str(document[name]) for name in ("what", "pid", "host", "since"))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):  # being rewritten just now, or not ours
        return "another process"
    where = "" if host == os.uname().nodename else f" on {host}"
    return f"process {pid}{where} ({what}, since {since})"


def _busy(path: Path, holder: str, timeout: float) -> Diagnostic:
    return Diagnostic(
        code="E703",
        message=f"{path.stem} is locked by {holder}",
        cause=f"the lock was still held after {timeout:g} s" if timeout > 0 else "",
        remedy="wait for that process to finish, or stop it, then run the same command again; "
        "do not remove the lock file",
        notes=(f"lock: {path}",),
    )


def try_lock(handle: int, *, shared: bool = False) -> bool:
    """Lock an open file or folder, unless another process holds it. Closing it, or the end of the process, frees it.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def create_held(path: Path, mode: int) -> int:
    """Create a file that this process locks until it closes it or ends, so that a sweep can tell it from a stray one.

    Raises:
        OSError: it cannot be created, or is there already.
    """
    while True:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except BaseException:
            os.close(handle)
            path.unlink(missing_ok=True)
            raise
        if os.fstat(handle).st_nlink:
            return handle
        os.close(handle)  # a sweep removed it before our flock


@contextmanager
def unless_held(path: Path) -> Iterator[bool]:
    """Whether no process holds this file; none can while the block runs. A file that is missing or was replaced counts as held."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        yield try_lock(handle) and _is_at(path, handle)
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether a live process holds the lock at `path`."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        return not try_lock(file.fileno(), shared=True)
    return False


def probe_flock(folder: Path) -> Diagnostic | None:
    """Whether flock excludes in this folder; a warning if it does not, as on some network file systems.

    Raises:
        StoreFailed: the folder cannot be written.
    """
    path = folder / f".tmp-{uuid4().hex}"
    with store_errors("write", path):
        first = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            second = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                reason = _why_not_exclusive(first, second)
            finally:
                os.close(second)
        finally:
            os.close(first)
            path.unlink(missing_ok=True)
    if not reason:
        return None
    return Diagnostic(
        code="W708",
        message=f"locks do not work in {folder}",
        cause=reason,
        remedy="set MLO_HOME to a folder on a local disk, or run only one command at a time here",
        severity="warning",
    )


def _why_not_exclusive(first: int, second: int) -> str:
    try:
        try_lock(first)
    except OSError as error:
        return f"flock fails: {error.strerror}"
    return "two holders got the same lock at once" if try_lock(second) else ""
