"""A request and its answer over HTTP, and the contract between connections and what answers."""

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
        began: when its first bytes came.
        read: when all of it was there.
        refusal: why it is not read to its end.
        held: its bytes that are counted in the budget.
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
    """What answers requests. Called in the event loop."""

    @property
    def closing(self) -> bool:
        """Whether connections should end with their next answer."""

    def admit(self, request: Request) -> None:
        """Refuse a request by its head, before its body is read, with a `RequestError`."""

    def handle(self, request: Request, reply: Callable[[Request, Answer], None]) -> Answer | Callable[[], None]:
        """The answer to a whole request; or what takes it back, and then `reply` is called once, later."""

    def refuse(self, request: Request, error: RequestError) -> Answer:
        """The answer to a request that is not handled."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one client may take.

    Attributes:
        body_bytes: of one body.
        seconds: for sending a body, and for reading an answer; a head has no more, and at most ten.
        idle_seconds: between requests.
        connections: of all clients.
    """

    body_bytes: int
    seconds: float
    idle_seconds: float
    connections: int
