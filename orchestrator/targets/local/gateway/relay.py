"""A client's connection to a server that speaks TLS: passed on byte by byte, since only the server has the key.

It waits for a server that is being started again, like a request of plain HTTP. If none comes it is closed: nobody but the server
can answer in the client's TLS. The server also ends it, when it is idle for long or when its process ends.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

from orchestrator.targets.local.ports import LOOPBACK

if TYPE_CHECKING:
    from orchestrator.targets.local.gateway.gateway import Gateway

__all__ = ["Relay"]


class _End(asyncio.Protocol):
    """One end: what it receives goes to the other end, no faster than that one is read."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.other: _End | None = None
        self._early = b""  # what came before there was another end; uvloop reads a little in spite of the pause

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is read before there is another end."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Pass on."""
        if self.other is None:
            self._early += data
            self.transport.pause_reading()
        else:
            self.other.transport.write(data)

    def join(self, other: _End) -> None:
        """From here on what it receives goes there."""
        self.other = other
        if self._early:
            other.transport.write(self._early)
        self.transport.resume_reading()

    def pause_writing(self) -> None:
        """This end is read slower than the other one sends."""
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """It has caught up."""
        if self.other is not None and not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it is lost makes no difference
        """The other end goes too, once what was passed on is sent."""
        if self.other is not None:
            self.other.transport.close()


class Relay(_End):
    """The client's end."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__()
        self._gateway = gateway
        self._reaching: asyncio.Task[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Look for the server."""
        super().connection_made(transport)
        self._gateway.relays.add(self)
        self._reaching = asyncio.create_task(self._reach())

    async def _reach(self) -> None:
        server = _End()
        try:
            revision = await self._gateway.ready_revision()
            await asyncio.get_running_loop().create_connection(lambda: server, LOOPBACK, revision.launching.port)
        except OSError:  # a ConnectionError is one
            self.abort()
            return
        server.join(self)
        self.join(server)

    def connection_lost(self, exc: Exception | None) -> None:
        """It needs no server any more."""
        self._gateway.relays.discard(self)
        self._reaching.cancel()
        super().connection_lost(exc)

    def abort(self) -> None:
        """End it now."""
        self.transport.abort()
