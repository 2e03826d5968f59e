"""A socket of the load generator over TLS, which never waits: it raises `BlockingIOError` where a plain one does."""

from __future__ import annotations

import socket
import ssl

__all__ = ["TlsSocket"]


class TlsSocket:
    """Takes over a connected, non-blocking socket to a host, with its file descriptor."""

    def __init__(self, connected: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._tls = context.wrap_socket(
            connected, do_handshake_on_connect=False, suppress_ragged_eofs=True, server_hostname=host
        )

    def shake_hands(self) -> bool:
        """Go on with the handshake; True once it is done. Until then it waits for data, except with a full send buffer.

        Raises:
            OSError: it failed.
        """
        try:
            self._tls.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        return True

    def recv(self, size: int) -> bytes:
        """All that has come, so that nothing is left where the kernel does not see it.

        Args:
            size: of one read; more is returned where it has come.

        Raises:
            BlockingIOError: nothing has.
            OSError: the connection is broken.
        """
        parts: list[bytes] = []
        try:
            while data := self._tls.recv(size):
                parts.append(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not parts:
                raise BlockingIOError from None
        return b"".join(parts)

    def send(self, data: bytes | memoryview) -> int:
        """Send what fits; how many bytes of it.

        Raises:
            BlockingIOError: none.
            OSError: the connection is broken.
        """
        try:
            return self._tls.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        except ssl.SSLError as error:  # such as an end without a farewell, which is no ConnectionError of Python's
            raise ConnectionResetError(error.errno, error.strerror or str(error)) from error

    def getsockopt(self, level: int, option: int) -> int:
        """As of the plain socket."""
        return self._tls.getsockopt(level, option)

    def close(self) -> None:
        """Close it without a word."""
        self._tls.close()
