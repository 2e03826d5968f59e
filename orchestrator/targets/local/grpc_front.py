"""The deployment's gRPC ports: who gets new connections, and a relay for as long as no server listens there itself.

Our own socket belongs to each port's group from the start to the end, at index 0. So the port stays the deployment's, a
successor can join while its predecessor still answers, and a connection that no server accepts arrives here: it is passed on
byte by byte to the private port of the server that takes the traffic, after waiting for it if it is being restarted.
Whatever goes wrong with steering costs a hop, never a request.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from orchestrator.targets.local.ports import LOOPBACK
from orchestrator.targets.local.steering import cannot_steer, listeners, shared_listener, steer

if TYPE_CHECKING:
    from orchestrator.targets.local.handover import Handover
    from orchestrator.targets.local.revision import Revision

__all__ = ["GrpcFront", "GrpcPort"]

_PATIENCE_SECONDS = 10.0
"""How long a connection waits for a server that is being restarted, as in the gateway."""
_TICK_SECONDS = 0.02
_JOIN_SECONDS = 1.0
_CHUNK = 65536


class GrpcPort:
    """One public port."""

    def __init__(self, port: int) -> None:
        """Listen on it.

        Raises:
            OSError: the port is in use or may not be used.
        """
        self.port = port
        self.listener = shared_listener(port)
        self.obstacle = cannot_steer(self.listener)
        # The servers' runs in the kernel's order; our own socket comes before them.
        self._members: list[Handover] = []

    async def direct_to(self, run: Handover | None) -> bool:
        """Send new connections to this run of a server, or to us; False if they come to us because it does not listen."""
        for gone in [member for member in self._members if self.port not in member.grpc_ports]:
            self._forget(gone)
        if run is not None and run not in self._members and self.port in run.grpc_ports:
            self._members.append(run)
        joined = run in self._members and await self._as_counted()
        index = 1 + self._members.index(run) if run is not None and joined else 0
        if self.obstacle is None:
            steer(self.listener, index)
        return index > 0

    def close(self) -> None:
        """Stop listening."""
        self.listener.close()

    def _forget(self, member: Handover) -> None:
        """As the kernel does it: the last one takes the place of the one that is gone."""
        place, last = self._members.index(member), self._members.pop()
        if last is not member:
            self._members[place] = last

    async def _as_counted(self) -> bool:
        """Whether the kernel has as many listening sockets as we know of; waits for one that is just being closed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_JOIN_SECONDS):
                while listeners(self.port) != 1 + len(self._members):  # noqa: ASYNC110 - the kernel sends no event
                    await asyncio.sleep(_TICK_SECONDS)
                return True
        return False


class GrpcFront:
    """All gRPC ports of a deployment, and the relay behind them."""

    def __init__(self, current: Callable[[], Revision | None]) -> None:
        self._current = current
        self._open_ports: dict[int, GrpcPort] = {}
        self._accepting: dict[int, asyncio.Task[None]] = {}
        self._relays: set[asyncio.Task[None]] = set()

    @property
    def ports(self) -> list[int]:
        """The ports that are listened on, the newest last."""
        return list(self._open_ports)

    @property
    def shared(self) -> list[int]:
        """Those that servers can listen on too."""
        return [each.port for each in self._open_ports.values() if each.obstacle is None]

    @property
    def obstacle(self) -> str | None:
        """Why connections cannot be directed to servers on this system; None if they can."""
        return next((each.obstacle for each in self._open_ports.values() if each.obstacle), None)

    def open(self, port: int) -> None:
        """Listen on `port` too.

        Raises:
            OSError: the port is in use or may not be used.
        """
        if port not in self._open_ports:
            self._open_ports[port] = opened = GrpcPort(port)
            self._accepting[port] = asyncio.create_task(self._accept(opened.listener))

    def close(self, port: int) -> None:
        """Stop listening on `port`; what is connected stays connected."""
        self._accepting.pop(port).cancel()
        self._open_ports.pop(port).close()

    async def direct_to(self, run: Handover | None) -> bool:
        """Send new connections to this run of a server, or to the relay; False if some are relayed because it does not listen."""
        directed = [await each.direct_to(run) for each in list(self._open_ports.values()) if each.obstacle is None]
        return all(directed)

    async def end(self) -> None:
        """Break what the relay still carries."""
        for task in [*self._accepting.values(), *self._relays]:
            task.cancel()
        await asyncio.gather(*self._accepting.values(), *self._relays, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError:  # no handle is left; those who wait are accepted when there is one
                await asyncio.sleep(_TICK_SECONDS)
                continue
            relay = loop.create_task(self._relay(client))
            self._relays.add(relay)
            relay.add_done_callback(self._relays.discard)

    async def _relay(self, client: socket.socket) -> None:
        """Carry one connection to the server, until either side closes it."""
        with client:
            port = await self._private_port()
            if port is None:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(OSError), socket.socket() as server:
                server.settimeout(0)
                await asyncio.get_running_loop().sock_connect(server, (LOOPBACK, port))
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pumps = [asyncio.create_task(_pump(*pair)) for pair in ((client, server), (server, client))]
                try:
                    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in pumps:
                        pump.cancel()
                    await asyncio.gather(*pumps, return_exceptions=True)

    async def _private_port(self) -> int | None:
        """Where the server of the revision that takes the traffic answers gRPC; None if it does not in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                while (revision := self._current()) is not None:
                    if revision.launching.grpc_port is None or revision.ready.is_set():
                        return revision.launching.grpc_port
                    await asyncio.sleep(_TICK_SECONDS)
        return None


async def _pump(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with suppress(OSError):  # either side has closed it: so is the other
        while data := await loop.sock_recv(source, _CHUNK):
            await loop.sock_sendall(sink, data)
