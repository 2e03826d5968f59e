"""The load generator's connections: HTTP/1.1 over raw sockets, with requests that were formed beforehand.

While a request is measured, all that happens is a write, a wait for the kernel, a read, and httptools' parser; neither a request
nor an answer becomes an object.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import httptools

from orchestrator.measure.tls_socket import TlsSocket

__all__ = ["CONNECTED", "GOOD", "LOOPBACK", "Address", "Connect", "Connection", "Ended", "Endpoint", "http_request"]

LOOPBACK = "127.0.0.1"
_READ = 64 * 1024
_OK = 200
_FIND_TIMEOUT = 3.0
"""Seconds for an address to take a connection, before the next one is tried."""

_TOO_BUSY = frozenset({429, 503})
"""Status codes of an overloaded server."""


class Address(NamedTuple):
    """Where a server listens: its host as clients call it, the family of its address, and what `connect` takes."""

    host: str
    family: int
    socket: tuple[Any, ...]

    @classmethod
    def find(cls, host: str, port: int) -> Address:
        """The first address of a host that takes connections: `localhost` is often an IPv6 address at which nothing listens.

        Raises:
            OSError: it has none.
        """
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for family, _, _, _, address in found[:-1]:
            with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as tried:
                tried.settimeout(_FIND_TIMEOUT)
                tried.connect(address)
                return cls(host, family, address)
        family, _, _, _, address = found[-1]  # if that one takes none either, the connections tell why
        return cls(host, family, address)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests are sent, and what is sent.

    Attributes:
        address: of the server.
        requests: whole HTTP requests, sent in turn.
        limit: maximum connections in an open loop; waiting for one counts as latency.
        timeout: seconds until a request counts as refused.
        connect: opens a connection to the address.
        context: of the client for TLS; None for plain TCP.
    """

    address: Address
    requests: tuple[bytes, ...]
    limit: int
    timeout: float
    connect: Connect
    context: ssl.SSLContext | None = None


class Ended(NamedTuple):
    """How a request ended: why the server refused it as too busy, or why it failed; both are empty for a good answer."""

    refused: str = ""
    failed: str = ""


GOOD = Ended()
CONNECTED = Ended()
"""No request has ended; the connection can carry its first one."""


def http_request(path: str, headers: Mapping[str, str], body: bytes, host: str = LOOPBACK) -> bytes:
    """A whole HTTP request, as it is sent.

    Args:
        path: of the URL.
        headers: besides `Host` and `Content-Length`.
        body: whatever the wire, such as JSON or binary tensors.
        host: as the URL names it, with its port if that is not the usual one.
    """
    lines = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


Connect = Callable[[Address, select.epoll, ssl.SSLContext | None], "Connection"]


