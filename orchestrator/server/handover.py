"""Listening sockets that another process hands over: a supervisor, to this server and later to its successor.

`--handover FD` names an inherited Unix socket (SOCK_SEQPACKET). Each message that arrives on it is JSON,
`{"order": 1, "idle_seconds": 30, "grpc": [PORT, ...], "last": false}`, with all the sockets that the server shall listen on from
now on attached (SCM_RIGHTS), besides the port of its own. `grpc` are the ports that it shall share for gRPC (`grpc_ports`);
after the `last` order nothing is asked here any more. The server answers `{"order": 1, "listening": [PORT, ...], "grpc": [PORT,
...], "connections": N}`, with the number of the order that it obeys, as soon as that is so, and says it again when `grpc` changes,
and when the last connection of what it has given up is gone. The sender keeps the sockets open, so the kernel's queue of
connections outlives every server: whoever listens next finds them there.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from .errors import UNAVAILABLE, StartError
from .http_server import HttpServer
from .logs import fields

if TYPE_CHECKING:
    from .grpc_ports import GrpcPorts

__all__ = ["Handover"]

_SOCKETS_AT_MOST = 16
_MESSAGE_BYTES = 4096
_LOOK_S = 0.02
"""Seconds between checks of connections that have to end."""

_log = logging.getLogger("mlo.handover")


class Handover:
    """Belongs to the event loop's thread."""

    def __init__(self, fd: int, http: HttpServer) -> None:
        """Receive orders from the inherited socket `fd`, once `start` is called.

        Raises:
            StartError: `UNAVAILABLE`; it is not a socket.
        """
        try:
            self._channel = socket.socket(fileno=fd)
        except OSError as error:
            raise StartError(UNAVAILABLE, f"--handover {fd}: {error.strerror}") from error
        self._channel.settimeout(0)
        self._http = http
        self._grpc: GrpcPorts | None = None
        self._orders: asyncio.Queue[_Order] = asyncio.Queue()
        self._obeying: asyncio.Task[None] | None = None

    def start(self, grpc: GrpcPorts | None) -> None:
        """Carry out orders from now on.

        Args:
            grpc: the ports for gRPC; None if the server does not offer it.
        """
        self._grpc = grpc
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._receive)
        self._obeying = loop.create_task(self._obey())

    def stop(self) -> None:
        """Stop carrying out orders."""
        asyncio.get_running_loop().remove_reader(self._channel.fileno())
        if self._obeying is not None:
            self._obeying.cancel()
        self._channel.close()

    def _receive(self) -> None:
        try:
            data, handles, _, _ = socket.recv_fds(
                self._channel, _MESSAGE_BYTES, _SOCKETS_AT_MOST, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        listeners = [socket.socket(fileno=handle) for handle in handles]
        if data:
            self._orders.put_nowait(_Order(listeners=listeners, **orjson.loads(data)))
        else:  # the other end is closed
            asyncio.get_running_loop().remove_reader(self._channel.fileno())

    async def _obey(self) -> None:
        while True:
            order = await self._orders.get()
            try:
                await self._http.listen_on(order.listeners)
                if self._grpc is not None:
                    await self._grpc.listen_on(order.grpc, pause=order.idle_seconds > 0)
                    if order.last:
                        self._grpc.give_up_own(pause=order.idle_seconds > 0)
            except Exception as error:  # noqa: BLE001 - whatever it is, the answer lists what is listened on
                _log.error("what was handed over cannot be listened on: %s", error)
            last = self._state(order)
            _log.info("listening", extra=fields(handed_over=last[0], grpc=last[1]))
            self._answer(order, *last)
            while last[2] and self._orders.empty():
                await asyncio.sleep(_LOOK_S)
                now = self._state(order)
                if now[1] != last[1] or not now[2]:
                    self._answer(order, *now)
                last = now

    def _state(self, order: _Order) -> tuple[list[int], list[int], int]:
        """The ports that are listened on, those shared for gRPC, and how many connections of others are left."""
        left = self._http.end_given_up(order.idle_seconds)
        if self._grpc is None:
            return self._http.handed_over, [], left
        return self._http.handed_over, self._grpc.shared, left + self._grpc.ending

    def _answer(self, order: _Order, ports: list[int], grpc: list[int], connections: int) -> None:
        answer = {"order": order.order, "listening": ports, "grpc": grpc, "connections": connections}
        try:
            self._channel.send(orjson.dumps(answer))
        except OSError as error:
            _log.warning("cannot confirm which sockets it listens on", extra=fields(error=error.strerror))


@dataclass(frozen=True, slots=True)
class _Order:
    """One message, as the module describes it."""

    order: int
    idle_seconds: float
    grpc: list[int]
    last: bool
    listeners: list[socket.socket]
