"""Listening sockets that another process hands over: a supervisor, to this server and later to its successor.

`--handover FD` names an inherited Unix socket (SOCK_SEQPACKET). Each message on it is the JSON document `{"order": 1,
"idle_seconds": 30}`, with all sockets on which the server has to listen from now on, in addition to its own port, attached
(SCM_RIGHTS). The server answers `{"order": 1, "listening": [PORT, ...], "connections": N}`, with the number of the order,
as soon as it has carried it out, and again when the last connection from sockets that it has given up is closed. The sender
keeps the sockets open, so the kernel's queue of connections outlives every server, and the next server finds them there.
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
        self._orders: asyncio.Queue[tuple[int, list[socket.socket], float]] = asyncio.Queue()
        self._obeying: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Carry out orders from now on."""
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
            order = orjson.loads(data)
            self._orders.put_nowait((int(order["order"]), listeners, float(order["idle_seconds"])))
        else:  # the other end is closed
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