class Connection:
    """Carries one request at a time; the user waits for its events and calls `on_events`.

    Args:
        address: of the server.
        epoll: whose user waits.
        context: of the client for TLS; None for plain TCP.

    Attributes:
        file: its file descriptor.
        usable: whether it can carry another request.
        busy: whether it carries one now.
        closed: whether it is no more.
        begun: when its last request was sent, `time.perf_counter`.
        scheduled, late: for its user: when that request was due, and how much later it was sent.
    """

    __slots__ = (
        "_context",
        "_epoll",
        "_feed",
        "_host",
        "_kept",
        "_left",
        "_length",
        "_parser",
        "_receive",
        "_send",
        "_socket",
        "_status",
        "begun",
        "busy",
        "closed",
        "file",
        "late",
        "scheduled",
        "usable",
    )

    def __init__(self, address: Address, epoll: select.epoll, context: ssl.SSLContext | None) -> None:
        self._socket: socket.socket | TlsSocket = socket.socket(
            address.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK
        )
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._parser = httptools.HttpResponseParser(self)
        self._feed = self._parser.feed_data
        self._receive: Callable[[int], bytes] = self._socket.recv
        self._send: Callable[[bytes | memoryview], int] = self._socket.send
        self._epoll = epoll
        self._context = context
        self._host = address.host
        self._left: memoryview | None = None
        self._length = 0
        self._status = 0  # of an answer that is whole
        self._kept = False
        self.file = self._socket.fileno()
        self.usable = False
        self.busy = False
        self.closed = False
        self.begun = 0.0
        self.scheduled = 0.0
        self.late = 0.0
        self._socket.connect_ex(address.socket)
        epoll.register(self.file, select.EPOLLIN | select.EPOLLOUT)

    def send(self, request: bytes, now: float) -> None:
        """Send a request; if it fails, the next events tell.

        Args:
            request: the whole of it.
            now: `time.perf_counter`.
        """
        self.busy = True
        self.begun = now
        sent = 0
        with contextlib.suppress(BlockingIOError, ConnectionError):
            sent = self._send(request)
        if sent < len(request):
            self._left = memoryview(request)[sent:]
            self._epoll.modify(self.file, select.EPOLLIN | select.EPOLLOUT)

    def on_events(self, events: int) -> Ended | None:
        """Go on; how its request ended, `CONNECTED`, or None."""
        if not self.usable:
            return self._connected()
        if events & select.EPOLLOUT:
            self._send_more()
            if not events & ~select.EPOLLOUT:
                return None
        return self.receive()

    def receive(self) -> Ended | None:
        """Read what has come; how its request ended, or None."""
        try:
            data = self._receive(_READ)
        except BlockingIOError:
            return None
        except OSError as error:
            return self._lost(error.strerror or str(error))
        if not data:
            return self._lost("the server closed it")
        try:
            self._feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.close()
            return Ended(failed=f"the answer is not HTTP/1.1: {error}")
        if not self._status:
            return None
        self.busy = False
        if self._status == _OK and self._length and self._kept:
            self._status = self._length = 0
            return GOOD
        return self._judge()

    def on_body(self, piece: bytes) -> None:
        """A piece of the body, from the parser."""
        self._length += len(piece)

    def on_message_complete(self) -> None:
        """An answer is whole, or an interim one."""
        status = self._parser.get_status_code()
        if status >= _OK:
            self._status, self._kept = status, self._parser.should_keep_alive()  # afterwards the parser knows no more

    def close(self) -> None:
        """Close it; whatever it carries is given up."""
        self.usable = self.busy = False
        self.closed = True
        self._socket.close()

    def _connected(self) -> Ended | None:
        if code := self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.close()
            return Ended(failed=f"no connection: {os.strerror(code)}")
        if self._context is not None:
            if isinstance(self._socket, socket.socket):
                self._socket = TlsSocket(self._socket, self._context, self._host)
                self._receive, self._send = self._socket.recv, self._socket.send
            try:
                if not self._socket.shake_hands():
                    self._epoll.modify(self.file, select.EPOLLIN)
                    return None
            except OSError as error:
                self.close()
                return Ended(failed=f"no connection over TLS: {error.strerror or error}")
        self.usable = True
        self._epoll.modify(self.file, select.EPOLLIN)
        return CONNECTED

    def _send_more(self) -> None:
        assert self._left is not None, "only a request that was not sent at once waits for its turn"
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._left = self._left[self._send(self._left) :]
        if not self._left:
            self._left = None
            self._epoll.modify(self.file, select.EPOLLIN)

    def _judge(self) -> Ended:
        status, length = self._status, self._length
        self._status = self._length = 0
        if not self._kept:
            self.close()
        if status == _OK:
            return GOOD if length else Ended(failed="an empty answer")
        return Ended(refused=f"status {status}") if status in _TOO_BUSY else Ended(failed=f"status {status}")

    def _lost(self, why: str) -> Ended | None:
        busy = self.busy
        self.close()
        return Ended(failed=f"the connection was lost: {why}") if busy else None
