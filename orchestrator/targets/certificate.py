"""Connections to a server by the certificate that it must show: the one in a file, whoever signed it and whatever it is called.

A deployment's certificate is for the name that its clients use, and signed by whom they trust; `mlo` reaches the server by another
name, and has the certificate. So it compares the two, and the handshake proves that the server has the key.
"""

from __future__ import annotations

import ssl
import time
from http.client import HTTPSConnection
from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed

__all__ = ["pinned_connection"]

_RENEWAL_SECONDS = 4.0
"""A server takes a new certificate within about a second."""
_PAUSE_SECONDS = 0.25
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def pinned_connection(host: str, port: int | None, timeout: float, certificate: Path) -> HTTPSConnection:
    """A connection to a server that shows the first certificate of the file; nothing has been sent yet.

    Args:
        host: where the server listens.
        port: the same.
        timeout: seconds for connecting and for each answer.
        certificate: a PEM file, read anew for each connection.

    Raises:
        DeployFailed: E482, the file cannot be read, or the server shows another one.
        OSError: no connection, or no handshake.
    """
    until = time.monotonic() + _RENEWAL_SECONDS
    while True:
        expected = _first(certificate)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # compared below
        connection = HTTPSConnection(host, port, timeout=timeout, context=context)
        connection.connect()
        if connection.sock.getpeercert(binary_form=True) == expected:
            return connection
        connection.close()
        if time.monotonic() > until:
            raise _refused(
                f"the server at {host}:{port} does not show the certificate in {certificate}",
                "another server listens there, or the server could not take a renewed certificate",
                "look into its log with `mlo logs`; a renewed certificate needs its key beside it",
            )
        time.sleep(_PAUSE_SECONDS)


def _first(certificate: Path) -> bytes:
    try:
        text = certificate.read_text(encoding="utf-8")
        begin = text.index(_BEGIN)
        return ssl.PEM_cert_to_DER_cert(text[begin : text.index(_END, begin)] + _END)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it holds no certificate"
        raise _refused(
            f"the server's certificate cannot be read from {certificate}",
            str(reason),
            "let the user who runs `mlo` read the file: without it `mlo` cannot tell the server from another one",
        ) from error


def _refused(message: str, cause: str, remedy: str) -> DeployFailed:
    return DeployFailed(Diagnostic("E482", message, cause=cause, remedy=remedy))
