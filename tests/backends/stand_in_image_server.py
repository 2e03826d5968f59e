#!/usr/bin/env python3
"""A stand-in for the program in TensorFlow Serving's image, where no TensorFlow is: it doubles what it is sent.

It refuses to run as root, and on a root that it can write to. A negative number lets it take memory until it is killed.
`stand_in_tensorflow_model_server.py` is the one that knows what the flags and files mean.
"""

from __future__ import annotations

import json
import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BALLAST = 80 * 2**20
TAKEN: list[bytes] = []


class Handler(BaseHTTPRequestHandler):
    """Readiness, and predict."""

    def do_GET(self) -> None:
        """200 for metadata, as long as the model is there."""
        self.send_response(200 if self.path.endswith("/labels/stable/metadata") else 404)
        self.end_headers()

    def do_POST(self) -> None:
        """Twice the numbers of the input x."""
        x = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"]["x"]
        if x[0][0] < 0:
            TAKEN.extend(os.urandom(2**20) for _ in range(2**20))
        body = json.dumps({"outputs": [[2 * value for value in row] for row in x]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(argv: list[str]) -> None:
    """Serve until the kernel ends it."""
    if argv == ["--version"]:
        print("TensorFlow ModelServer: stand-in")
        return
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in argv)
    (base,) = re.findall('base_path: "(.*)"', Path(flags["model_config_file"]).read_text())
    assert Path(base, "1", "saved_model.pb").is_file()
    assert os.getuid() != 0
    assert not os.access("/opt", os.W_OK)
    Path(flags["grpc_socket_path"]).touch()
    TAKEN.append(os.urandom(2**20) * (BALLAST >> 20))
    with ThreadingHTTPServer(("0.0.0.0", int(flags["rest_api_port"])), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
