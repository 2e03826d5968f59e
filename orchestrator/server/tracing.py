"""OpenTelemetry spans of requests, created after the answer from times that are measured anyway."""

from __future__ import annotations

import os
import time
from importlib import import_module
from typing import Any

from .config import TracesConfig
from .errors import UNAVAILABLE, StartError
from .instance import Job

__all__ = ["Tracing"]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_SAMPLER = "OTEL_TRACES_SAMPLER"


class Tracing:
    """Sends spans by OTLP over HTTP. OpenTelemetry's standard variables take precedence over the configuration."""

    def __init__(self, config: TracesConfig, model: str, version: str) -> None:
        """Set the exporter up.

        Raises:
            StartError: `UNAVAILABLE`; the packages are not installed.
        """
        try:
            # By name, because they are only imported if traces are enabled, and need not be installed otherwise.
            trace = import_module("opentelemetry.trace")
            propagate = import_module("opentelemetry.propagate")
            exporter = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
            resources = import_module("opentelemetry.sdk.resources")
            sdk = import_module("opentelemetry.sdk.trace")
            sampling = import_module("opentelemetry.sdk.trace.sampling")
            export = import_module("opentelemetry.sdk.trace.export")
        except ImportError as error:
            raise StartError(
                UNAVAILABLE,
                f"traces is set, but {error.name} is not installed; install opentelemetry-exporter-otlp-proto-http",
            ) from error
        # The environment's attributes of the service take precedence over those set here.
        resource = resources.Resource.create(
            {"service.name": os.environ.get("OTEL_SERVICE_NAME", model), "service.version": version}
        )
        # None leaves the choice to the environment.
        sampler = None if _SAMPLER in os.environ else sampling.ParentBasedTraceIdRatio(config.sample)
        endpoint = None if any(name in os.environ for name in _ENDPOINTS) else f"{config.endpoint}/v1/traces"
        self._provider: Any = sdk.TracerProvider(resource=resource, sampler=sampler)
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter.OTLPSpanExporter(endpoint=endpoint)))
        self._tracer = self._provider.get_tracer("mlo.server")
        self._trace = trace
        self._propagate = propagate
        self._model = model

    def record(
        self, protocol: str, began: float, traceparent: bytes | str | None, status: int, job: Job | None = None
    ) -> None:
        """The span of a request, with child spans for waiting and for the model's call.

        Args:
            protocol: `http` or `grpc`.
            began: when the request arrived, `time.monotonic()` seconds.
            traceparent: the client's header, whose trace is continued.
            status: the HTTP status of the answer, also for gRPC.
            job: the request in the batcher, if it got there.
        """
        shift = time.time_ns() - time.monotonic_ns()

        def ns(seconds: float) -> int:
            return int(seconds * 1e9) + shift

        parent = self._propagate.extract({"traceparent": _text(traceparent)}) if traceparent else None
        attributes: dict[str, Any] = {"mlo.model": self._model, "network.protocol.name": protocol, "mlo.status": status}
        if job is not None:
            attributes |= {"mlo.rows": job.rows, "mlo.batch_rows": job.batch_rows}
        span = self._tracer.start_span(
            "infer", parent, kind=self._trace.SpanKind.SERVER, attributes=attributes, start_time=ns(began)
        )
        if span.is_recording() and job is not None:
            below = self._trace.set_span_in_context(span)
            for name, start, end in (("queue", job.queued, job.started), ("run", job.started, job.finished)):
                if start and end:
                    self._tracer.start_span(name, below, start_time=ns(start)).end(ns(end))
        if status >= 500:  # mistakes of clients are not errors of the server
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Send the remaining spans."""
        self._provider.shutdown()


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
