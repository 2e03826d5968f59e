"""Real registries for tests: Debian's docker-registry, open, with a password file, or with a server of tokens."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

__all__ = ["PASSWORD", "USER", "free_port", "registry", "token_server"]

USER, PASSWORD = "mlo", "a-secret-word"
HTPASSWD = "mlo:$2y$05$U5qVQ/MRLq.lB/2Ivi2Jw.cT5VAx64/f77zg1uu2JDbZ7/H3rsrPG\n"
"""As `htpasswd -Bbn mlo a-secret-word` prints it."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def registry(folder: Path, auth: dict[str, Any] | None = None) -> Iterator[str]:
    """The host and port of a registry that is there for the block.

    Args:
        folder: for its images.
        auth: its section of that name; "htpasswd" gets the file with the user of this module.
    """
    if (program := shutil.which("docker-registry")) is None:
        pytest.skip("no docker-registry is on the PATH: pushing is not tested")
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "images")}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "of this test"},
    }
    if auth is not None:
        (folder / "htpasswd").write_text(HTPASSWD)
        config["auth"] = auth
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([program, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        _until_it_answers(port, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


def _until_it_answers(port: int, log: Path) -> None:
    until = time.monotonic() + 30
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/v2/")
            connection.getresponse().read()
            return
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)


@contextlib.contextmanager
def token_server(folder: Path, allowed: str) -> Iterator[dict[str, Any]]:
    """The registry's section `auth` for a server of tokens, which lets the user push to one repository alone.

    It signs as the registry's documentation says ("Token Authentication Specification"), with a key that openssl makes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate),
         "-days", "2", "-subj", "/CN=tokens"],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    der = "".join(certificate.read_text().split("\n")[1:-2])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "")
            if given != "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode():
                self.send_response(401)
                self.end_headers()
                return
            asked = parse_qs(urlsplit(self.path).query).get("scope", [])
            access = []
            for kind, name, actions in (scope.split(":", 2) for scope in asked):
                granted = actions.split(",") if name == allowed else []
                access.append({"type": kind, "name": name, "actions": granted})
            now = int(time.time())
            claims = {"iss": "tests", "aud": "registry", "sub": USER, "exp": now + 300, "nbf": now - 10, "iat": now,
                      "jti": str(now), "access": access}  # fmt: skip
            signed = f"{_part({'typ': 'JWT', 'alg': 'RS256', 'x5c': [der]})}.{_part(claims)}"
            signature = subprocess.run(
                ["openssl", "dgst", "-sha256", "-sign", str(key)],
                input=signed.encode(),
                capture_output=True,
                check=True,
            ).stdout
            body = json.dumps({"token": f"{signed}.{_base64url(signature)}", "expires_in": 300}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            realm = f"http://127.0.0.1:{server.server_port}/token"
            token = {"realm": realm, "service": "registry", "issuer": "tests", "rootcertbundle": str(certificate)}
            yield {"token": token}
        finally:
            server.shutdown()
            thread.join()


def _part(document: dict[str, Any]) -> str:
    return _base64url(json.dumps(document, separators=(",", ":")).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
