"""The deployment's sockets, and who accepts on them: the server of the live revision, or the gateway instead.

A server that takes sockets over is given them as soon as it is ready, and nothing stands between it and its clients. The
gateway accepts where the backend cannot do that, where no revision is deployed, and while a server is being started again; it
lets requests wait for the server, and answers 503 with the reason in the end.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from orchestrator.targets.local.gateway.gateway import BACKLOG, Gateway
from orchestrator.targets.local.grpc_front import GrpcFront
from orchestrator.targets.local.journal import Journal
from orchestrator.targets.local.ports import LOOPBACK

if TYPE_CHECKING:
    from orchestrator.targets.local.revision import Revision

__all__ = ["Front"]


class Front:
    """Holds the sockets for as long as the deployment lives."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._gateway = Gateway()
        self._grpc = GrpcFront(lambda: self._gateway.current)
        self._sockets: dict[int, socket.socket] = {}
        self._settling = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._problem: str | None = None

    @property
    def current(self) -> Revision | None:
        """The revision that takes the traffic."""
        return self._gateway.current

    @property
    def grpc_ports(self) -> list[int]:
        """The ports that are listened on for gRPC, the newest last: each the next after one of `ports`."""
        return self._grpc.ports

    @property
    def ports(self) -> list[int]:
        """The ports that are listened on, the newest last."""
        return list(self._sockets)

    async def serve(self, revision: Revision) -> None:
        """Let a revision take the traffic; returns when new connections come to it."""
        self._gateway.current = revision
        await self.settle()

    async def open(self, port: int) -> None:
        """Listen on `port` too.

        Raises:
            OSError: the port is in use or may not be used.
        """
        if port in self._sockets:
            self._sockets[port] = self._sockets.pop(port)  # already the newest
            return
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((LOOPBACK, port))
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
        listener.settimeout(0)
        self._sockets[port] = listener
        await self.settle()

    async def open_grpc(self) -> None:
        """Listen for gRPC too, at the port after each of `ports`.

        Raises:
            OSError: one is in use or may not be used; its `filename` is the port.
        """
        for port in self.ports:
            try:
                self._grpc.open(port + 1)
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or f"{error}"
                raise OSError(getattr(error, "errno", None), reason, str(port + 1)) from error
        if self._grpc.obstacle is not None:
            self._journal.event(f"gRPC connections are relayed, servers cannot accept them here: {self._grpc.obstacle}")
        await self.settle()

    async def close_grpc(self) -> None:
        """Listen for gRPC no more: no revision answers it."""
        for port in self._grpc.ports:
            self._grpc.close(port)
        await self.settle()

    async def close_former_ports(self) -> None:
        """Listen on the newest port only; what is connected already stays connected until its next answer."""
        await self._close(self.ports[:-1])

    async def close_newer_ports(self) -> None:
        """Stop listening on all ports but the oldest."""
        await self._close(self.ports[1:])

    async def close(self) -> None:
        """Take no more connections; answer what is under way through the gateway."""
        current = self._gateway.current
        await self._close(self.ports)
        if current is not None:
            await current.take_back(idle_seconds=0.0)
        await self._gateway.close()

    async def end(self) -> None:
        """Break what is still connected through this process, once all servers have ended."""
        await self._grpc.end()
        self._gateway.end()

    async def _close(self, ports: list[int]) -> None:
        closed = [self._sockets.pop(port) for port in ports]
        for port in self._grpc.ports:
            if port - 1 in ports:
                self._grpc.close(port)
        if closed:
            await self.settle()
        for listener in closed:
            listener.close()

    def settle_soon(self) -> None:
        """`settle`, in the background."""
        task = asyncio.create_task(self.settle())
        self._tasks.add(task)
        task.add_done_callback(self._settled)

    def retry(self) -> None:
        """`settle_soon` if the last attempt has failed and none is under way."""
        if self._problem is not None and not self._settling.locked():
            self.settle_soon()

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._note(f"the listening sockets cannot be handed over: {error!r}; mlo keeps trying")

    def _note(self, problem: str | None) -> None:
        """Remember what `retry` has to mend; the journal says it once, however often it is tried."""
        if problem is not None and problem != self._problem:
            self._journal.event(problem)
        elif problem is None and self._problem is not None:
            self._journal.event("the listening sockets are handed over correctly again")
        self._problem = problem

    async def settle(self) -> None:
        """Have the right one accept: called whenever the sockets, the revision or its readiness have changed.

        The successor accepts before the other one stops, so a new connection is always accepted.
        """
        async with self._settling:
            listeners = list(self._sockets.values())
            revision = self._gateway.current
            ready = revision is not None and revision.ready.is_set()
            if revision is not None and ready and await revision.listen_on(listeners, self._grpc.shared):
                directed = await self._grpc.direct_to(revision.run)
                await self._gateway.listen_on([])
                if directed or revision.launching.grpc_port is None:
                    self._note(None)
                else:
                    number = revision.recipe.revision
                    self._note(
                        f"gRPC connections to revision {number} are relayed until it listens; this is tried again"
                    )
                return
            await self._gateway.listen_on(listeners)
            await self._grpc.direct_to(None)
            if revision is not None and ready and revision.takes_sockets:
                number = revision.recipe.revision
                self._note(
                    f"revision {number} does not confirm that it listens; the gateway accepts too until it does, and "
                    "this is tried again"
                )
            else:
                self._note(None)
