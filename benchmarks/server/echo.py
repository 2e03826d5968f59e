"""Answers every request with the same bytes through three HTTP layers, to measure the layers by themselves.

python echo.py PORT     the server's own; `echo:rsgi` and `echo:asgi` are for granian and uvicorn
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

BODY = b'{"model_name":"m","model_version":"1","outputs":[{"name":"y","datatype":"FP32","shape":[1,16],"data":[]}]}'


async def rsgi(_: Any, protocol: Any) -> None:
    """Read the body and answer."""
    await protocol()
    protocol.response_bytes(200, [("content-type", "application/json")], BODY)


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Read the body and answer."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


async def serve(port: int) -> None:
    """The server's connections around an application that does nothing."""
    from orchestrator.server.exchange import Answer, ConnectionLimits  # noqa: PLC0415 - not in the peers' environment
    from orchestrator.server.http_server import HttpServer, bind  # noqa: PLC0415

    class App:
        closing = False

        def admit(self, request: Any) -> None:
            """Take all."""

        def handle(self, request: Any, reply: Any) -> Any:  # noqa: ARG002
            return Answer(200, b"content-type: application/json\r\n", BODY)

        def refuse(self, request: Any, error: Any) -> Any:  # noqa: ARG002
            return Answer(400, b"", b"")

    server = HttpServer(App(), ConnectionLimits(1 << 20, 30, 75, 1024), None)
    await server.start(bind("127.0.0.1", port))
    await asyncio.Event().wait()


if __name__ == "__main__":
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(sys.argv[1])))
