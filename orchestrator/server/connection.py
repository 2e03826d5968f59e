"""An HTTP/1.1 connection: reads requests within limits and writes the answers in order.

It is parsed by httptools (llhttp). The overhead of a server for arbitrary applications, a task and two messages for each
request, would be more than the rest of a small model's request; docs/server.md has the numbers.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

import httptools

from .budget import Budget
from .errors import RequestError
from .exchange import Answer, App, ConnectionLimits, Request

__all__ = ["Connection"]

_HEAD_BYTES = 64 * 1024
_HEAD_SECONDS = 10.0
_LINGER_SECONDS = 2.0
_FIRST_SECONDS = 1.0
"""A client that has just connected is about to send its request, also when the server is about to end."""
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_ONE_WRITE = 64 * 1024
"""Smaller bodies are copied after their head, which is cheaper than a second buffer."""
_NEVER = float("inf")
_STATUS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

_log = logging.getLogger("mlo.connection")


class Connection(asyncio.Protocol):
    """See the module. One request is handled at a time; a client that sends further requests is not read meanwhile.

    Attributes:
        deadline: `time.monotonic()` at which `expire` must be called.
        handed_over: the port that accepted it, if another process handed over that socket.
    """

    def __init__(
        self,
        app: App,
        limits: ConnectionLimits,
        budget: Budget,
        connections: set[Connection],
        handed_over: int | None = None,
    ) -> None:
        self.deadline = _NEVER
        self.handed_over = handed_over
        self._app = app
        self._limits = limits
        self._budget = budget
        self._connections = connections
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._arriving: Request | None = None
        self._waiting: deque[Request] = deque()
        self._current: Request | None = None
        self._take_back: Callable[[], None] | None = None
        self._in_head = False
        self._pending = 0  # bytes since the parser last finished a head, a piece of a body, or a message
        self._written = 0  # bytes of the last answer's body
        self._unread = 0  # bytes of answers that wait for the client, counted in the budget
        self._ending = False
        self._half_closed = False
        self._leave_at = _NEVER  # after the next answer, and by then if there is none
        self._expected_until = 0.0  # the first request is probably on its way
        self._paused = False
        self._stage: tuple[Request | None, bool] = (None, False)  # the purpose of the deadline

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Give the client a while to send its first head."""
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        if len(self._connections) > self._limits.connections:
            self._ending = True
            self._transport.abort()
        now = time.monotonic()
        self.deadline = now + min(_HEAD_SECONDS, self._limits.seconds)
        self._expected_until = now + _FIRST_SECONDS

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why it is lost makes no difference
        """Drop the client and cancel its requests."""
        self._connections.discard(self)
        self._budget.give_back(self._unread)
        self._unread = 0
        arriving = self._arriving
        for request in (arriving, *self._waiting):
            self._let_go(request)
        if arriving is not None and not self._in_head and arriving.refusal is None and not self._ending:
            self._app.refuse(arriving, RequestError(499, "the client disconnected while sending", reason="cancelled"))
        self._ending = True
        self._waiting.clear()
        self._arriving = self._current = None
        if self._take_back is not None:
            take_back, self._take_back = self._take_back, None
            take_back()

    def data_received(self, data: bytes) -> None:
        """Parse, handle complete requests, and check that the client keeps to the limits."""
        if self._ending:
            return  # everything after a refused head or body is ignored
        self._pending += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._refuse_arriving(RequestError(400, "not an HTTP/1.1 request", reason="not_http"))
        if self._pending > _HEAD_BYTES:
            self._refuse_arriving(RequestError(400, "the request head is too large", reason="head"))
        self._advance()
        if self._arriving is not None or self._waiting:
            self._hold(len(data))

    def _parse(self, data: bytes) -> None:
        """Feed the parser, which stops after the head of a request that asks for another protocol, as if it had no body.

        Java's client and `curl --http2` ask for `h2c` with their first request. A server may ignore that (RFC 9110, 7.8), so
        the head is parsed again without it.
        """
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as stop:
                request = self._arriving
                if request is None:
                    return  # CONNECT, which was refused
                self._let_go(request)
                del request.headers[b"upgrade"]
                version = self._parser.get_http_version().encode()
                headers = b"".join(b"%b: %b\r\n" % header for header in request.headers.items())
                self._parser = httptools.HttpRequestParser(self)
                head = b"%b %b HTTP/%b\r\n%b\r\n" % (request.method, request.target, version, headers)
                data = head + data[stop.args[0] :]
            else:
                return

    def eof_received(self) -> bool:
        """The client sends nothing more, but may still wait for its answers; returns whether the connection stays open."""
        if self._transport.get_extra_info("sslcontext") is not None:
            return False  # a TLS connection cannot be half closed in asyncio
        self._half_closed = self._current is not None or bool(self._waiting or self._unread)
        if self._current is not None:
            self.deadline = time.monotonic()
        return self._half_closed

    def _probe(self) -> None:
        """Find out whether a client that sends nothing more is still there, which only a write shows.

        A client that waits for its answer ignores a `100 Continue` (RFC 9110, 15.2); one that has disconnected resets the
        connection, so that the next write fails and `connection_lost` cancels its request. HTTP/1.0 has no such answers.
        """
        if self._parser.get_http_version() == "1.1":
            self._transport.write(_CONTINUE)
        self.deadline = time.monotonic()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._arriving = Request(time.monotonic())
        self._in_head = True
        self._expected_until = 0.0

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        assert self._arriving is not None
        self._arriving.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; or a trailer, which is ignored."""
        if self._in_head:
            assert self._arriving is not None
            name = name.lower()
            if name == b"host" and name in self._arriving.headers:
                value = b""  # an empty one is refused
            self._arriving.headers[name] = value

    def on_headers_complete(self) -> None:
        """Decide whether the body is read."""
        request = self._arriving
        assert request is not None
        self._in_head = False
        self._pending = 0
        request.method = self._parser.get_method()
        if b"upgrade" in request.headers and self._parser.should_upgrade():
            return  # see `_parse`
        version = self._parser.get_http_version()
        request.keep_alive = self._parser.should_keep_alive() and version == "1.1"
        if version == "1.1" and not request.headers.get(b"host"):
            self._refuse_arriving(RequestError(400, "HTTP/1.1 requires one `Host` header", reason="not_http"))
            return
        try:
            self._app.admit(request)
            if int(request.headers.get(b"content-length", b"0")) > self._limits.body_bytes:
                raise self._too_large()
        except RequestError as error:
            self._refuse_arriving(error)
            return
        if request.headers.get(b"expect", b"").lower() == b"100-continue" and self._current is None:
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._pending = 0
        request = self._arriving
        if request is None:
            return
        # One buffer, because a list of one-byte pieces would take fifty times as much memory.
        if not request.body:
            request.body = body
        elif isinstance(request.body, bytes):
            request.body = bytearray(request.body) + body
        else:
            request.body += body
        if len(request.body) > self._limits.body_bytes:
            self._refuse_arriving(self._too_large())

    def on_message_complete(self) -> None:
        """A request is complete."""
        self._pending = 0
        request = self._arriving
        if request is None or self._parser.should_upgrade():
            return
        self._arriving = None
        request.read = time.monotonic()
        self._waiting.append(request)

    def _too_large(self) -> RequestError:
        return RequestError(413, f"the body is larger than {self._limits.body_bytes} bytes", reason="too_large")

    def _let_go(self, request: Request | None) -> None:
        if request is not None:
            self._budget.give_back(request.held)
            request.held = 0

    def _hold(self, size: int) -> None:
        """Count the bytes of a request that is not handled yet; most requests arrive complete and are not counted."""
        request = self._arriving or self._waiting[-1]
        request.held += size
        if not self._budget.take(size) and request is self._arriving:
            full = RequestError(429, "too much request data is being received", reason="bodies_full", retry_after=1)
            self._refuse_arriving(full)
            self._advance()

    def _refuse_arriving(self, error: RequestError) -> None:
        """Answer the arriving request without the rest of it, after those before it."""
        if self._ending:
            return
        request = self._arriving or Request(time.monotonic())
        request.refusal = error
        request.body = b""
        self._arriving = None
        self._ending = True
        self._waiting.append(request)

    def _advance(self) -> None:
        """Handle the next request, if it is its turn; then set the client's next deadline."""
        while self._waiting and self._current is None and not self._unread:
            request = self._waiting.popleft()
            if request.held:
                self._let_go(request)
            if request.refusal is not None:
                self._write(request, self._app.refuse(request, request.refusal))
                continue
            answer = self._handled(request)
            if isinstance(answer, Answer):
                self._write(request, answer)
            else:
                self._current, self._take_back = request, answer
        if self._paused is not bool(self._waiting):
            self._pause_reading(pause=not self._paused)
        if self._current is not None:
            self.deadline = time.monotonic() if self._half_closed else _NEVER
        elif not self._unread and not self._ending:
            if self._half_closed:
                self._end(unread=False)
            else:
                self._set_deadline()

    def _pause_reading(self, *, pause: bool) -> None:
        if not self._transport.is_closing():
            self._paused = pause
            (self._transport.pause_reading if pause else self._transport.resume_reading)()

    def _set_deadline(self) -> None:
        """The deadline for the next request, its head or its body; further bytes do not extend it."""
        stage = (self._arriving, self._in_head)
        if stage != self._stage or self.deadline == _NEVER:
            self._stage = stage
            seconds = self._limits.seconds
            if self._arriving is None:
                seconds = self._limits.idle_seconds
            elif self._in_head:
                seconds = min(_HEAD_SECONDS, seconds)
            self.deadline = time.monotonic() + seconds

    def _handled(self, request: Request) -> Answer | Callable[[], None]:
        try:
            return self._app.handle(request, self.reply)
        except RequestError as error:
            return self._app.refuse(request, error)
        except Exception:  # noqa: BLE001 - the client gets an answer and the log gets the traceback
            _log.exception("a request could not be handled")
            return self._app.refuse(request, RequestError(500, "the server failed", reason="failed"))

    def reply(self, request: Request, answer: Answer) -> None:
        """Send the answer that `handle` deferred; it is discarded if the client is gone."""
        if request is not self._current:
            return
        self._current = self._take_back = None
        self._write(request, answer)
        self._advance()

    def _write(self, request: Request, answer: Answer) -> None:
        status, headers, body = answer
        last = self._app.closing or self._leave_at < _NEVER or (self._half_closed and not self._waiting)
        close = last or not request.keep_alive or request.refusal is not None
        ending = b"connection: close\r\n\r\n" if close else b"\r\n"
        head = b"%b%b%bcontent-length: %d\r\n%b" % (_STATUS[status], headers, _date(), len(body), ending)
        if request.method == b"HEAD":
            body = b""
        self._written = len(body)
        self.deadline = _NEVER  # the one for this request; `_advance` sets that of the next one
        if len(body) < _ONE_WRITE:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        if close:
            self._end(unread=request.refusal is not None)

    def _end(self, *, unread: bool) -> None:
        """Close once the client has its answer; one that is still sending would lose it to a reset, so let it finish."""
        self._ending = True
        self._waiting.clear()
        self.deadline = time.monotonic() + (_LINGER_SECONDS if unread else self._limits.seconds)
        if unread and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def pause_writing(self) -> None:
        """The client does not read its answer as fast as it comes."""
        # All of it, as long as a byte is left, because the transport keeps a view of it.
        self._unread = max(self._written, self._transport.get_write_buffer_size())
        self.deadline = time.monotonic() + self._limits.seconds
        if not self._budget.take(self._unread):
            _log.info("disconnected a client that reads too slowly")
            self._transport.abort()

    def resume_writing(self) -> None:
        """The client has read enough of its answers."""
        self._budget.give_back(self._unread)
        self._unread = 0
        if not self._ending:
            self.deadline = _NEVER
            self._advance()

    def expire(self) -> None:
        """The deadline has passed: the client was too slow, idle, or sends nothing more and has to be probed."""
        if self._half_closed and self._current is not None:
            self._probe()
            return
        arriving = self._arriving
        if arriving is None or self._in_head or self._unread or self._ending:
            # No answer: most of these are idle connections that clients opened in advance.
            self._transport.abort()
            return
        seconds = f"{self._limits.seconds:g}"
        self._refuse_arriving(RequestError(408, f"the body did not arrive in {seconds} s", reason="slow"))
        self._advance()

    def let_go(self, idle_s: float) -> None:
        """Close after the next answer, or after `idle_s` seconds without a request."""
        self._leave_at = min(self._leave_at, time.monotonic() + idle_s)
        if idle_s == 0:
            self.finish()
        elif self._current is None and self._arriving is None and not self._unread and not self._ending:
            self.deadline = min(self.deadline, self._leave_at)

    def finish(self) -> None:
        """Close now if no request is being answered, is arriving or is expected; otherwise a later call does.

        After an answer the connection closes by itself, since the app is `closing` or `let_go` was called.
        """
        if self._current is not None or self._arriving is not None or self._unread or self._ending:
            return
        if time.monotonic() < self._expected_until:
            self.deadline = min(self.deadline, self._expected_until)
            return
        self._ending = True
        self.deadline = time.monotonic() + _LINGER_SECONDS
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()


class _Date:
    """The header `date`, written once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def __call__(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._line = f"date: {formatdate(second, usegmt=True)}\r\n".encode()
        return self._line


_date = _Date()
