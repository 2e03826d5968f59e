"""Certificates and tokens from mounted files, reloaded when the files change."""

from __future__ import annotations

import hashlib
import hmac
import logging
import ssl
import time
from collections.abc import Callable
from math import inf
from pathlib import Path

from .config import TlsConfig
from .errors import BAD_CONFIG, RequestError, StartError
from .validity import valid_until

__all__ = ["Certificates", "Tokens"]

_SHORTEST = 16

_log = logging.getLogger("mlo.secrets")


class _Watched:
    """Files that belong together. Kubernetes replaces a link to change a mounted secret, so contents are compared."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen: list[bytes] = []

    def changed(self) -> list[bytes] | None:
        """The files' contents if they have changed, otherwise None."""
        contents = [path.read_bytes() for path in self._paths]
        if contents == self._seen:
            return None
        self._seen = contents
        return contents


def _reload(what: str, load: Callable[[], bool]) -> bool:
    """Reload; if the new files are invalid, the old ones stay in use."""
    try:
        return load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        _log.error("%s cannot be reloaded, keeping the old one: %s", what, error)
        return False


class Tokens:
    """The accepted bearer tokens: the lines of a file, several during rotation."""

    def __init__(self, path: Path) -> None:
        """Read the file.

        Raises:
            StartError: `BAD_CONFIG`; unreadable, empty, or with a token that is too short.
        """
        self._watched = _Watched(path)
        self._digests: list[bytes] = []
        try:
            self._load()
        except (OSError, ValueError) as error:
            raise StartError(BAD_CONFIG, f"token_file {path}: {error}") from error

    def _load(self) -> bool:
        contents = self._watched.changed()
        if contents is None:
            return False
        tokens = contents[0].split()
        if not tokens or min(map(len, tokens)) < _SHORTEST:
            raise ValueError(
                f"must contain at least one token, one per line, each with at least {_SHORTEST} characters"
            )
        self._digests = [_digest(token) for token in tokens]
        return True

    def reload(self) -> None:
        """Read the file again if it has changed."""
        if _reload("the token", self._load):
            _log.info("reloaded the token")

    def check(self, authorization: bytes) -> None:
        """Accept the value of a header `Authorization`.

        Raises:
            RequestError: 401.
        """
        scheme, _, token = authorization.partition(b" ")
        given = _digest(token.strip())
        # Every token is compared, by digest, so that timing reveals nothing.
        known = [hmac.compare_digest(given, digest) for digest in self._digests]
        if scheme.lower() != b"bearer" or not any(known):
            raise RequestError(
                401, "a bearer token is needed", reason="unauthorized", headers="www-authenticate: Bearer\r\n"
            )


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


class Certificates:
    """The server's certificate and key, and the CA of trusted clients.

    Attributes:
        context: for connections to come; another one after each reload.
        contents: the files', in the order certificate, key, CA.
    """

    def __init__(self, config: TlsConfig) -> None:
        """Read the files.

        Raises:
            StartError: `BAD_CONFIG`; unreadable, encrypted, or key and certificate do not belong together.
        """
        self._config = config
        paths = [config.certificate, config.key]
        self._watched = _Watched(*paths, *([] if config.client_ca is None else [config.client_ca]))
        self._ends = inf
        self.context: ssl.SSLContext
        self.contents: list[bytes] = []
        try:
            self._load()
        except (OSError, ValueError) as error:
            raise StartError(BAD_CONFIG, f"tls: {_reason(error)}") from error

    def _load(self) -> bool:
        contents = self._watched.changed()
        if contents is None:
            return False
        config = self._config
        # A new one: a context that is in use would go on trusting the former CA beside the new one.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(config.certificate, config.key, password=_no_password)
        except ssl.SSLError as error:
            raise ValueError(_unusable(config, error)) from error
        if config.client_ca is not None:
            context.load_verify_locations(config.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        self.context = context
        self.contents = contents
        self._note_end()
        return True

    def _note_end(self) -> None:
        """Say so if clients refuse the certificate; it is served all the same, as some may look at nothing but the key."""
        try:
            self._ends = valid_until(self._config.certificate, self._config.key)
        except ssl.SSLCertVerificationError as error:
            self._ends = inf
            _log.error("clients refuse the certificate %s: %s", self._config.certificate, error.verify_message)

    def reload(self) -> None:
        """Read the files again if they have changed."""
        _reload("the certificate", self._load)
        if time.time() > self._ends:
            self._note_end()


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody can be asked for its password; write it without one")


def _unusable(config: TlsConfig, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"the key {config.key} does not belong to the certificate {config.certificate}, the first in its file"
    return f"{config.certificate} and {config.key} are no certificate and private key as PEM: {error.reason or error}"


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
