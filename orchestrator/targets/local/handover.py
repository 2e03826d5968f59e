"""Hands listening sockets to a server process and takes them back; `orchestrator/server/handover.py` is the other end.

The sockets stay open here, so the kernel's queue of connections outlives every server: a successor listens on the same socket
before its predecessor stops, and nothing that was queued is lost when either ends.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from orchestrator.spec.strict import Strict

__all__ = ["Handover"]

_ANSWER_SECONDS = 5.0


class Handover:
    """The connection to one run of a server process. The process inherits `fd`."""

    def __init__(self, changed: Callable[[], None] = lambda: None) -> None:
        """Prepare the connection.

        Args:
            changed: called when the process has begun or ceased to listen on a shared port.
        """
        self.grpc_ports: list[int] = []
        self._on_change = changed
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.settimeout(0)
        self._order = 0
        self._answered = 0
        self._listening: list[int] = []
        self._connections: int | None = 0  # None: unknown, the last order is not answered yet
        self._changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._ours.fileno(), self._receive)

    @property
    def fd(self) -> int:
        """The process's end."""
        return self._theirs.fileno()

    def started(self) -> None:
        """The process has its end; close ours, so that only the process holds it."""
        self._theirs.close()

    def close(self) -> None:
        """The process has ended."""
        asyncio.get_running_loop().remove_reader(self._ours.fileno())
        self._theirs.close()
        self._ours.close()
        self._take(_Answer(order=self._order, listening=(), grpc=(), connections=0))

    async def listen_on(
        self, listeners: Sequence[socket.socket], idle_seconds: float, *, grpc: Sequence[int] = (), last: bool = False
    ) -> bool:
        """Have the server accept on exactly these sockets; False if it does not confirm.

        Args:
            listeners: all of them.
            idle_seconds: how long idle connections of sockets that it gives up stay open.
            grpc: all ports that it shall share for gRPC.
            last: whether the server gets no more requests.
        """
        ports = sorted(int(listener.getsockname()[1]) for listener in listeners)
        order = self._order + 1
        message = json.dumps({"order": order, "idle_seconds": idle_seconds, "grpc": [*grpc], "last": last}).encode()
        try:
            socket.send_fds(self._ours, [message], [listener.fileno() for listener in listeners])
        except OSError:
            return False
        self._order, self._connections = order, None
        await self._until(lambda: self._answered >= order, _ANSWER_SECONDS)
        return self._answered == order and self._listening == ports

    async def until_gone(self, seconds: float) -> None:
        """Wait until no connection of sockets that were taken back is left, for `seconds` at most.

        While an order is not answered, nobody knows how many there are, and the answer is waited for.
        """
        await self._until(lambda: self._connections == 0, seconds)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not condition():
                    if self._ours.fileno() < 0:
                        return False
                    self._changed.clear()
                    await self._changed.wait()
        return condition()

    def _receive(self) -> None:
        try:
            data = self._ours.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            answer = _Answer.model_validate_json(data)
            if answer.order == self._order:  # an answer to an older order says nothing about this one
                self._take(answer)
        else:  # the process has ended
            asyncio.get_running_loop().remove_reader(self._ours.fileno())
            self._take(_Answer(order=self._order, listening=(), grpc=(), connections=0))

    def _take(self, answer: _Answer) -> None:
        self._answered, self._listening, self._connections = answer.order, [*answer.listening], answer.connections
        before, self.grpc_ports = self.grpc_ports, [*answer.grpc]
        self._changed.set()
        if before != self.grpc_ports:
            self._on_change()


class _Answer(Strict):
    """What the server says; see `orchestrator/server/handover.py`."""

    order: int
    listening: tuple[int, ...]
    grpc: tuple[int, ...]
    connections: int
