"""The load generator's connections over gRPC: HTTP/2 by h2, one call at a time, with messages that were formed beforehand.

h2 is written in Python and costs the generator several times what HTTP/1.1 does, so a throughput over gRPC is only reported as
`at least`.
"""

from __future__ import annotations

import contextlib
import select
import ssl
from collections.abc import Iterable

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from orchestrator.measure.load_connections import CONNECTED, GOOD, Address, Connection, Ended

__all__ = ["GrpcConnection"]

_READ = 256 * 1024
_WINDOW = 2**31 - 1
"""The largest that HTTP/2 knows: the server never waits for the generator."""

_HEADERS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "127.0.0.1"),
    (":path", "/inference.GRPCInferenceService/ModelInfer"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)
_GOOD = "0"
_TOO_BUSY = {"8": "RESOURCE_EXHAUSTED", "14": "UNAVAILABLE"}
"""Status codes of an overloaded server."""


class GrpcConnection(Connection):
    """See `Connection`; a request is a message as gRPC sends it (`backends.wire.grpc_prefixed`)."""

    __slots__ = ("_failure", "_http2", "_kept_open", "_message", "_result", "_size", "_stream", "_whole")

    def __init__(self, address: Address, epoll: select.epoll, context: ssl.SSLContext | None) -> None:
        super().__init__(address, epoll, context)
        # What is sent is right, and what comes is only counted.
        self._http2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
            )
        )
        self._message = memoryview(b"")
        self._stream = 0
        self._kept_open = True
        self._reset()

    def send(self, request: bytes, now: float) -> None:
        """Send a request; if it fails, the next events tell."""
        self.busy = True
        self.begun = now
        self._stream = self._http2.get_next_available_stream_id()
        self._http2.send_headers(self._stream, _HEADERS)
        self._message = memoryview(request)
        self._send_message()

    def receive(self) -> Ended | None:
        """Read what has come; how its request ended, or None."""
        try:
            data = self._receive(_READ)
        except BlockingIOError:
            return None
        except OSError as error:
            return self._lost(error.strerror or str(error))
        if not data:
            return self._lost("the server closed it")
        busy = self.busy
        try:
            for event in self._http2.receive_data(data):
                self._on_event(event)
            if self._whole:
                self._message = memoryview(b"")  # what is left of it, if the server has answered before it was sent
            self._send_message()
        except h2.exceptions.ProtocolError as error:
            self.close()
            return Ended(failed=f"the answer is not HTTP/2: {error}") if busy else None
        if not busy and not self._kept_open:
            self.close()
        if not self._whole:
            return None
        self.busy = False
        ended = self._judged()
        self._reset()
        if not self._kept_open:
            self.close()
        return ended

    def _reset(self) -> None:
        self._whole = False
        self._size = 0
        self._result: dict[str, str] = {}
        self._failure = ""

    def _on_event(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.DataReceived():
                self._size += len(event.data or b"")
                self._http2.acknowledge_received_data(event.flow_controlled_length or 0, self._stream)
            case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                self._result |= dict(_texts(event.headers or ()))
            case h2.events.StreamEnded():
                self._whole = True
            case h2.events.StreamReset():
                if "grpc-status" in self._result:
                    return  # the answer is there, and the rest of the request is not wanted any more
                self._whole = True
                self._failure = f"the call was reset with code {event.error_code}"
            case h2.events.ConnectionTerminated():
                self._kept_open = False
            case _:
                pass  # settings and windows, which h2 keeps; what they allow is sent afterwards

    def _judged(self) -> Ended:
        if self._failure:
            return Ended(failed=self._failure)
        status = self._result.get("grpc-status", "")
        if status == _GOOD:
            return GOOD if self._size else Ended(failed="an empty answer")
        message = self._result.get("grpc-message", "")
        why = f": {message}" if message else ""
        if status in _TOO_BUSY:
            return Ended(refused=f"status {_TOO_BUSY[status]}{why}")
        return Ended(failed=f"gRPC status {status or 'missing'}{why}")

    def _connected(self) -> Ended | None:
        ended = super()._connected()
        if ended is CONNECTED:
            self._http2.initiate_connection()
            self._http2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW})
            self._http2.increment_flow_control_window(_WINDOW - self._http2.inbound_flow_control_window)
            self._flush()
        return ended

    def _send_message(self) -> None:
        """Send as much of the message as the server's windows allow."""
        while self._message:
            window = self._http2.local_flow_control_window(self._stream)
            size = min(window, self._http2.max_outbound_frame_size, len(self._message))
            if size <= 0:
                break
            last = size == len(self._message)
            self._http2.send_data(self._stream, bytes(self._message[:size]), end_stream=last)
            self._message = self._message[size:]
        self._flush()

    def _flush(self) -> None:
        data = self._http2.data_to_send()
        if not data:
            return
        if self._left is not None:
            self._left = memoryview(bytes(self._left) + data)
            return
        sent = 0
        with contextlib.suppress(BlockingIOError, ConnectionError):
            sent = self._send(data)
        if sent < len(data):
            self._left = memoryview(data)[sent:]
            self._epoll.modify(self.file, select.EPOLLIN | select.EPOLLOUT)


def _texts(headers: Iterable[tuple[bytes | str, bytes | str]]) -> Iterable[tuple[str, str]]:
    for name, value in headers:
        yield (
            name if isinstance(name, str) else name.decode("latin-1"),
            value if isinstance(value, str) else value.decode("latin-1"),
        )
