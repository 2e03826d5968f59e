"""Cross-origin requests of browsers: the headers that let pages of the allowed origins send requests and read answers."""

from __future__ import annotations

from .exchange import Request

__all__ = ["Cors"]

_READABLE = b"access-control-expose-headers: inference-header-content-length, retry-after, x-request-id\r\n"
_SENT = b"authorization, content-type, inference-header-content-length, traceparent, x-request-id"
_REMEMBERED_S = 600
"""How long a browser need not ask again; the shortest that all browsers obey in full."""


class Cors:
    """The allowed origins, such as `https://app.example.com`; `*` allows all. Cookies are never asked for."""

    def __init__(self, origins: tuple[str, ...]) -> None:
        self._all = "*" in origins
        self._origins = frozenset(origin.encode() for origin in origins)

    def is_preflight(self, request: Request) -> bool:
        """Whether a browser asks what it may send. It never sends a token with that."""
        asks = request.method == b"OPTIONS" and b"access-control-request-method" in request.headers
        return asks and self._allows(request)

    def headers(self, request: Request) -> bytes:
        """The header lines of any answer to this request."""
        if not self._allows(request):
            return b"" if self._all else b"vary: origin\r\n"
        if self._all:
            found = b"access-control-allow-origin: *\r\n"
        else:
            found = b"access-control-allow-origin: %b\r\nvary: origin\r\n" % request.headers[b"origin"]
        if not self.is_preflight(request):
            return found + _READABLE
        return b"%baccess-control-allow-methods: GET, HEAD, POST\r\naccess-control-allow-headers: %b\r\naccess-control-max-age: %d\r\n" % (
            found, _SENT, _REMEMBERED_S,
        )  # fmt: skip

    def _allows(self, request: Request) -> bool:
        origin = request.headers.get(b"origin")
        return origin is not None and (self._all or origin in self._origins)
