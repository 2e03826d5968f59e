"""Whether a certificate and its key can be used by a server; needs the package cryptography."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

__all__ = ["Flaw", "flaw_of", "flaw_of_certificate"]


class Flaw(NamedTuple):
    """What is wrong with a certificate or a key, and what to do."""

    file: str
    problem: str
    cause: str
    remedy: str


def flaw_of(certificate: Path, key: Path, now: datetime | None = None) -> Flaw | None:
    """What keeps clients or the server from using these PEM files; None if nothing does.

    Args:
        certificate: the server's, first, then those of the authorities between it and a known one.
        key: its private key, not encrypted.
        now: an aware time; the current one by default.
    """
    now = datetime.now(UTC) if now is None else now
    for file in (certificate, key):
        try:
            file.read_bytes()
        except OSError as error:
            return Flaw(
                str(file),
                f"{file} cannot be read",
                str(error.strerror),
                "put the file there, or let the user who runs mlo read it",
            )
    flaw = _unusable_key(key) or flaw_of_certificate(str(certificate), certificate.read_bytes(), now)
    return flaw or _other_key(certificate, key)


def _unusable_key(key: Path) -> Flaw | None:
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - only needed with `serving.tls`
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    try:
        load_pem_private_key(key.read_bytes(), None)
    except TypeError:
        return Flaw(
            str(key),
            f"the key {key} is encrypted",
            "a server that starts by itself has nobody to ask for the password",
            f"write it without one, as in `openssl pkey -in {key.name} -out plain.key`, readable for the server's user alone",
        )
    except (ValueError, UnsupportedAlgorithm) as error:
        return Flaw(
            str(key),
            f"{key} holds no private key",
            _first_line(error),
            "write the key as PEM, which begins with `-----BEGIN PRIVATE KEY-----`",
        )
    return None


def flaw_of_certificate(certificate: str, pem: bytes, now: datetime | None = None) -> Flaw | None:
    """What keeps clients from taking a certificate; None if nothing does.

    Args:
        certificate: where it is, for messages.
        pem: the server's certificate, first.
        now: an aware time; the current one by default.
    """
    from cryptography.x509 import load_pem_x509_certificates  # noqa: PLC0415 - as above

    now = datetime.now(UTC) if now is None else now
    try:
        first, *_ = load_pem_x509_certificates(pem)
    except ValueError as error:
        return Flaw(
            certificate,
            f"{certificate} holds no certificate",
            _first_line(error),
            "write the certificate as PEM, which begins with `-----BEGIN CERTIFICATE-----`, the server's own first",
        )
    if now > first.not_valid_after_utc:
        return Flaw(
            certificate,
            f"the certificate in {certificate} has expired",
            f"it was valid until {first.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; clients refuse it",
            "renew it; a running server takes the new one within seconds",
        )
    if now < first.not_valid_before_utc:
        return Flaw(
            certificate,
            f"the certificate in {certificate} is not valid yet",
            f"it is valid from {first.not_valid_before_utc:%Y-%m-%d %H:%M} UTC; clients refuse it until then",
            "check the machine's clock, or use one that is valid now",
        )
    return None


def _other_key(certificate: Path, key: Path) -> Flaw | None:
    import ssl  # noqa: PLC0415 - only needed with `serving.tls`, and takes 5 ms

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        return Flaw(
            str(key),
            f"the key {key} does not belong to the certificate {certificate}",
            error.reason or str(error),
            "use the key that the certificate was made for; the server's own certificate is the first in its file",
        )
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
