"""HTTP requests and answers, and the interface between connections and the application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from .errors import RequestError

__all__ = ["Answer", "App", "ConnectionLimits", "Request"]


@dataclass(slots=True, eq=False)
class Request:
    """A request as it arrives; header names are lower case, times are `time.monotonic()` seconds.

    Attributes:
        began: when its first bytes arrived.
        read: when it was complete.
        refusal: why reading was aborted.
        held: its bytes counted in the budget.
    """

    began: float
    method: bytes = b""
    target: bytes = b""
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes | bytearray = b""
    read: float = 0.0
    keep_alive: bool = False
    refusal: RequestError | None = None
    held: int = 0


class Answer(NamedTuple):
    """A status, header lines (each with its line end), and a body."""

    status: int
    headers: bytes
    body: bytes


class App(Protocol):
    """The application that answers requests. Called in the event loop."""

    @property
    def closing(self) -> bool:
        """Whether connections should be closed after their next answer."""

    def admit(self, request: Request) -> None:
        """Raise a `RequestError` to refuse a request by its head, before its body is read."""

    def handle(self, request: Request, reply: Callable[[Request, Answer], None]) -> Answer | Callable[[], None]:
        """The answer to a complete request, or a function that cancels it; then `reply` is called once, later."""

    def refuse(self, request: Request, error: RequestError) -> Answer:
        """The answer to a request that is refused."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits for clients.

    Attributes:
        body_bytes: size of a body.
        seconds: to send a body, and to read an answer; also for a head, but at most ten.
        idle_seconds: time between requests.
        connections: number of connections of all clients.
    """

    body_bytes: int
    seconds: float
    idle_seconds: float
    connections: int
