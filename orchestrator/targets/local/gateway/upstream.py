"""Connections of the gateway to a server: each carries one request at a time, and is kept for the next one."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, cast

import httptools

from orchestrator.targets.local.gateway.heads import Head, Headers, chunk, end_to_end
from orchestrator.targets.local.ports import LOOPBACK

__all__ = ["Asker", "Upstream", "Upstreams"]

_CONNECT_SECONDS = 5.0
_IDLE_SECONDS = 1.5
"""A server closes a connection that is idle for some seconds (uvicorn: 5). A request that is sent at that instant is lost
without a word, so connections are dropped here before any server does."""
_HEAD_BYTES = 256 * 1024
"""One line of a server's answer may hold a long parameter."""


class Asker(Protocol):
    """The owner of the request that a connection carries."""

    def answer_head(self, status: int, reason: bytes, head: Head, *, bodiless: bool) -> tuple[bytes, bool]:
        """The answer's head has come: the head for the client, and whether the body goes to it in chunks."""

    def answer_data(self, data: bytes) -> None:
        """Something to send to the client."""

    def answer_end(self) -> None:
        """The answer is whole; the connection has been given back."""

    def answer_lost(self, reason: str, *, begun: bool) -> None:
        """The server has failed; `begun` if part of its answer came."""

    def server_full(self, *, full: bool) -> None:
        """Whether the server reads slower than the client sends."""


class Upstreams:
    """The connections to one server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Upstream] = []

    def idle(self) -> Upstream | None:
        """An idle, open connection: the one that was used last."""
        return self._idle.pop() if self._idle else None

    async def connect(self) -> Upstream:
        """A new connection.

        Raises:
            OSError: the server does not listen; nothing was sent.
            TimeoutError: it does not take the connection.
        """
        loop = asyncio.get_running_loop()
        opening = loop.create_connection(lambda: Upstream(self), LOOPBACK, self._port)
        _, upstream = await asyncio.wait_for(opening, _CONNECT_SECONDS)
        return upstream

    def give_back(self, upstream: Upstream) -> None:
        """Keep a connection for the next request."""
        upstream.idle_since = time.monotonic()
        self._idle.append(upstream)

    def forget(self, upstream: Upstream) -> None:
        """It is closed."""
        if upstream in self._idle:
            self._idle.remove(upstream)

    def close_idle(self, seconds: float = _IDLE_SECONDS) -> None:
        """Close connections that were idle for so long."""
        limit = time.monotonic() - seconds
        for upstream in [each for each in self._idle if each.idle_since <= limit]:
            self._idle.remove(upstream)
            upstream.abort()


class Upstream(asyncio.Protocol):
    """One connection to a server.

    Attributes:
        idle_since: `time.monotonic()` of the end of its last answer.
        reused: it has carried a request before.
    """

    def __init__(self, pool: Upstreams) -> None:
        self.idle_since = 0.0
        self.reused = False
        self._pool = pool
        self._transport: asyncio.Transport
        self._asker: Asker | None = None
        self._new_answer()

    def _new_answer(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: Headers = []
        self._reason = b""
        self._out: list[bytes] = []
        self._head_bytes = 0
        self._interim = self._begun = self._bodiless = self._whole = self._chunked = self._until_eof = False
        self._reusable = False
        self._head = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready to carry a request."""
        self._transport = cast("asyncio.Transport", transport)

    def ask(self, asker: Asker, *, head: bool) -> None:
        """Carry a request of `asker`; `head` if its method is HEAD."""
        self._asker = asker
        self._head = head

    def send(self, parts: list[bytes], size: int) -> None:
        """Send parts of the request, `size` bytes together."""
        if size <= 64 * 1024:
            self._transport.write(b"".join(parts))
        else:
            self._transport.writelines(parts)

    def abort(self) -> None:
        """Close at once; what it carries is given up."""
        self._asker = None
        self._transport.abort()

    def pause(self, *, pause: bool) -> None:
        """Stop reading the answer for a while, or go on."""
        if not self._transport.is_closing():
            (self._transport.pause_reading if pause else self._transport.resume_reading)()

    def pause_writing(self) -> None:
        """The server reads slower than the client sends."""
        if self._asker is not None:
            self._asker.server_full(full=True)

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._asker is not None:
            self._asker.server_full(full=False)

    def data_received(self, data: bytes) -> None:
        """Parse, and pass on."""
        asker = self._asker
        if asker is None:  # there was no request
            self._transport.abort()
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if not self._whole:
                self._lose("the server's answer is not HTTP/1.1")
                return
            self._reusable = False
        if not self._begun and self._head_bytes > _HEAD_BYTES:
            self._lose("the head of the server's answer is too large")
            return
        if self._out:
            out, self._out = self._out, []
            asker.answer_data(out[0] if len(out) == 1 else b"".join(out))
        if self._whole:
            self._end()

    def on_status(self, reason: bytes) -> None:
        """The phrase beside the status."""
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is dropped."""
        if not self._begun:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Pass the head on, unless it is an interim answer's."""
        status = self._parser.get_status_code()
        if status < 200:
            self._interim = True
            return
        head = end_to_end(self._headers)
        self._begun = True
        self._bodiless = self._head or status in {204, 304}
        self._until_eof = not self._bodiless and head.length is None and not head.chunked
        self._reusable = self._parser.should_keep_alive() and not self._until_eof
        assert self._asker is not None
        lines, self._chunked = self._asker.answer_head(status, self._reason, head, bodiless=self._bodiless)
        self._out.append(lines)
        self._whole = self._bodiless

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        if not self._whole:
            self._out.append(chunk(piece) if self._chunked else piece)

    def on_message_complete(self) -> None:
        """The answer is whole, unless it was an interim one."""
        if self._interim:
            self._interim = False
            self._headers, self._reason = [], b""
        elif not self._whole:
            self._finish_body()

    def _finish_body(self) -> None:
        self._whole = True
        if self._chunked:
            self._out.append(b"0\r\n\r\n")

    def _end(self) -> None:
        """Give the connection back, or close it where the server or the message does not let it be used again."""
        asker, self._asker = self._asker, None
        if self._reusable and not self._transport.is_closing():
            if self._bodiless:  # the parser may expect a body
                self._new_answer()
            else:
                self._headers, self._reason, self._head_bytes = [], b"", 0
                self._begun = self._whole = False
            self.reused = True
            self._pool.give_back(self)
        else:
            self._transport.abort()
        if asker is not None:
            asker.answer_end()

    def _lose(self, reason: str) -> None:
        asker, self._asker = self._asker, None
        self._transport.abort()
        if asker is not None:
            asker.answer_lost(reason, begun=self._begun)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server has closed the connection: the end of a body without a length, or a failure."""
        self._pool.forget(self)
        if self._asker is None:
            return
        if self._until_eof and exc is None:
            self._finish_body()
            if self._out:
                self._asker.answer_data(b"".join(self._out))
            self._reusable = False
            self._end()
        else:
            self._lose("the server closed the connection before it answered")
