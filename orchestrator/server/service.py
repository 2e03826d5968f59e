"""The served model, shared by both protocols: its phase, queue and metrics."""

from __future__ import annotations

import asyncio
import enum
import time
from collections.abc import Callable, Sequence

from .allowed_values import AllowedValues
from .batcher import Batcher, Limits
from .config import ServerConfig
from .errors import RequestError
from .inline_calls import InlineCalls
from .instance import Done, Job, Run
from .metrics import InstanceLoad, Metrics
from .request import InferRequest
from .secrets import Tokens
from .tracing import Tracing

__all__ = ["Phase", "Service"]


class Phase(enum.Enum):
    """The phase in the server's life cycle."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


class Service:
    """One model behind one queue. Belongs to the event loop's thread."""

    def __init__(self, config: ServerConfig, tokens: Tokens | None = None, tracing: Tracing | None = None) -> None:
        """Wait for the model.

        Args:
            config: the configuration.
            tokens: the accepted tokens, if any.
            tracing: the exporter of spans, if any.
        """
        self.config = config
        self.tokens = tokens
        self._tracing = tracing
        self.model = config.model
        self.phase = Phase.LOADING
        values = AllowedValues(self.model.signature)
        self._values = values if values.enforced else None
        self._batcher: Batcher | None = None
        self.metrics = Metrics(
            {"name": self.model.name, "version": self.model.version, **self.model.labels},
            queued_rows=lambda: self._batcher.queued_rows if self._batcher else 0,
            ready=lambda: self.ready,
            instances=self._load,
        )

    @property
    def ready(self) -> bool:
        """Whether new requests should be sent here."""
        return self.phase is Phase.READY

    @property
    def platform(self) -> str:
        """The runtime and format of the model, as in the protocol's metadata."""
        return f"{self.config.runtime}_onnx"

    @property
    def traced(self) -> bool:
        """Whether spans are created."""
        return self._tracing is not None

    async def start(
        self, runs: Sequence[Run], warm_ups: Sequence[Callable[[], None]], inline: InlineCalls | None = None
    ) -> None:
        """Warm up every instance in its own thread, one after another; accept requests from then on.

        Args:
            runs: one for each session of the configuration, in its order.
            warm_ups: likewise, the first task of each thread.
            inline: see `Batcher`.

        Raises:
            StartError: what a warm-up raises.
        """
        batcher = Batcher(runs, limits(self.config), self.metrics.batch_rows.observe, inline)
        for instance, warm_up in zip(batcher.instances, warm_ups, strict=True):
            # While one captures CUDA graphs, no other thread may allocate memory on a device.
            await asyncio.wrap_future(instance.do(warm_up))
        self._batcher = batcher
        self.phase = Phase.READY

    def _load(self) -> list[InstanceLoad]:
        if self._batcher is None:
            return []
        return [
            InstanceLoad(
                instance=str(instance.index),
                device="cpu" if device is None else str(device),
                calls=instance.calls,
                rows=instance.rows,
                seconds=instance.seconds,
                resting=instance.resting,
            )
            for instance, device in zip(self._batcher.instances, self.config.sessions, strict=True)
        ]

    def submit(self, request: InferRequest, done: Done, remaining_s: float | None = None) -> Job:
        """Queue a request; `done` gets the answer, `remaining_s` is the remaining time according to the transport.

        Raises:
            RequestError: 503 before the model is loaded, 400 for values that the spec does not allow, 429 when too many requests
                are waiting.
        """
        if self._batcher is None:
            raise RequestError(503, "the model is not loaded yet", reason="loading", retry_after=1)
        if self._values is not None:
            self._values.check(request.inputs)
        seconds = self.config.request_timeout_s
        for limit in (request.timeout_s, remaining_s):
            if limit is not None:
                seconds = max(0.0, min(seconds, limit))
        return self._batcher.submit(request.inputs, request.rows, seconds, done)

    def cancel(self, job: Job) -> None:
        """Cancel a request whose client has disconnected."""
        if self._batcher is not None:
            self._batcher.cancel(job)

    def close(self) -> bool:
        """Stop the model's threads after the last answer. False if a call does not end."""
        return self._batcher is None or self._batcher.close(timeout_s=1.0)

    def count(
        self,
        protocol: str,
        job: Job,
        *,
        began: float,
        read: float,
        decoded: float,
        encoding: float,
        traceparent: bytes | str | None,
    ) -> None:
        """Count an answered request; times are `time.monotonic()` seconds."""
        seconds = self.metrics.seconds
        seconds["read"].observe(read - began)
        seconds["decode"].observe(decoded - read)
        seconds["queue"].observe(job.started - job.queued)
        seconds["run"].observe(job.finished - job.started)
        now = time.monotonic()
        seconds["encode"].observe(now - encoding)
        seconds["total"].observe(now - began)
        self.metrics.requests[protocol, 200] += 1
        if self._tracing is not None:
            self._tracing.record(protocol, began, traceparent, 200, job)

    def count_error(self, protocol: str, error: RequestError, began: float, traceparent: bytes | str | None) -> None:
        """Count a refused or failed request that came at `began`, `time.monotonic()` seconds."""
        self.metrics.requests[protocol, error.status] += 1
        self.metrics.rejections[error.reason] += 1
        if self._tracing is not None:
            self._tracing.record(protocol, began, traceparent, error.status)


def limits(config: ServerConfig) -> Limits:
    """The batching limits: no batching if outputs cannot be split, and never more rows than the signature allows."""
    signature = config.model.signature
    rows = 1
    if signature.splits and signature.batch is not None:
        rows = min(config.max_batch_size, signature.dims[signature.batch][1])
    return Limits(rows, config.max_delay_us / 1e6, config.queue_rows)
