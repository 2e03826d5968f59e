"""A server that answers every request at once with the same bytes: `python -m orchestrator.measure.canned_server COMMANDS REPLIES`.

What the load generator reaches with it is the generator's own limit. It reads one line of JSON,
`{"do": "listen", "answer_bytes": n, "tls": [CERTIFICATE, KEY]}`, replies `{"port": n}`, and serves until its commands end. `tls` is
left out or null for plain HTTP.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import ssl
import sys
from collections.abc import Sequence

__all__ = ["canned_answer", "main"]

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_READ = 256 * 1024


def canned_answer(size: int) -> bytes:
    """A whole answer with a body of this many bytes, at least one."""
    body = b"0" * max(1, size)
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


class _Client:
    """Counts the bytes of one request after the other; the generator sends none before it has the former's answer."""

    def __init__(self, connection: socket.socket, answer: bytes) -> None:
        self._connection = connection
        self._answer = answer
        self._missing = 0

    def on_data(self) -> bool:
        """Read, and answer a whole request; False if the client has gone."""
        data = self._received()
        if not data:
            self._connection.close()
            return False
        if self._missing:
            self._missing -= len(data)
        else:
            head = data.index(_HEAD_END) + len(_HEAD_END)  # the generator sends a short head in one piece
            lower = data[:head].lower()
            at = lower.index(_LENGTH) + len(_LENGTH)
            self._missing = head + int(lower[at : lower.index(b"\r\n", at)]) - len(data)
        if not self._missing:
            with contextlib.suppress(ConnectionError):
                self._connection.sendall(self._answer)
        return True

    def _received(self) -> bytes:
        """What has come; over TLS all of it, since the kernel does not know what is left of a record."""
        try:
            data = self._connection.recv(_READ)
            while isinstance(self._connection, ssl.SSLSocket) and self._connection.pending():
                data += self._connection.recv(_READ)
        except ConnectionError:
            return b""
        return data


def _server_context(files: Sequence[str] | None) -> ssl.SSLContext | None:
    if files is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    return context


def _serve(commands: int, replies: int) -> None:
    command = json.loads(os.read(commands, 65536))
    answer = canned_answer(command["answer_bytes"])
    context = _server_context(command.get("tls"))
    clients: dict[int, _Client] = {}
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener, select.epoll() as epoll:
        os.write(replies, json.dumps({"port": listener.getsockname()[1]}).encode() + b"\n")
        for file in (commands, listener.fileno()):
            epoll.register(file, select.EPOLLIN)
        while True:
            for file, _ in epoll.poll():
                if file in clients:
                    if not clients[file].on_data():
                        del clients[file]
                elif file == commands:
                    return
                else:
                    connection, _ = listener.accept()
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    if context is not None:  # it waits for the client's part, which comes at once
                        connection = context.wrap_socket(connection, server_side=True)
                    clients[connection.fileno()] = _Client(connection, answer)
                    epoll.register(connection.fileno(), select.EPOLLIN)


def main(argv: Sequence[str]) -> int:
    """Serve until the parent closes its end."""
    _serve(int(argv[0]), int(argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
