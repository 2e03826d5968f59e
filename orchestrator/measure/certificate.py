"""A certificate for servers that are measured over TLS, and the client's context for it."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from orchestrator.steps.server_options import ServerTls

__all__ = ["STARTED_HERE", "Trust", "client_context", "make_certificate", "trusting_context"]

STARTED_HERE = "started here"
"""What the load generator is told of a server whose certificate `make_certificate` made."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Which certificates a server may have.

    Attributes:
        pem: that are trusted, of authorities or the server's own; None for no more than this machine trusts.
        pinned: whether just these are, whatever name they are for; without any, whatever the server shows, because the way to it has
            proven who it is.
    """

    pem: str | None
    pinned: bool


def make_certificate(folder: Path) -> ServerTls:
    """A certificate for this machine and its key (P-256, as authorities give by default), for a day, in an existing folder.

    What a request costs over TLS does not depend on the key, only what a connection costs.
    """
    # Only needed with `serving.tls`; planning checks that it is there.
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key  # noqa: PLC0415
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        Encoding,
        NoEncryption,
        PrivateFormat,
    )
    from cryptography.x509 import (  # noqa: PLC0415
        CertificateBuilder,
        DNSName,
        Name,
        NameAttribute,
        NameOID,
        SubjectAlternativeName,
        random_serial_number,
    )

    key = generate_private_key(SECP256R1())
    name = Name([NameAttribute(NameOID.COMMON_NAME, "measured")])
    now = datetime.now(UTC)
    signed = (
        CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(SubjectAlternativeName([DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
    )
    files = {"tls.crt": signed.public_bytes(Encoding.PEM)}
    files["tls.key"] = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for file, content in files.items():
        with os.fdopen(os.open(folder / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
            written.write(content)
    return ServerTls(str(folder / "tls.crt"), str(folder / "tls.key"), "measured")


def client_context(protocol: str = "http/1.1") -> ssl.SSLContext:
    """For a server that was just started here with a certificate of `make_certificate`: there is nothing to verify.

    Args:
        protocol: that is spoken over TLS, by its name in ALPN.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context


def trusting_context(trust: Trust, protocol: str = "http/1.1") -> ssl.SSLContext:
    """For a server that runs elsewhere: its certificate is verified with each handshake.

    Args:
        trust: in which certificates.
        protocol: that is spoken over TLS, by its name in ALPN.

    Raises:
        OSError: the text holds no certificates.
    """
    if trust.pinned and trust.pem is None:
        return client_context(protocol)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a server's own certificate is trusted without its authority
    if trust.pinned:
        context.check_hostname = False
    else:
        context.load_default_certs()
    if trust.pem is not None:
        context.load_verify_locations(cadata=trust.pem)
    context.set_alpn_protocols([protocol])
    return context
