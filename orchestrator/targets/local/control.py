"""The control socket of a deployment: its place, how to listen on it, and how to send requests to it: JSON over HTTP (`messages.py`).

The socket lies in the deployment's folder, whose path may be longer than the 107 bytes that the kernel takes for a socket.
So both sides go through an open handle of the folder: `/proc/self/fd/N/control.sock` is always short.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from pydantic import ValidationError

from orchestrator.spec.strict import Strict
from orchestrator.store import locks
from orchestrator.store.record import first_problem
from orchestrator.targets.local.messages import PROTOCOL, AnyMessage, Refusal

__all__ = [
    "CONTROL_SOCKET",
    "ERROR_FILE",
    "FAILED_ON_THE_WAY",
    "LOCKED_EXIT",
    "LOCK_FILE",
    "PROTOCOL_HEADER",
    "STOP_PATH",
    "ControlRefusedError",
    "ControlUnreachableError",
    "ControlVersionError",
    "ask",
    "holder",
    "is_held",
    "listen",
    "order_stop",
]

CONTROL_SOCKET = "control.sock"
LOCK_FILE = "supervisor.lock"
"""Held by the supervisor as long as it lives; holds its process id."""
ERROR_FILE = "supervisor.err"
"""What the supervisor prints when it fails."""
PROTOCOL_HEADER = "Mlo-Protocol"
"""Holds the number of the protocol, in requests and answers."""
STOP_PATH = "/stop"
FAILED_ON_THE_WAY = 500
"""The HTTP status of an operation that failed when a part of it may have been done; other errors are refusals."""
LOCKED_EXIT = 75
"""The supervisor's exit code when another one holds the folder."""


class ControlUnreachableError(Exception):
    """No supervisor answers on the socket."""


class ControlRefusedError(Exception):
    """The supervisor refuses: HTTP status, and the reason for people."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class ControlVersionError(ControlUnreachableError):
    """The supervisor was started by another version of mlo, which speaks another protocol."""


@contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """A path of the socket that is short, however deep the folder lies."""
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{handle}/{CONTROL_SOCKET}"
    finally:
        os.close(handle)


class _UnixConnection(HTTPConnection):
    """HTTP to the socket in a folder."""

    def __init__(self, folder: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._folder = folder

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        with _short_path(self._folder) as path:
            self.sock.connect(path)


def listen(folder: Path) -> socket.socket:
    """A listening control socket in `folder`, open to this user only. The caller holds the folder's lock."""
    (folder / CONTROL_SOCKET).unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with _short_path(folder) as path:
            listening.bind(path)
    finally:
        os.umask(before)
    listening.listen(16)
    listening.settimeout(0)
    return listening


def ask(
    folder: Path,
    method: str,
    path: str,
    answer: type[AnyMessage],
    order: Strict | None = None,
    *,
    seconds: float = 10.0,
) -> AnyMessage:
    """Send a request to the supervisor of `folder` and return its answer.

    Raises:
        ControlUnreachableError: no answer within `seconds`, or none that can be read.
        ControlVersionError: it speaks another version of the protocol.
        ControlRefusedError: it answers with an error.
    """
    headers = {"Content-Type": "application/json", PROTOCOL_HEADER: str(PROTOCOL)}
    status, theirs, body = _exchange(
        folder, method, path, b"" if order is None else order.model_dump_json().encode(), headers, seconds
    )
    if theirs != str(PROTOCOL):
        spoken = "no numbered protocol" if theirs is None else f"protocol {theirs}"
        raise ControlVersionError(
            f"another version of mlo started it: it speaks {spoken} on its control socket, this version protocol {PROTOCOL}"
        )
    try:
        if status >= 400:
            raise ControlRefusedError(status, Refusal.model_validate_json(body).error)
        return answer.model_validate_json(body)
    except ValidationError as error:
        raise ControlUnreachableError(f"its answer cannot be read: {first_problem(error)}") from error


def order_stop(folder: Path, seconds: float) -> None:
    """Ask the supervisor of `folder` to end, whichever version of mlo started it.

    Raises:
        ControlUnreachableError: no answer within `seconds`.
    """
    _exchange(folder, "POST", STOP_PATH, b"", {}, seconds)


def _exchange(
    folder: Path, method: str, path: str, body: bytes, headers: dict[str, str], seconds: float
) -> tuple[int, str | None, bytes]:
    """Status, protocol and body of the answer."""
    connection = _UnixConnection(folder, seconds)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.getheader(PROTOCOL_HEADER), response.read()
    except (OSError, HTTPException) as error:
        raise ControlUnreachableError(str(error)) from error
    finally:
        connection.close()


def is_held(folder: Path) -> bool:
    """Whether a live supervisor holds the lock of `folder`; the kernel frees it when the process ends, however it ends."""
    return locks.is_held(folder / LOCK_FILE)


def holder(folder: Path) -> int | None:
    """The process id that the supervisor of `folder` wrote into its lock; None if it cannot be read.

    It names a live process only while `is_held`.
    """
    with suppress(OSError, ValueError):
        return int((folder / LOCK_FILE).read_text(encoding="utf-8"))
    return None
