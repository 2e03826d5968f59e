"""Until when a certificate is valid, found by a handshake in memory: Python's standard library reads no certificate otherwise."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

__all__ = ["valid_until"]


def valid_until(certificate: Path, key: Path) -> float:
    """When the first certificate of the file ends, seconds since the epoch.

    Raises:
        ssl.SSLCertVerificationError: clients refuse it now, whoever signed it; `verify_message` says why: it has expired, or
            is not valid yet.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # whoever signed it: it is trusted itself
    client.load_verify_locations(certificate)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    while True:
        try:
            asking.do_handshake()
            break
        except ssl.SSLWantReadError:
            with suppress(ssl.SSLWantReadError):
                answering.do_handshake()
    shown = asking.getpeercert()
    assert shown is not None, "the client has verified one"
    return ssl.cert_time_to_seconds(str(shown["notAfter"]))
