"""Reads a request's body within limits of size and time, for one request and for all that are being read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from .errors import RequestError

__all__ = ["BodyReader"]

_TOGETHER = 8
"""So many largest bodies may be in memory at once, however many clients send them slowly."""


class BodyReader:
    """Counts the bytes of all bodies that are being read."""

    def __init__(self, max_bytes: int, timeout_s: float) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._held = 0

    async def read(
        self, headers: Mapping[bytes, bytes], receive: Callable[[], Awaitable[MutableMapping[str, Any]]]
    ) -> bytes:
        """The whole body.

        Raises:
            RequestError: 413 too large, 408 too slow, 415 compressed, 429 too many at once, 499 the client hung up.
        """
        encoding = headers.get(b"content-encoding", b"identity")
        if encoding.lower() != b"identity":
            raise RequestError(415, "compressed bodies are not supported", reason="encoding")
        declared = headers.get(b"content-length", b"0")
        if len(declared) > 19 or int(declared) > self._max_bytes:
            raise self._too_large()
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestError(499, "the client hung up while sending", reason="cancelled")
                    part = message["body"]
                    size += len(part)
                    self._held += len(part)
                    parts.append(part)
                    if size > self._max_bytes:
                        raise self._too_large()
                    if not message["more_body"]:
                        return parts[0] if len(parts) == 1 else b"".join(parts)
                    if self._held > _TOGETHER * self._max_bytes:
                        raise RequestError(
                            429, "too many bodies are being received", reason="bodies_full", retry_after=1
                        )
        except TimeoutError:
            raise RequestError(408, f"the body did not arrive in {self._timeout_s:g} s", reason="slow") from None
        finally:
            self._held -= size

    def _too_large(self) -> RequestError:
        return RequestError(413, f"the body is larger than {self._max_bytes} bytes", reason="too_large")
