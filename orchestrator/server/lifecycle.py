"""The server's life cycle: live at once, ready when the model is warm, draining on SIGTERM, then exit without losing requests."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

import uvloop

from .config import ServerConfig
from .errors import UNAVAILABLE, StartError
from .exchange import ConnectionLimits
from .handover import Handover
from .http_server import HttpServer, bind
from .logs import fields
from .rest import RestApp
from .secrets import Certificates, Tokens
from .service import Phase, Service, limits
from .session import Model, open_model
from .threads import cpu_limit, usable_threads
from .tracing import Tracing

if TYPE_CHECKING:
    from .grpc_ports import GrpcPorts
    from .grpc_service import GrpcServer

__all__ = ["run_server"]

_SECRETS_S = 1.0
"""How often mounted secrets are checked; a kubelet replaces them within about a minute."""

_log = logging.getLogger("mlo.lifecycle")


class _Life:
    """One run of the server."""

    def __init__(
        self, config: ServerConfig, listener: socket.socket, digests: Future[None], handover: int | None
    ) -> None:
        self._config = config
        self._listener = listener
        self._digests = digests
        self._tokens = None if config.token_file is None else Tokens(config.token_file)
        self._certificates = None if config.tls is None else Certificates(config.tls)
        self._tracing: Tracing | None = None
        if config.traces is not None:
            self._tracing = Tracing(config.traces, config.model.name, config.model.version)
        self._service = Service(config, self._tokens, self._tracing)
        self._http = HttpServer(
            RestApp(self._service),
            ConnectionLimits(
                config.max_body_bytes, config.request_timeout_s, config.keep_alive_seconds, config.max_connections
            ),
            None if self._certificates is None else self._certificates.context,
        )
        self._handover = None if handover is None else Handover(handover, self._http)
        self._grace_s = config.request_timeout_s + 1
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Serve until stopped by a signal.

        Raises:
            StartError: the model could not be loaded.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        grpc_port, grpc = await self._start_grpc()
        await self._http.start(self._listener)
        if self._handover is not None:
            self._handover.start(grpc)
        watching = loop.create_task(self._watch_secrets())
        host, port = self._listener.getsockname()[:2]
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        _log.info("live", extra=fields(address=address, grpc_port=grpc_port))
        stopping = loop.create_task(self._stopping.wait())
        loading = loop.create_task(self._load())
        try:
            await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not self._stopping.is_set():
                loading.result()
                _log.info("ready", extra=fields(model=self._config.model.name, **self._config.model.labels))
                await stopping
                await self._drain()
        finally:
            stopping.cancel()
            watching.cancel()
            self._service.phase = Phase.DRAINING
            if self._handover is not None:
                self._handover.stop()
            await asyncio.gather(self._http.stop(self._grace_s), *([] if grpc is None else [grpc.stop()]))
        idle = self._service.close()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
        _log.info("stopped")
        if not idle or not loading.done():
            # Loading and model calls cannot be interrupted, and their results are no longer needed.
            os._exit(0)

    async def _load(self) -> None:
        """Open every session, and warm each up at the expected sizes, in the thread that will run it."""
        config = self._config
        began = time.monotonic()
        threads = usable_threads(config.threads, len(config.sessions), cpu_limit())
        if config.threads is not None and threads < config.threads:
            _log.warning("fewer CPUs than threads", extra=fields(configured=config.threads, threads=threads))
        sizes = _warm_up_sizes(config)
        models = await asyncio.to_thread(_open, config, self._digests, threads, sizes)
        loaded = time.monotonic()
        inputs = config.model.signature.inputs.values()
        selective = any(tensor.dtype == "string" or "int" in tensor.dtype for tensor in inputs)
        done: list[int] = []
        tasks = [partial(_warm_up, model, sizes, selective=selective, done=done) for model in models]
        # Inline calls are for a single instance on the CPU: several instances run in parallel, and a GPU call blocks the loop.
        inline = models[0].inline_calls() if len(models) == 1 else None
        await self._service.start([model.run for model in models], tasks, inline)
        _log.info(
            "loaded",
            extra=fields(
                load_ms=round((loaded - began) * 1e3),
                warm_up_ms=round((time.monotonic() - loaded) * 1e3),
                warm_up_rows=sorted(set(done)),
                threads=threads,
                devices=config.devices,
            ),
        )

    async def _start_grpc(self) -> tuple[int | None, GrpcPorts | None]:
        if self._config.grpc_port is None:
            return None, None
        try:
            from .grpc_ports import CONNECTION_S, GrpcPorts  # noqa: PLC0415 - grpcio is only needed if its port is set
            from .grpc_service import GrpcServer  # noqa: PLC0415 - as above
        except ImportError as error:
            raise StartError(UNAVAILABLE, f"grpc_port is set, but {error.name} is not installed") from error
        connection_s = self._config.grpc_connection_seconds
        if connection_s is None and self._handover is not None:
            connection_s = CONNECTION_S

        def listen(port: int, *, shared: bool) -> GrpcServer:
            return GrpcServer(
                self._service, self._config.host, port, self._certificates, shared=shared, connection_s=connection_s
            )

        own = listen(self._config.grpc_port, shared=False)
        await own.start()
        ports = GrpcPorts(own, partial(listen, shared=True), self._grace_s, connection_s or CONNECTION_S)
        return own.port, ports

    async def _watch_secrets(self) -> None:
        """Reload certificates and tokens that have been replaced."""
        while True:
            await asyncio.sleep(_SECRETS_S)
            if self._tokens is not None:
                self._tokens.reload()
            if self._certificates is not None:
                self._certificates.reload()
                try:
                    if await self._http.use(self._certificates.context):
                        _log.info("reloaded the certificate")
                except OSError as error:
                    _log.error("connections keep the old certificate for now: %s", error)

    async def _drain(self) -> None:
        """Keep serving while load balancers notice that this server is no longer ready."""
        self._service.phase = Phase.DRAINING
        # The supervisor keeps handed-over sockets open, and takes them back before it stops a server.
        seconds = self._config.drain_seconds if self._handover is None else 0.0
        _log.info("draining", extra=fields(seconds=seconds))
        await asyncio.sleep(seconds)

    def _on_signal(self, number: int) -> None:
        if self._stopping.is_set():
            _log.warning("second signal: stopping at once", extra=fields(signal=signal.Signals(number).name))
            os._exit(128 + number)
        self._stopping.set()


def _open(config: ServerConfig, digests: Future[None], threads: int, sizes: list[int]) -> list[Model]:
    """Open the sessions one after another, once the digests of the files have been checked."""
    digests.result()
    return [open_model(config, device, threads, sizes) for device in config.sessions]


def _warm_up(model: Model, sizes: list[int], *, selective: bool, done: list[int]) -> None:
    """Run the model at `sizes`; sizes that were run are appended to `done`. A `selective` model may refuse zeros."""
    for rows in sizes:
        try:
            model.warm_up(rows)
        except StartError:
            # Many models reject an empty text, or the integer 0 as an id of no table, so a failure here means nothing.
            if not selective:
                raise
            return
        done.append(rows)


def _warm_up_sizes(config: ServerConfig) -> list[int]:
    """The configured sizes, by default powers of two from the smallest to the largest batch."""
    signature = config.model.signature
    low, high = (1, 1) if signature.batch is None else signature.dims[signature.batch]
    step = 1 if signature.batch is None else signature.multiples.get(signature.batch, 1)
    most = max(low, limits(config).max_rows // step * step)
    powers = (1 << power for power in range(17))
    sizes = powers if config.batch_sizes is None else config.batch_sizes
    return sorted({low, most, *(size for size in sizes if low <= size <= min(most, high) and size % step == 0)})


def run_server(config: ServerConfig, digests: Future[None], handover: int | None = None) -> None:
    """Bind, load, serve, drain; returns after an orderly stop.

    Args:
        config: the configuration.
        digests: finishes when the model's files have been checked; fails with the `StartError` if a digest differs.
        handover: an inherited socket on which listening sockets arrive; see `handover`.

    Raises:
        StartError: the port cannot be bound, or the model cannot be served.
    """
    listener = bind(config.host, config.port)
    # A model thread that has finished a call waits up to this long for the event loop to release the GIL; Python's default
    # of 5 ms would be longer than many calls.
    sys.setswitchinterval(0.0005)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Life(config, listener, digests, handover).run())
