"""The public side of a deployment: takes requests on the endpoint and forwards each to the revision that serves.

A switch is one assignment. Every request is counted on the revision that it was sent to until it is answered, so the
former revision is stopped when it has nothing left to do. A request is sent again only if no byte of it was sent: when
the connection is refused. What fails after that is answered 502, since the server may have done the work.
"""

from __future__ import annotations

import asyncio
import time

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from orchestrator.targets.local.revision import Revision

__all__ = ["Gateway"]

_BODY_LIMIT = 256 * 2**20
"""Bytes of one request; a batch of 64 images as JSON is about 100 MB."""
_PATIENCE_SECONDS = 10.0
"""How long a request waits for a server that is being restarted."""
_ANSWER_SECONDS = 300.0

_FORWARDED = web.RequestKey("forwarded", CIMultiDict[str])
"""On a request: the headers of the server's answer."""

_HOP_BY_HOP = frozenset(
    {
        "connection",
        "expect",  # the gateway itself has answered it
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""RFC 9110, section 7.6.1: these are about one connection, not about the message."""


class Gateway:
    """Forwards to `current`; the supervisor sets it."""

    def __init__(self) -> None:
        self.current: Revision | None = None
        self.nothing_serves = "no revision is deployed"
        application = web.Application(client_max_size=_BODY_LIMIT)
        application.router.add_route("*", "/{path:.*}", self._handle)
        application.on_response_prepare.append(_add_nothing)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            auto_decompress=False,
            handle_signals=False,
            max_field_size=65536,
            max_line_size=65536,
            shutdown_timeout=30.0,
        )
        self._sites: dict[int, web.TCPSite] = {}

    @property
    def ports(self) -> list[int]:
        """The ports that it listens on, the newest last."""
        return list(self._sites)

    async def open(self, host: str, port: int) -> None:
        """Listen on `port` too.

        Raises:
            OSError: the port is in use or may not be used.
        """
        if self._runner.server is None:
            await self._runner.setup()
        if port in self._sites:
            self._sites[port] = self._sites.pop(port)  # the newest again
            return
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        self._sites[port] = site

    async def close_former_ports(self) -> None:
        """Listen on the newest port only; what is connected already stays connected."""
        for port in self.ports[:-1]:
            await self._sites.pop(port).stop()

    async def close_newer_ports(self) -> None:
        """Stop listening on all ports but the oldest."""
        for port in self.ports[1:]:
            await self._sites.pop(port).stop()

    async def close(self) -> None:
        """Take no more connections; answer what is under way."""
        for port in self.ports:
            await self._sites.pop(port).stop()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _error(413, f"the request's body is larger than {_BODY_LIMIT // 2**20} MiB")
        deadline = time.monotonic() + _PATIENCE_SECONDS
        reason = self.nothing_serves
        while (revision := self.current) is not None:
            if revision.ready.is_set():
                revision.enter()
                try:
                    return await _forward(revision, request, body)
                except aiohttp.ClientConnectorError as error:
                    reason = f"the server of revision {revision.recipe.revision} cannot be reached: {error.strerror}"
                except TimeoutError:
                    return _error(504, f"the server did not answer within {_ANSWER_SECONDS:.0f} s")
                except aiohttp.ClientError as error:
                    return _error(502, f"the server closed the connection before it answered ({type(error).__name__})")
                finally:
                    revision.leave()
            else:
                why = f": {revision.ending.text}" if revision.ending else ""
                reason = f"revision {revision.recipe.revision} is {revision.state}{why}"
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.02)
        return _error(503, reason)


async def _forward(revision: Revision, request: web.Request, body: bytes) -> web.Response:
    """Send the request as it came and return the answer as it came."""
    # The target as it was sent, `//` and `..` included; only a proxy's form (`GET http://host/path`) is taken apart.
    target = request.raw_path if request.raw_path.startswith("/") else request.rel_url.raw_path_qs
    async with revision.session.request(
        request.method,
        URL(revision.url + target, encoded=True),
        headers=_end_to_end(request.headers),
        data=body or None,
        allow_redirects=False,
        timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS, sock_connect=5.0),
    ) as answer:
        content = await answer.read()
        headers = _end_to_end(answer.headers)
        request[_FORWARDED] = headers
        if request.method != "HEAD":
            headers.popall("Content-Length", None)
        return web.Response(status=answer.status, reason=answer.reason, headers=headers, body=content)


def _end_to_end(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """The headers without those that are about one connection only."""
    named = {name.strip().lower() for value in headers.getall("Connection", ()) for name in value.split(",")}
    dropped = _HOP_BY_HOP | named
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in dropped)


async def _add_nothing(request: web.Request, response: web.StreamResponse) -> None:
    """Take away what aiohttp adds to a forwarded answer by itself."""
    came_with = request.get(_FORWARDED)
    if came_with is not None:
        for name in ("Content-Type", "Date", "Server"):
            if name not in came_with:
                response.headers.popall(name, None)


def _error(status: int, text: str) -> web.Response:
    """An answer of the gateway's own, in the form of the Open Inference Protocol's errors."""
    return web.json_response({"error": text}, status=status)
