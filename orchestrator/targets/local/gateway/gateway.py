"""The gateway: takes requests on the deployment's sockets and forwards each to the server of the revision that serves.

It stands in for a server that cannot listen on these sockets itself (TorchServe, TensorFlow Serving), and for any server that
is being started again. A switch is one assignment. Every request is counted on the revision that it was sent to until it is
answered, so the former revision is stopped when it has nothing left to do.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from orchestrator.targets.local.gateway.client import Client
from orchestrator.targets.local.gateway.relay import Relay

if TYPE_CHECKING:
    from orchestrator.targets.local.gateway.upstream import Upstream
    from orchestrator.targets.local.revision import Revision

__all__ = ["BACKLOG", "Gateway", "Reached"]

BACKLOG = 4096
_PATIENCE_SECONDS = 10.0
"""How long a request waits for a server that is being restarted."""
_CONNECTIONS = 16384
_TICK_SECONDS = 0.5
_CLOSE_SECONDS = 30.0
_IDLE_SECONDS = 30.0
"""How long idle connections are kept once another process listens on the socket that they came through."""


@dataclass(frozen=True, slots=True)
class Reached:
    """A connection to the server of a revision, for a request that is counted on it: whoever holds this has to `leave` it."""

    revision: Revision
    upstream: Upstream


class Gateway:
    """Forwards to `current`, which the supervisor sets.

    Attributes:
        relays: connections that speak TLS.
    """

    def __init__(self) -> None:
        self.current: Revision | None = None
        self.nothing_serves = "no revision is deployed"
        self._servers: dict[int, asyncio.Server] = {}
        self._clients: set[Client] = set()
        self.relays: set[Relay] = set()
        self._ticks: asyncio.TimerHandle | None = None

    async def listen_on(self, listeners: Sequence[socket.socket]) -> None:
        """Accept on exactly these sockets, which stay the caller's. Connections of other sockets end with their next answer."""
        loop = asyncio.get_running_loop()
        if self._ticks is None:
            self._ticks = loop.call_later(_TICK_SECONDS, self._tick, loop)
        wanted = {int(listener.getsockname()[1]): listener for listener in listeners}
        for port in wanted.keys() - self._servers.keys():
            self._servers[port] = await loop.create_server(
                partial(self._accept, port),
                sock=wanted[port].dup(),
                backlog=BACKLOG,
            )
        for port in self._servers.keys() - wanted.keys():
            self._servers.pop(port).close()
        # What was accepted already gets its `Client` in the next turn of the loop.
        await asyncio.sleep(0)
        self._let_go(_IDLE_SECONDS)

    def _accept(self, port: int) -> Client | Relay:
        """For a new connection, which speaks TLS if the server does."""
        over_tls = self.current is not None and self.current.launching.tls
        return Relay(self) if over_tls else Client(self, port)

    def _let_go(self, idle_seconds: float) -> None:
        for client in [each for each in self._clients if each.port not in self._servers]:
            client.let_go(idle_seconds)

    async def close(self) -> None:
        """Take no more connections; answer what is under way."""
        await self.listen_on([])
        deadline = time.monotonic() + _CLOSE_SECONDS
        while self._clients and time.monotonic() < deadline:
            self._let_go(0.0)
            await asyncio.sleep(0.01)
        for client in list(self._clients):
            client.abort()
        if self._ticks is not None:
            self._ticks.cancel()

    def end(self) -> None:
        """Break what is still relayed, once all servers have ended."""
        for relay in list(self.relays):
            relay.abort()

    def idle(self) -> Reached | None:
        """An idle, open connection to the server."""
        revision = self.current
        if revision is None or not revision.ready.is_set():
            return None
        upstream = revision.upstreams.idle()
        if upstream is None:
            return None
        revision.enter()
        return Reached(revision, upstream)

    async def ready_revision(self) -> Revision:
        """The revision that takes the traffic; waits for one that is being started.

        Raises:
            ConnectionError: there is none in time.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while (revision := self.current) is not None and time.monotonic() < deadline:
            if revision.ready.is_set():
                return revision
            await asyncio.sleep(0.02)
        raise ConnectionError(self.nothing_serves)

    async def reach(self) -> Reached:
        """A connection to the server; waits for one that is being started.

        Raises:
            ConnectionError: there is none in time; the message says why.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        reason = self.nothing_serves
        while (revision := self.current) is not None:
            if revision.ready.is_set():
                try:
                    return await self._connect(revision)
                except OSError as error:  # a TimeoutError is one
                    why = error.strerror or "it does not answer"
                    reason = f"the server of revision {revision.recipe.revision} cannot be reached: {why}"
            else:
                why = f": {revision.ending.text}" if revision.ending else ""
                reason = f"revision {revision.recipe.revision} is {revision.state}{why}"
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.02)
        raise ConnectionError(reason)

    async def _connect(self, revision: Revision) -> Reached:
        """A new connection. The request is counted first, so that a switch while it is made does not end the server."""
        revision.enter()
        try:
            return Reached(revision, await revision.upstreams.connect())
        except BaseException:
            revision.leave()
            raise

    def connected(self, client: Client) -> None:
        """A client has connected."""
        self._clients.add(client)
        if len(self._clients) > _CONNECTIONS:
            client.abort()

    def disconnected(self, client: Client) -> None:
        """A client is gone."""
        self._clients.discard(client)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        for client in [each for each in self._clients if each.deadline < now]:
            client.expire()
        if self.current is not None:
            self.current.upstreams.close_idle()
        self._ticks = loop.call_later(_TICK_SECONDS, self._tick, loop)
