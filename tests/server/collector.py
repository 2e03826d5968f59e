"""A collector of traces: an HTTP server that decodes OTLP's own messages (`opentelemetry-proto`)."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

__all__ = ["collector", "spans"]

Sent = list[tuple[str, bytes]]
"""Path and body of each request."""


@contextlib.contextmanager
def collector() -> Iterator[tuple[str, Sent]]:
    """Its URL, and what it is sent."""
    sent: Sent = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", sent
        finally:
            server.shutdown()
            thread.join()


def spans(sent: Sent, service: str) -> list[Any]:
    """All spans, which must come from this service and over OTLP's path."""
    found: list[Any] = []
    for path, body in sent:
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            assert names["service.name"] == service
            found += [span for scope in resource.scope_spans for span in scope.spans]
    return found
