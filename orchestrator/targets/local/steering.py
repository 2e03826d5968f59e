"""A port that several processes listen on, and which of them gets new connections: SO_REUSEPORT with a program for the kernel.

Each listening socket of such a port has a queue of its own, and an index in the port's group: the order in which they began to
listen; when one ends, the last one takes its index. By default Linux spreads new connections over them. A program of one
instruction, which returns an index, sends all of them to one socket. If no socket has that index they are spread as before.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys
from pathlib import Path

from orchestrator.targets.local.ports import is_free

__all__ = ["cannot_steer", "listeners", "shared_listener", "steer"]

_BACKLOG = 4096
_SO_ATTACH_REUSEPORT_CBPF = 51
_RETURN_CONSTANT = 0x06
"""BPF_RET | BPF_K of linux/bpf_common.h."""
_LISTENING = "0A"
"""TCP_LISTEN in /proc/net/tcp."""


def shared_listener(port: int) -> socket.socket:
    """A socket that listens on this port of the loopback and lets others of this user listen there too.

    It is of the family that gRPC's sockets for 127.0.0.1 have, since only sockets of one family form a group: IPv6 wherever
    there is IPv6.

    Raises:
        OSError: somebody listens there already, or the port may not be used.
    """
    if not is_free(port):  # a server that shares the port would be joined otherwise, whoever started it
        raise OSError(errno.EADDRINUSE, "Address already in use")
    family = socket.AF_INET6 if _has_ipv6() else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::ffff:127.0.0.1" if family == socket.AF_INET6 else "127.0.0.1", port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.settimeout(0)
    return listener


def cannot_steer(listener: socket.socket) -> str | None:
    """Why this system does not let us choose who gets new connections; None if it does."""
    if sys.platform != "linux":
        return f"{sys.platform} has no SO_ATTACH_REUSEPORT_CBPF"
    try:
        steer(listener, 0)
    except OSError as error:
        return f"SO_ATTACH_REUSEPORT_CBPF: {error.strerror}"
    return None


def steer(member: socket.socket, index: int) -> None:
    """Send new connections of the group that `member` belongs to, to the socket with this index.

    Raises:
        OSError: the system cannot do that.
    """
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN_CONSTANT, 0, 0, index), 8)
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    member.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)


def listeners(port: int) -> int:
    """How many sockets listen on this port now."""
    found = 0
    for file in (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6")):
        if not file.exists():
            continue
        for line in file.read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            found += fields[3] == _LISTENING and fields[1].endswith(f":{port:04X}")
    return found


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
