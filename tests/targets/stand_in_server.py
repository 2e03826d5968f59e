"""A stand-in for a model server, for tests of what surrounds one: answers y = factor * x by the Open Inference Protocol.

    python stand_in_server.py FOLDER PORT

FOLDER/behaviour.json says how it behaves: factor, exits (code, before it is ready), never_ready, delay (seconds),
children (number of processes that it starts), fails (status that it answers instead), fails_from_rows (only to
requests of so many rows).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    behaviour: dict[str, Any]

    def do_GET(self) -> None:
        if self.path == "/ready":
            self.answer(503 if self.behaviour.get("never_ready") else 200, {})
        elif self.path.startswith("/large/"):
            self.answer(200, {"large": "x" * int(self.path.rpartition("/")[2])})
        elif self.path in {"/until-closed", "/cut-off"}:
            self.send_response(200)
            if self.path == "/cut-off":
                self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"streamed")
            self.close_connection = True
        else:
            self.answer(200, {"path": self.path, "headers": self.headers.items()}, {"X-Twice": "kept"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        body = self.read_body()
        if self.path == "/die":
            os._exit(9)
        if self.path == "/echo":
            self.answer(200, {"length": len(body), "path": self.path})
            return
        time.sleep(self.behaviour.get("delay", 0))
        document = json.loads(body)
        if "fails" in self.behaviour and self._too_many_rows(document):
            self.answer(self.behaviour["fails"], {"error": "the stand-in says no"})
            return
        tensor = document["inputs"][0]
        data = [self.behaviour.get("factor", 1) * number for number in tensor["data"]]
        self.answer(200, {"outputs": [{**tensor, "name": "y", "data": data}], "pid": os.getpid()})

    def _too_many_rows(self, document: dict[str, Any]) -> bool:
        least = self.behaviour.get("fails_from_rows")
        return least is None or document["inputs"][0]["shape"][0] >= least

    def read_body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def answer(self, status: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


def main(folder: Path, port: int) -> None:
    behaviour = json.loads((folder / "behaviour.json").read_text())
    sys.stdout.write(f"serving {folder.name}\n")
    sys.stdout.flush()
    for _ in range(behaviour.get("children", 0)):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    if "exits" in behaviour:
        sys.stderr.write("RuntimeError: the weights are gone\n")
        sys.exit(behaviour["exits"])
    Handler.behaviour = behaviour
    Server(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
