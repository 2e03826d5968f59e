"""Loopback ports: which one a deployment gets, and keeping a private one free until its server binds it."""

from __future__ import annotations

import errno
import socket
import zlib

__all__ = ["LOOPBACK", "first_free", "is_free", "reserve", "url_of"]

LOOPBACK = "127.0.0.1"

# Below the range that Linux takes the ports of outgoing connections from (32768 and up), so that a deployment that was
# stopped finds its port free again.
_FIRST, _COUNT = 20000, 10000


def url_of(port: int, *, tls: bool) -> str:
    """Where requests to this port go."""
    return f"{'https' if tls else 'http'}://{LOOPBACK}:{port}"


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def first_free(name: str) -> int:
    """A free port for a deployment, the next one free too, for gRPC; the same name gets the same port wherever that is free."""
    start = zlib.crc32(name.encode())
    for step in range(_COUNT):
        port = _FIRST + (start + step) % _COUNT
        if is_free(port) and is_free(port + 1):
            return port
    raise OSError(errno.EADDRINUSE, f"no free port between {_FIRST} and {_FIRST + _COUNT - 1}")


def reserve() -> socket.socket:
    """A bound socket that does not listen: as long as it is open, the kernel gives its port only to a process that asks for it.

    A server that sets SO_REUSEADDR, as servers do, can still bind and listen there. Without this, an outgoing connection
    of any process could take the port between choosing and binding it, or a connection attempt to a server that is just
    being restarted could meet itself (Linux picks source ports from the same range).
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((LOOPBACK, 0))
    return held
