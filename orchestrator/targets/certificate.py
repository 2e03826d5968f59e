"""Connections to a server by the certificate that it must show, whoever signed it and whatever it is called.

A deployment's certificate is for the name that its clients use, and signed by whom they trust; `mlo` reaches the server by another
name, and has the certificate. So it compares the two, and the handshake proves that the server has the key.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed

__all__ = ["Expected", "first_certificate", "in_file", "pinned_connection", "unverified_context"]

_RENEWAL_SECONDS = 4.0
"""A server takes a new certificate within about a second."""
_PAUSE_SECONDS = 0.25
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Expected:
    """The certificate that a server must show.

    Attributes:
        where: it is, for messages.
        read: reads it from there, as DER, anew for each connection; raises DeployFailed if it cannot. None if whatever the server shows
            is taken, because the way to it has proven who it is.
    """

    where: str
    read: Callable[[], bytes] | None


def in_file(file: Path) -> Expected:
    """The first certificate of a PEM file."""

    def read() -> bytes:
        try:
            return first_certificate(file.read_bytes())
        except (OSError, ValueError) as error:
            raise _refused(
                f"the server's certificate cannot be read from {file}",
                str(error.strerror if isinstance(error, OSError) else error),
                "let the user who runs `mlo` read the file: without it `mlo` cannot tell the server from another one",
            ) from error

    return Expected(str(file), read)


def first_certificate(pem: bytes) -> bytes:
    """The first certificate of a PEM file's content, as DER: the server's own.

    Raises:
        ValueError: there is none.
    """
    text = pem.decode("utf-8", "replace")
    begin = text.find(_BEGIN)
    end = text.find(_END, begin)
    if begin < 0 or end < 0:
        raise ValueError("it holds no certificate")
    return ssl.PEM_cert_to_DER_cert(text[begin:end] + _END)


def unverified_context() -> ssl.SSLContext:
    """For a server that is known otherwise, or whose certificate is compared once the handshake is done."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def pinned_connection(host: str, port: int | None, timeout: float, expected: Expected) -> HTTPSConnection:
    """A connection to a server that shows the expected certificate; nothing has been sent yet.

    Args:
        host: where the server listens.
        port: the same.
        timeout: seconds for connecting and for each answer.
        expected: the certificate.

    Raises:
        DeployFailed: E482, the certificate cannot be read, or the server shows another one.
        OSError: no connection, or no handshake.
    """
    until = time.monotonic() + _RENEWAL_SECONDS
    while True:
        wanted = None if expected.read is None else expected.read()
        connection = HTTPSConnection(host, port, timeout=timeout, context=unverified_context())
        connection.connect()
        if wanted is None or connection.sock.getpeercert(binary_form=True) == wanted:
            return connection
        connection.close()
        if time.monotonic() > until:
            raise _refused(
                f"the server at {host}:{port} does not show the certificate in {expected.where}",
                "another server listens there, or the server could not take a renewed certificate",
                "look into its log with `mlo logs`; a renewed certificate needs its key beside it",
            )
        time.sleep(_PAUSE_SECONDS)


def _refused(message: str, cause: str, remedy: str) -> DeployFailed:
    return DeployFailed(Diagnostic("E482", message, cause=cause, remedy=remedy))
