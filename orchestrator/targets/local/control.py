"""The control socket of a deployment: its place, how to listen on it, and how to send requests to it. JSON over HTTP, standard library.

The socket lies in the deployment's folder, whose path may be longer than the 107 bytes that the kernel takes for a socket.
So both sides go through an open handle of the folder: `/proc/self/fd/N/control.sock` is always short.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from orchestrator.store import locks

__all__ = [
    "CONTROL_SOCKET",
    "ERROR_FILE",
    "LOCKED_EXIT",
    "LOCK_FILE",
    "ControlRefusedError",
    "ControlUnreachableError",
    "Launching",
    "ask",
    "is_held",
    "listen",
]

CONTROL_SOCKET = "control.sock"
LOCK_FILE = "supervisor.lock"
"""Held by the supervisor as long as it lives; holds its process id."""
ERROR_FILE = "supervisor.err"
"""What the supervisor prints when it fails."""
LOCKED_EXIT = 75
"""The supervisor's exit code when another one holds the folder."""


class ControlUnreachableError(Exception):
    """No supervisor answers on the socket."""


class ControlRefusedError(Exception):
    """The supervisor refuses: HTTP status, reason for people, and further facts."""

    def __init__(self, status: int, document: dict[str, Any]) -> None:
        super().__init__(str(document.get("error", f"status {status}")))
        self.status = status
        self.document = document


@dataclass(frozen=True, slots=True)
class Launching:
    """How a recipe is started on this machine: command, port and folder for its files.

    Attributes:
        handover: the option that names the socket over which listening sockets come; None if the server takes none.
    """

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    port: int
    scratch: str
    ready_path: str
    handover: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` reads it back."""
        return {**asdict(self), "argv": list(self.argv)}

    @staticmethod
    def from_json(document: dict[str, Any]) -> Launching:
        """What `as_json` wrote."""
        return Launching(**{**document, "argv": tuple(document["argv"])})


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


def ask(folder: Path, method: str, path: str, body: dict[str, Any] | None = None, *, seconds: float = 10.0) -> Any:
    """Send a request to the supervisor of `folder` and return its JSON answer.

    Raises:
        ControlUnreachableError: no answer within `seconds`.
        ControlRefusedError: it answers with an error.
    """
    connection = _UnixConnection(folder, seconds)
    try:
        connection.request(
            method, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        document = json.loads(response.read())
    except (OSError, HTTPException, json.JSONDecodeError) as error:
        raise ControlUnreachableError(str(error)) from error
    finally:
        connection.close()
    if response.status >= 400:
        raise ControlRefusedError(response.status, document)
    return document


def is_held(folder: Path) -> bool:
    """Whether a live supervisor holds the lock of `folder`; the kernel frees it when the process ends, however it ends."""
    return locks.is_held(folder / LOCK_FILE)
