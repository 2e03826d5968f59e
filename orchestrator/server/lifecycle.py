"""From bind to exit: live at once, ready when the model is warm, draining on SIGTERM, then gone without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import uvicorn
import uvloop

from .config import ServerConfig
from .connection import Connection
from .errors import UNAVAILABLE, StartError
from .logs import fields
from .rest import RestApp
from .service import Phase, Service, limits
from .session import Model, check_digest, open_model

if TYPE_CHECKING:
    from .grpc_service import GrpcServer

__all__ = ["run_server"]

_BACKLOG = 2048

_log = logging.getLogger("mlo.lifecycle")


class _Http(uvicorn.Server):
    """uvicorn without its own signal handlers, which would close the port at the first SIGTERM."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Life:
    """One run of the server."""

    def __init__(self, config: ServerConfig, listener: socket.socket) -> None:
        self._config = config
        self._listener = listener
        self._service = Service(config)
        self._http = _Http(
            uvicorn.Config(
                cast("Any", RestApp(self._service)),  # the app's types are plain mappings, not uvicorn's
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=int(config.request_timeout_s) + 1,
                backlog=_BACKLOG,
            )
        )
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Serve until a signal has been obeyed.

        Raises:
            StartError: the model could not be loaded.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        grpc = await self._start_grpc()
        serving = loop.create_task(self._http.serve(sockets=[self._listener]))
        address = "{}:{}".format(*self._listener.getsockname()[:2])
        _log.info("live", extra=fields(address=address, grpc_port=None if grpc is None else grpc.port))
        stopping = loop.create_task(self._stopping.wait())
        loading = loop.create_task(asyncio.to_thread(_load, self._config))
        try:
            await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not self._stopping.is_set():
                self._service.start([model.run for model in loading.result()])
                _log.info("ready", extra=fields(model=self._config.model.name, **self._config.model.labels))
                await stopping
                await self._drain()
        finally:
            stopping.cancel()
            self._http.should_exit = True
            if grpc is not None:
                await grpc.stop(self._config.request_timeout_s)
            await serving
        idle = self._service.close()
        _log.info("stopped")
        if not idle or not loading.done():
            # Neither loading nor a call of the model can be interrupted, and nobody waits for what they do.
            os._exit(0)

    async def _start_grpc(self) -> GrpcServer | None:
        if self._config.grpc_port is None:
            return None
        try:
            from .grpc_service import GrpcServer  # noqa: PLC0415 - grpcio is needed only where its port is asked for
        except ImportError as error:
            raise StartError(UNAVAILABLE, f"grpc_port is set, but {error.name} is not installed") from error
        server = GrpcServer(self._service, self._config.host, self._config.grpc_port)
        await server.start()
        return server

    async def _drain(self) -> None:
        """Go on serving while whoever routes requests here learns that this server is not ready any more."""
        self._service.phase = Phase.DRAINING
        _log.info("draining", extra=fields(seconds=self._config.drain_seconds))
        await asyncio.sleep(self._config.drain_seconds)

    def _on_signal(self, number: int) -> None:
        if self._stopping.is_set():
            _log.warning("second signal: stopping at once", extra=fields(signal=signal.Signals(number).name))
            os._exit(128 + number)
        self._stopping.set()


def _load(config: ServerConfig) -> list[Model]:
    """Open every instance and run it at the smallest and the largest size that it will be given."""
    began = time.monotonic()
    check_digest(config)
    models = [open_model(config) for _ in range(config.instances)]
    loaded = time.monotonic()
    signature = config.model.signature
    low = 1 if signature.batch is None else signature.dims[signature.batch][0]
    sizes = sorted({low, max(low, limits(config).max_rows)})
    if any(tensor.dtype == "string" for tensor in signature.inputs.values()):
        # An empty text is no proper value for many such models; a failure would mean nothing.
        sizes = []
    for model in models:
        for rows in sizes:
            model.warm_up(rows)
    _log.info(
        "loaded",
        extra=fields(
            load_ms=round((loaded - began) * 1e3),
            warm_up_ms=round((time.monotonic() - loaded) * 1e3),
            warm_up_rows=sizes,
        ),
    )
    return models


def run_server(config: ServerConfig) -> None:
    """Bind, load, serve, drain; returns when the server has stopped in order.

    Raises:
        StartError: the port cannot be bound, or the model cannot be served.
    """
    listener = _bind(config.host, config.port)
    # A model's thread that has finished a call waits this long for the event loop to let go of the interpreter;
    # Python's 5 ms would be longer than many a call.
    sys.setswitchinterval(0.0005)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Life(config, listener).run())


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        raise StartError(UNAVAILABLE, f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener
