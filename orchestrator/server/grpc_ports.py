"""The gRPC ports of a server: its own, and those that it shares with its predecessor and its successor.

grpcio listens on addresses that it binds itself and cannot take a socket over. So several processes bind a shared port
(SO_REUSEPORT), and whoever supervises them decides which of them gets new connections.

gRPC's own way to stop a server loses calls: one that arrives after it has begun, and before the client knows, is cancelled.
So a connection has an age here, at which its client is told to connect anew without losing anything (GOAWAY in two steps), and a
port that is given up is closed when its last connection has ended that way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .grpc_service import GrpcServer

__all__ = ["CONNECTION_S", "GrpcPorts"]

CONNECTION_S = 20.0
"""The age of connections unless the configuration says another: a change of servers takes that long, and a tenth."""
_PAUSE_S = 0.5
"""From the moment when nobody is sent here any more: connections that were made before are accepted by then."""
_LOOK_S = 0.2
_LISTENING = "0A"
"""TCP_LISTEN in /proc/net/tcp."""


class GrpcPorts:
    """Belongs to the event loop's thread."""

    def __init__(
        self, own: GrpcServer, share: Callable[[int], GrpcServer], grace_s: float, connection_s: float
    ) -> None:
        """Take the server's own port, which is listened on already.

        Args:
            own: listens on it.
            share: makes a server for a shared port; raises `StartError` if the port cannot be bound.
            grace_s: how long calls in flight may take when a port is closed.
            connection_s: the age of connections.
        """
        self._own: GrpcServer | None = own
        self._share = share
        self._grace_s = grace_s
        self._longest_s = 1.1 * connection_s + 1.0  # gRPC varies the age by a tenth
        self._shared: dict[int, GrpcServer] = {}
        self._closing: set[int] = set()
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def shared(self) -> list[int]:
        """The shared ports that are still listened on."""
        return sorted(self._shared.keys() | self._closing)

    @property
    def ending(self) -> int:
        """How many ports that were given up still have clients, or calls in flight."""
        return len(self._ending)

    async def listen_on(self, ports: Iterable[int], *, pause: bool) -> None:
        """Listen on exactly these shared ports, besides the own one.

        Args:
            ports: all of them.
            pause: whether others listen on the ports that are given up, so that nothing on its way here may be lost.

        Raises:
            StartError: a port cannot be bound.
        """
        wanted = set(ports)
        for port in self._shared.keys() - wanted:
            self._closing.add(port)
            self._end(self._shared.pop(port), port, pause=pause)
        for port in wanted - self._shared.keys():
            server = self._share(port)
            await server.start()
            self._shared[port] = server

    def give_up_own(self, *, pause: bool) -> None:
        """Give up the own port as well: nothing will be asked here any more."""
        if self._own is not None:
            own, self._own = self._own, None
            self._end(own, None, pause=pause)

    async def stop(self) -> None:
        """Give all ports up, and finish the calls in flight."""
        await self.listen_on((), pause=False)
        self.give_up_own(pause=False)
        await asyncio.gather(*self._ending)

    def _end(self, server: GrpcServer, port: int | None, *, pause: bool) -> None:
        async def end() -> None:
            if pause:
                await asyncio.sleep(_PAUSE_S)
                await self._until_unused(server.port)
            stopping = asyncio.ensure_future(server.stop(self._grace_s))
            await asyncio.sleep(0)  # the socket is closed in the first turn
            if port is not None:
                self._closing.discard(port)
            await stopping

        task = asyncio.get_running_loop().create_task(end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _until_unused(self, port: int) -> None:
        """Wait until this process has no connection at the port, or until each has reached its age."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._longest_s):
                while _has_connections(port):  # noqa: ASYNC110 - grpcio has no event for it
                    await asyncio.sleep(_LOOK_S)


def _has_connections(port: int) -> bool:
    """Whether this process has connections at the port; assumed where the system does not tell (/proc of Linux)."""
    handles = Path("/proc/self/fd")
    if not handles.is_dir():
        return True
    mine = set()
    for handle in handles.iterdir():
        with suppress(FileNotFoundError):  # the handle that lists the folder is closed by now
            mine.add(str(handle.readlink()))
    for file in (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6")):
        for line in file.read_text(encoding="ascii").splitlines()[1:] if file.exists() else ():
            fields = line.split()
            if fields[1].endswith(f":{port:04X}") and fields[3] != _LISTENING and f"socket:[{fields[9]}]" in mine:
                return True
    return False
