"""The HTTP port: accepts connections, enforces their deadlines, and closes them without losing requests."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import replace

from .budget import Budget
from .connection import Connection
from .errors import UNAVAILABLE, StartError
from .exchange import App, ConnectionLimits

__all__ = ["BACKLOG", "EVERYWHERE", "HttpServer", "bind"]

BACKLOG = 4096
EVERYWHERE = "*"
"""As `host`: all addresses of the machine. An address of one family would be missing in networks of the other alone."""

_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
_TICK_S = 0.5
_TOGETHER = 8
_LEAST_BUDGET = 64 << 20
_RESERVED_FILES = 128
"""File descriptors reserved for the model, gRPC's connections and the logs."""


class HttpServer:
    """Belongs to the event loop's thread."""

    def __init__(self, app: App, limits: ConnectionLimits, context: ssl.SSLContext | None) -> None:
        """Accept as many connections as `limits` and the process's limit of open files allow.

        Args:
            app: answers the requests.
            limits: of each connection. All together may buffer eight bodies of the maximum size, and at least 64 MiB.
            context: for TLS; None for plain HTTP.
        """
        files = _raise_file_limit() - _RESERVED_FILES
        self._limits = replace(limits, connections=max(1, min(limits.connections, files)))
        self._app = app
        self._context = context
        self._budget = Budget(max(_TOGETHER * limits.body_bytes, _LEAST_BUDGET))
        self._connections: set[Connection] = set()
        self._server: asyncio.Server
        self._handed_over: dict[int, asyncio.Server] = {}
        self._ticks: asyncio.TimerHandle

    @property
    def handed_over(self) -> list[int]:
        """The ports of the handed-over sockets that it listens on."""
        return sorted(self._handed_over)

    async def start(self, listener: socket.socket) -> None:
        """Start accepting connections."""
        loop = asyncio.get_running_loop()
        self._server = await self._accept(listener, None)
        self._ticks = loop.call_later(_TICK_S, self._tick, loop)

    async def _accept(self, listener: socket.socket, handed_over: int | None) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(
            lambda: Connection(self._app, self._limits, self._budget, self._connections, handed_over),
            sock=listener,
            backlog=BACKLOG,
            ssl=self._context,
            ssl_handshake_timeout=None if self._context is None else 10.0,
            ssl_shutdown_timeout=None if self._context is None else 2.0,
        )

    async def listen_on(self, listeners: Sequence[socket.socket]) -> None:
        """Accept on exactly these sockets, which other processes hold as well, in addition to the one of `start`.

        Sockets that are not needed, because their port is already listened on or another one fails, are closed.
        """
        unused = set(listeners)
        try:
            wanted = {int(listener.getsockname()[1]): listener for listener in listeners}
            for port, listener in wanted.items():
                if port not in self._handed_over:
                    self._handed_over[port] = await self._accept(listener, port)
                    unused.discard(listener)
        finally:
            for listener in unused:
                listener.close()
        for port in self._handed_over.keys() - wanted.keys():
            self._handed_over.pop(port).close()
        # Connections that were already accepted get their `Connection` in the next turn of the loop.
        await asyncio.sleep(0)

    async def use(self, context: ssl.SSLContext) -> bool:
        """Use this context for the connections to come; those that are open keep theirs. False if it is in use already.

        Raises:
            OSError: no handle is left; the former context stays in use where this one is not yet.
        """
        if context is self._context:
            return False
        former, self._context = self._context, context
        try:
            self._server = await self._again(self._server, None)
            for port, server in list(self._handed_over.items()):
                self._handed_over[port] = await self._again(server, port)
        except OSError:
            self._context = former  # so that the next call tries again
            raise
        return True

    async def _again(self, server: asyncio.Server, handed_over: int | None) -> asyncio.Server:
        """A server on the same socket, in place of this one: what waits in the socket's queue is accepted by either."""
        listener = socket.socket(fileno=os.dup(server.sockets[0].fileno()))
        try:
            successor = await self._accept(listener, handed_over)
        except BaseException:
            listener.close()
            raise
        server.close()
        return successor

    def end_given_up(self, idle_s: float) -> int:
        """End connections from sockets that were given up; returns how many are left.

        Args:
            idle_s: how long idle ones may still send a request, counted from the first such call.
        """
        left = [each for each in self._connections if each.handed_over not in (None, *self._handed_over)]
        for connection in left:
            connection.let_go(idle_s)
        return len(left)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        for connection in [each for each in self._connections if each.deadline < now]:
            connection.expire()
        self._ticks = loop.call_later(_TICK_S, self._tick, loop)

    async def stop(self, grace_s: float) -> None:
        """Accept no more connections, close idle ones, and give the requests in flight `grace_s` seconds."""
        for server in (self._server, *self._handed_over.values()):
            server.close()
        # Connections that the kernel has already accepted may have requests too; one turn of the loop accepts them.
        await asyncio.sleep(0)
        deadline = time.monotonic() + grace_s
        while self._connections and time.monotonic() < deadline:
            for connection in list(self._connections):
                connection.finish()
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()
        self._ticks.cancel()


def _raise_file_limit() -> int:
    """Raise the limit of open files to the maximum; the usual soft limit of 1,024 is for programs that use `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    if soft != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; clients that connect before the server accepts have to wait.

    Args:
        host: a name or an address of this machine; `EVERYWHERE` for all its addresses, of IPv4 and IPv6.
        port: 0 selects a free one.

    Raises:
        StartError: `UNAVAILABLE`; the port is in use, or the host is not an address of this machine.
    """
    try:
        if host != EVERYWHERE:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            return socket.create_server(address[:2], family=family, backlog=BACKLOG)
        try:
            return socket.create_server(("::", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
            return socket.create_server(("0.0.0.0", port), backlog=BACKLOG)  # noqa: S104 - asked for
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StartError(UNAVAILABLE, f"cannot listen on {host}:{port}: {reason}") from error
