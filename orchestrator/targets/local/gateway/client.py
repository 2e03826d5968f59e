"""A client's connection to the gateway: its requests go to the server one after another, bodies as they come, both ways.

A request is sent again only if nothing of it was sent, or if it is safe (GET, HEAD) and the server closed a kept connection
before it answered. Whatever else fails after the first byte is answered 502, since the server may have done the work.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from orchestrator.targets.local.gateway.heads import Head, Headers, chunk, end_to_end, error_answer

if TYPE_CHECKING:
    from orchestrator.targets.local.gateway.gateway import Gateway, Reached

__all__ = ["Client"]

BODY_LIMIT = 256 * 2**20
"""Bytes of one request; a batch of 64 images as JSON is about 100 MB."""
ANSWER_SECONDS = 300.0
_HEAD_BYTES = 64 * 1024
_HEAD_SECONDS = 10.0
_BODY_SECONDS = 60.0
"""Between two pieces of a body."""
_IDLE_SECONDS = 75.0
_LINGER_SECONDS = 2.0
_AHEAD = 64 * 1024
"""Bytes of a body that are kept while no server is there to take them."""
_NEVER = float("inf")


class Exchange:
    """A request on its way to a server, and what is known of its answer."""

    __slots__ = (
        "answered",
        "close",
        "head",
        "headers",
        "held",
        "http_1_0",
        "method",
        "pieces",
        "received",
        "refusal",
        "retried",
        "sent",
        "target",
        "whole",
    )

    def __init__(self) -> None:
        self.method = b""
        self.target = b""
        self.headers: Headers = []
        self.head: Head
        self.http_1_0 = False
        self.pieces: list[bytes] = []
        self.held = 0  # bytes of `pieces`
        self.received = 0  # bytes of the body so far
        self.whole = False  # nothing more of the request will come
        self.sent = False  # something of it was sent
        self.retried = False
        self.answered = False  # the client has the beginning of an answer
        self.close = False  # the connection ends with the answer
        self.refusal: tuple[int, str] | None = None


class Client(asyncio.Protocol):
    """A client's connection; see the module's docstring.

    Attributes:
        port: the one that it came through.
        deadline: `time.monotonic()` at which `expire` must be called.
    """

    def __init__(self, gateway: Gateway, port: int) -> None:
        self.port = port
        self.deadline = _NEVER
        self._gateway = gateway
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._arriving: Exchange | None = None
        self._in_head = False
        self._head_bytes = 0
        self._head_began = 0.0
        self._queue: deque[Exchange] = deque()  # the first one is with a server, or waits for one
        self._reached: Reached | None = None
        self._reaching: asyncio.Task[None] | None = None
        self._leave_at = _NEVER
        self._ending = False
        self._reading = True
        self._server_full = False
        self._client_full = False

    # From the client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the client a while to send its first head."""
        self._transport = cast("asyncio.Transport", transport)
        self._gateway.connected(self)
        self.deadline = time.monotonic() + _HEAD_SECONDS

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it is lost makes no difference
        """Cancel its request: a server that notices stops the work."""
        self._gateway.disconnected(self)
        self._ending = True
        self._queue.clear()
        if self._reaching is not None:
            self._reaching.cancel()
        if self._reached is not None:
            reached, self._reached = self._reached, None
            reached.upstream.abort()
            reached.revision.leave()

    def eof_received(self) -> bool:
        """A client that has finished sending may still read."""
        if self._ending or not self._queue or self._arriving is not None:
            return False
        self._queue[-1].close = True
        return True

    def data_received(self, data: bytes) -> None:
        """Parse the data, and process what is complete."""
        if self._ending:
            return  # data after a refused request is ignored
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):  # an upgrade has been refused by its head
            self._refuse(400, "not an HTTP/1.1 request")
        if self._in_head and self._head_bytes > _HEAD_BYTES:
            self._refuse(431, f"the head of the request is larger than {_HEAD_BYTES // 1024} KiB")
        self._advance()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._arriving = Exchange()
        self._in_head = True

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        assert self._arriving is not None
        self._arriving.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is dropped."""
        if self._in_head:
            assert self._arriving is not None
            self._arriving.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Decide whether the request is taken at all."""
        exchange = self._arriving
        assert exchange is not None
        self._in_head = False
        self._head_bytes = 0
        exchange.method = self._parser.get_method()
        exchange.http_1_0 = self._parser.get_http_version() != "1.1"
        exchange.close = exchange.http_1_0 or not self._parser.should_keep_alive()
        exchange.head = head = end_to_end(exchange.headers)
        self._queue.append(exchange)
        if self._parser.should_upgrade():
            self._refuse(400, "the connection cannot be upgraded")
        elif not self._in_origin_form(exchange):
            self._refuse(400, "the request's target is not a path")
        elif head.coded:
            self._refuse(501, "no transfer coding but chunked is supported")
        elif (head.length or 0) > BODY_LIMIT:
            self._refuse_large()
        elif head.expects and len(self._queue) == 1 and not exchange.http_1_0:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    @staticmethod
    def _in_origin_form(exchange: Exchange) -> bool:
        """Take the form that a proxy is asked in apart (`GET http://host/path`); False if there is no path in it."""
        if exchange.target.startswith(b"/") or exchange.target == b"*":
            return True
        try:
            url = httptools.parse_url(exchange.target)
        except httptools.HttpParserInvalidURLError:
            return False
        exchange.target = (url.path or b"/") + (b"?" + url.query if url.query else b"")
        return True

    def on_body(self, piece: bytes) -> None:
        """A piece of the body."""
        self._head_bytes = 0
        exchange = self._arriving
        if exchange is None:
            return
        exchange.received += len(piece)
        if exchange.received > BODY_LIMIT:
            self._refuse_large()
            return
        exchange.held += len(piece)
        exchange.pieces.append(chunk(piece) if exchange.head.chunked else piece)

    def on_message_complete(self) -> None:
        """A request is whole."""
        self._head_bytes = 0
        exchange, self._arriving = self._arriving, None
        if exchange is not None:
            exchange.whole = True
            if exchange.head.chunked:
                exchange.pieces.append(b"0\r\n\r\n")

    def _refuse_large(self) -> None:
        self._refuse(413, f"the request's body is larger than {BODY_LIMIT // 2**20} MiB")

    def _refuse(self, status: int, text: str) -> None:
        """Answer the request that arrives without the rest of it, after those before it; then end."""
        exchange = self._arriving or (self._queue[-1] if self._queue else None)
        if exchange is None or (self._arriving is None and exchange.whole):
            exchange = Exchange()
        if exchange not in self._queue:
            self._queue.append(exchange)
        exchange.refusal = exchange.refusal or (status, text)
        exchange.pieces.clear()
        self._arriving = None

    # On to a server

    def _advance(self) -> None:
        """Send what can be sent, then set the next deadline."""
        if self._queue and not self._ending:
            exchange = self._queue[0]
            if exchange.refusal is not None:
                self._answer_refusal(exchange, *exchange.refusal)
                return
            if self._reached is not None:
                self._send(exchange)
            elif self._reaching is None:
                reached = None if exchange.retried else self._gateway.idle()
                if reached is None:
                    self._reaching = asyncio.create_task(self._reach(exchange))
                else:
                    self._take(reached, exchange)
        self._control_reading()
        if not self._ending:
            self._set_deadline()

    async def _reach(self, exchange: Exchange) -> None:
        """Wait for a server that takes the request."""
        try:
            reached = await self._gateway.reach()
        except ConnectionError as error:
            self._reaching = None
            exchange.refusal = (503, str(error))
        else:
            self._reaching = None
            self._take(reached, exchange)
        self._advance()

    def _take(self, reached: Reached, exchange: Exchange) -> None:
        self._reached = reached
        reached.upstream.ask(self, head=exchange.method == b"HEAD")
        if self._client_full:
            reached.upstream.pause(pause=True)
        self._send(exchange)

    def _send(self, exchange: Exchange) -> None:
        """Send what has come of the request."""
        assert self._reached is not None
        upstream = self._reached.upstream
        parts = exchange.pieces
        if not exchange.sent:
            parts = [self._request_head(exchange, self._reached.revision.launching.port), *parts]
            exchange.sent = True
        if parts:
            upstream.send(parts, exchange.held)
            exchange.pieces, exchange.held = [], 0

    @staticmethod
    def _request_head(exchange: Exchange, port: int) -> bytes:
        head = exchange.head
        host = b"" if head.has_host else b"Host: 127.0.0.1:%d\r\n" % port
        framing = b"Transfer-Encoding: chunked\r\n" if head.chunked else b""
        return b"%b %b HTTP/1.1\r\n%b%b%b\r\n" % (exchange.method, exchange.target, host, head.lines, framing)

    def server_full(self, *, full: bool) -> None:
        """Read no faster than the server reads."""
        self._server_full = full
        self._control_reading()

    def _control_reading(self) -> None:
        """Pause reading from a client that sends ahead, or faster than its data can be passed on."""
        full = self._server_full or len(self._queue) > 1
        if self._reached is None and self._queue and self._queue[0].held > _AHEAD:
            full = True
        if self._reading is full and not self._transport.is_closing():
            self._reading = not full
            (self._transport.pause_reading if full else self._transport.resume_reading)()

    # To the client

    def answer_head(self, status: int, reason: bytes, head: Head, *, bodiless: bool) -> tuple[bytes, bool]:
        """The head for the client, and whether the body goes to it in chunks."""
        exchange = self._queue[0]
        exchange.answered = True
        chunked = not bodiless and head.length is None and not exchange.http_1_0
        unbounded = not bodiless and head.length is None and not chunked
        if unbounded or not exchange.whole or self._leave_at < _NEVER:
            exchange.close = True
        framing = b"Transfer-Encoding: chunked\r\n" if chunked else b""
        ending = b"Connection: close\r\n" if exchange.close else b""
        return b"HTTP/1.1 %d %b\r\n%b%b%b\r\n" % (status, reason, head.lines, framing, ending), chunked

    def answer_data(self, data: bytes) -> None:
        """Pass on what has come."""
        self._transport.write(data)

    def answer_end(self) -> None:
        """The answer is whole: the next request, or the end."""
        exchange = self._queue.popleft()
        self._let_server_go()
        if exchange.close:
            self._end(linger=not exchange.whole)
        else:
            self._expect_body()
            self._advance()

    def _expect_body(self) -> None:
        """Send "100 Continue" for a pipelined request that waits for it."""
        if self._queue and self._queue[0] is self._arriving and self._arriving.head.expects:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def answer_lost(self, reason: str, *, begun: bool) -> None:
        """The server has failed while this request was with it."""
        exchange = self._queue[0]
        reused = self._reached is not None and self._reached.upstream.reused
        self._let_server_go()
        if begun:
            self._transport.abort()  # anything else would look like a whole answer
            return
        safe = exchange.method in {b"GET", b"HEAD"} and exchange.received == 0 and exchange.whole
        if safe and reused and not exchange.retried:
            exchange.retried, exchange.sent = True, False
        else:
            exchange.refusal = (502, reason)
        self._advance()

    def _let_server_go(self) -> None:
        if self._reached is not None:
            if self._client_full:  # the server's connection is free, however much the client still has to read
                self._reached.upstream.pause(pause=False)
            self._reached.revision.leave()
            self._reached = None
        self._server_full = False

    def _answer_refusal(self, exchange: Exchange, status: int, text: str) -> None:
        if self._reached is not None:
            reached, self._reached = self._reached, None
            reached.upstream.abort()
            reached.revision.leave()
        if exchange.answered:
            self._transport.abort()
            return
        close = exchange.close or not exchange.whole or self._leave_at < _NEVER
        self._queue.popleft()
        self._transport.write(error_answer(status, text, body=exchange.method != b"HEAD", close=close))
        if close:
            self._end(linger=not exchange.whole)
        else:
            self._advance()

    def _end(self, *, linger: bool) -> None:
        """Close once the client has its answer; one that is still sending would lose it to a reset, so let it finish."""
        self._ending = True
        self._queue.clear()
        self._arriving = None
        self.deadline = time.monotonic() + (_LINGER_SECONDS if linger else _BODY_SECONDS)
        if self._transport.is_closing():
            return
        if linger and self._transport.can_write_eof():
            if not self._reading:
                self._reading = True
                self._transport.resume_reading()
            self._transport.write_eof()
        else:
            self._transport.close()

    def pause_writing(self) -> None:
        """The client does not read its answer as fast as it comes."""
        self._client_full = True
        self.deadline = time.monotonic() + ANSWER_SECONDS
        if self._reached is not None:
            self._reached.upstream.pause(pause=True)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._client_full = False
        if self._reached is not None:
            self._reached.upstream.pause(pause=False)
        if not self._ending:
            self._set_deadline()

    # Time

    def _set_deadline(self) -> None:
        """Until when the client must go on, or the server must have answered."""
        if self._client_full:
            return
        now = time.monotonic()
        if self._in_head:
            if self._head_began == 0:  # more bytes of a head win no time
                self._head_began = now
            self.deadline = self._head_began + _HEAD_SECONDS
            return
        self._head_began = 0.0
        if not self._queue:
            self.deadline = min(now + _IDLE_SECONDS, self._leave_at)
        elif self._arriving is not None and self._reading:
            self.deadline = now + _BODY_SECONDS
        else:
            self.deadline = now + ANSWER_SECONDS

    def expire(self) -> None:
        """The deadline has passed."""
        if self._client_full or self._ending or self._in_head or not self._queue:
            # Close without an answer: most of these connections were opened in advance and sent no request.
            self._transport.abort()
            return
        exchange = self._queue[0]
        if exchange.whole:
            exchange.refusal = (504, f"the server did not answer within {ANSWER_SECONDS:.0f} s")
        else:
            exchange.refusal = (408, f"no more of the request's body arrived for {_BODY_SECONDS:.0f} s")
        if self._reaching is not None:
            self._reaching.cancel()
            self._reaching = None
        self._advance()

    def let_go(self, idle_seconds: float) -> None:
        """Close after the next answer, or after being idle for so long."""
        self._leave_at = min(self._leave_at, time.monotonic() + idle_seconds)
        if not self._queue and not self._in_head and not self._ending:
            if idle_seconds == 0:
                self._end(linger=False)
            else:
                self.deadline = min(self.deadline, self._leave_at)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()
