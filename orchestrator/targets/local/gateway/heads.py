"""Heads of forwarded HTTP messages: what concerns one connection is removed, the rest is unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

__all__ = ["Head", "Headers", "chunk", "end_to_end", "error_answer"]

Headers = list[tuple[bytes, bytes]]
"""Names and values, unchanged and in order."""

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"expect",  # the gateway itself answers it
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",  # trailers are dropped, as RFC 9110, section 6.5.1, allows
        b"transfer-encoding",
        b"upgrade",
    }
)
"""RFC 9110, section 7.6.1: these concern one connection, not the message."""


class Head(NamedTuple):
    """The part of a head that is forwarded.

    Attributes:
        lines: the headers from end to end, each with its line end.
        length: of the body, where the head declares it.
        chunked: whether the body comes in chunks.
        coded: whether the body has a transfer coding besides.
        has_host: whether a header `Host` is among the lines.
        expects: whether the sender waits for "100 Continue" before it sends the body.
    """

    lines: bytes
    length: int | None
    chunked: bool
    coded: bool
    has_host: bool
    expects: bool


def end_to_end(headers: Headers) -> Head:
    """The headers without those that concern one connection, and what these say about the body."""
    length: int | None = None
    chunked = coded = has_host = expects = False
    dropped: Iterable[bytes] = _HOP_BY_HOP
    lowered = [(name.lower(), name, value) for name, value in headers]
    for key, _, value in lowered:
        if key == b"connection":
            dropped = {*dropped, *(token.strip().lower() for token in value.split(b","))} - {b"content-length", b"host"}
        elif key == b"content-length":
            length = int(value)
        elif key == b"transfer-encoding":
            chunked = True
            coded = coded or value.strip().lower() != b"chunked"
        elif key == b"host":
            has_host = True
        elif key == b"expect":
            expects = value.strip().lower() == b"100-continue"
    lines = b"".join([b"%b: %b\r\n" % (name, value) for key, name, value in lowered if key not in dropped])
    return Head(lines, length, chunked, coded, has_host, expects)


def chunk(piece: bytes) -> bytes:
    """A piece of a body as a chunk."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def error_answer(status: int, text: str, *, body: bool, close: bool) -> bytes:
    """An answer of the gateway's own, in the form of the Open Inference Protocol's errors."""
    content = json.dumps({"error": text}).encode()
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json; charset=utf-8\r\n"
        f"Content-Length: {len(content)}\r\n{'Connection: close' + chr(13) + chr(10) if close else ''}\r\n"
    )
    return head.encode() + (content if body else b"")
