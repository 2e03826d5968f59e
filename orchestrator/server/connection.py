"""uvicorn's HTTP connection with the limits that it lacks: how large a request's head may be and how long it may take."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Connection"]

_HEAD_BYTES = 64 * 1024
_HEAD_SECONDS = 10.0


class Connection(HttpToolsProtocol):
    """Closes connections that send endless heads or trailers, or send a head too slowly or never."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._pending = 0  # bytes since the parser last finished a head, a piece of a body, or a message
        self._in_head = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Give the client a while to send its first head."""
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clock."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, then look whether the client is still in the middle of a head."""
        self._pending += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._pending > _HEAD_BYTES:
            self.send_400_response("The head of the request is too large.")
        elif self._in_head and self._head_timer is None:
            self._arm()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head = False
        self._pending = 0
        self._disarm()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body is there; its size and time are `BodyReader`'s to limit."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The message is there, trailers included."""
        self._pending = 0
        super().on_message_complete()

    def _arm(self) -> None:
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._too_slow)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        # Without an answer: most of these are connections opened ahead of need, whose clients did not ask anything.
        if not self.transport.is_closing():
            self.transport.close()
