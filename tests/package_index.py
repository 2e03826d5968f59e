"""A package index for tests, over HTTPS with a certificate of one's own authority."""

from __future__ import annotations

import functools
import hashlib
import ssl
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["tiny_index"]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def tiny_index(folder: Path, pair: tuple[Path, Path]) -> Iterator[str]:
    """The address of a package index over HTTPS that has one small package, `tiny` 1.0, for the block.

    Args:
        folder: a new one, for its files.
        pair: its certificate and key.
    """
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    (folder / "simple" / "tiny").mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as packed:
        packed.writestr("tiny.py", "")
        packed.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        packed.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        packed.writestr("tiny-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    link = f'<!DOCTYPE html><html><body><a href="/{wheel.name}#sha256={digest}">{wheel.name}</a></body></html>'
    (folder / "simple" / "tiny" / "index.html").write_text(link, encoding="utf-8")
    secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    secure.load_cert_chain(*pair)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder))) as server:
        server.socket = secure.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"https://localhost:{server.server_port}/simple"
        finally:
            server.shutdown()
            thread.join()
