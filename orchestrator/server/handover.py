"""Listening sockets that another process hands over: a supervisor, to this server and later to its successor.

`--handover FD` names an inherited Unix socket (SOCK_SEQPACKET). Each message that arrives on it is JSON,
`{"order": 1, "idle_seconds": 30}`, with all the sockets that the server shall listen on from now on attached (SCM_RIGHTS),
besides the port of its own. The server answers `{"order": 1, "listening": [PORT, ...], "connections": N}`, with the number of
the order that it obeys, as soon as that is so, and says it again when the last connection of sockets that it has given up is
gone. The sender keeps the sockets open, so the kernel's queue of connections outlives every server: whoever listens next
finds them there.
"""

from __future__ import annotations

import asyncio
import logging
import socket

import orjson

from .errors import UNAVAILABLE, StartError
from .http_server import HttpServer
from .logs import fields

__all__ = ["Handover"]

_SOCKETS_AT_MOST = 16
_MESSAGE_BYTES = 4096
_LOOK_S = 0.02
"""How often connections are looked at that have to end."""

_log = logging.getLogger("mlo.handover")


class Handover:
    """Belongs to the event loop's thread."""

    def __init__(self, fd: int, http: HttpServer) -> None:
        """Take orders from the inherited socket `fd`, once `start` is called.

        Raises:
            StartError: `UNAVAILABLE`; it is no socket.
        """
        try:
            self._channel = socket.socket(fileno=fd)
        except OSError as error:
            raise StartError(UNAVAILABLE, f"--handover {fd}: {error.strerror}") from error
        self._channel.settimeout(0)
        self._http = http
        self._orders: asyncio.Queue[tuple[int, list[socket.socket], float]] = asyncio.Queue()
        self._obeying: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Obey from now on."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), self._receive)
        self._obeying = loop.create_task(self._obey())

    def stop(self) -> None:
        """Obey no more."""
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
            order = orjson.loads(data)
            self._orders.put_nowait((int(order["order"]), listeners, float(order["idle_seconds"])))
        else:  # nobody holds the other end any more
            asyncio.get_running_loop().remove_reader(self._channel.fileno())

    async def _obey(self) -> None:
        while True:
            order, listeners, idle_s = await self._orders.get()
            try:
                await self._http.listen_on(listeners)
            except Exception as error:  # noqa: BLE001 - whatever it is, the answer tells what is listened on
                _log.error("a socket that was handed over cannot be listened on: %s", error)
            ports = self._http.handed_over
            _log.info("listening", extra=fields(handed_over=ports))
            left = self._http.end_given_up(idle_s)
            self._tell(order, ports, left)
            while left and self._orders.empty():
                await asyncio.sleep(_LOOK_S)
                left = self._http.end_given_up(idle_s)
                if not left:
                    self._tell(order, ports, 0)

    def _tell(self, order: int, ports: list[int], connections: int) -> None:
        try:
            self._channel.send(orjson.dumps({"order": order, "listening": ports, "connections": connections}))
        except OSError as error:
            _log.warning("cannot confirm which sockets it listens on", extra=fields(error=error.strerror))
