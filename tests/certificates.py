"""Certificates for tests: for localhost, signed by themselves or by another one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import (
    BasicConstraints,
    CertificateBuilder,
    DNSName,
    IPAddress,
    Name,
    NameAttribute,
    NameOID,
    SubjectAlternativeName,
    load_pem_x509_certificate,
    random_serial_number,
)

__all__ = ["certificate"]


def certificate(
    folder: Path,
    name: str,
    signer: tuple[Path, Path] | None = None,
    *,
    begins: timedelta = timedelta(hours=-1),
    ends: timedelta = timedelta(days=2),
    password: bytes | None = None,
) -> tuple[Path, Path]:
    """A certificate for localhost and 127.0.0.1 and its key, as PEM files NAME.crt and NAME.key.

    Args:
        folder: an existing one.
        name: of the files and the subject.
        signer: the certificate and key of an authority; itself by default.
        begins: of its validity, from now.
        ends: the same.
        password: of the key.
    """
    key = generate_private_key(SECP256R1())
    subject = Name([NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signing = subject, key
    if signer is not None:
        issuer = load_pem_x509_certificate(signer[0].read_bytes()).subject
        loaded = load_pem_private_key(signer[1].read_bytes(), None)
        assert isinstance(loaded, EllipticCurvePrivateKey)
        signing = loaded
    now = datetime.now(UTC)
    made = (
        CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(random_serial_number())
        .not_valid_before(now + begins)
        .not_valid_after(now + ends)
        .add_extension(
            SubjectAlternativeName([DNSName("localhost"), IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(signing, SHA256())
    )
    files = folder / f"{name}.crt", folder / f"{name}.key"
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    files[0].write_bytes(made.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return files
