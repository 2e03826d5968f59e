"""A stand-in for the Docker Engine on a Unix socket, for tests of who asks one: it has images, refuses, or keeps silent."""

from __future__ import annotations

import json
import socketserver
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

__all__ = ["NO_ENGINE", "FakeEngine", "fake_engine"]

NO_ENGINE = "unix:///nonexistent/docker.sock"
"""For `DOCKER_HOST`: nothing listens there."""


@dataclass
class FakeEngine:
    """An engine that listens at `host`.

    Attributes:
        images: name → id.
        refuses: what it says instead of an answer; empty for an answer.
        silent: whether it accepts connections and answers nothing.
        asked: the paths that it was asked for.
    """

    host: str
    images: Mapping[str, str] = field(default_factory=dict)
    refuses: str = ""
    silent: bool = False
    asked: list[str] = field(default_factory=list)


@contextmanager
def fake_engine() -> Iterator[FakeEngine]:
    """An engine with a version and no images, for the block."""
    with tempfile.TemporaryDirectory(prefix="engine-") as folder:  # short, as the path of a socket must be
        socket = Path(folder, "docker.sock")
        engine = FakeEngine(f"unix://{socket}")
        over = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                engine.asked.append(self.path)
                if engine.silent:
                    over.wait(60)
                    return
                if engine.refuses:
                    self._answer(500, {"message": engine.refuses})
                elif self.path.endswith("/version"):
                    self._answer(200, {"Version": "27.5", "ApiVersion": "1.44", "MinAPIVersion": "1.24"})
                elif self.path.endswith("/info"):
                    self._answer(200, {"ID": "FAKE", "LoggingDriver": "json-file"})
                else:
                    self._answer(200, [{"Id": known, "RepoTags": [name]} for name, known in engine.images.items()])

            def _answer(self, status: int, document: Any) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "a client"

            def log_message(self, *_: Any) -> None:
                pass

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True
            block_on_close = False

        with Server(str(socket), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            try:
                yield engine
            finally:
                over.set()
                server.shutdown()
                thread.join()
