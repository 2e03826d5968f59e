"""A real HTTP server whose slowness a test knows: `python slow_server.py ANSWER_S STALL_AT STALL_S FAIL_FROM STATUS`.

Prints its port. Every answer takes ANSWER_S; at request number STALL_AT the whole server stands still for STALL_S; from
request FAIL_FROM on (0: never) it answers with STATUS. After a request `close` it closes the connection. SIGTERM ends it.
"""

from __future__ import annotations

import asyncio
import sys
import time

from aiohttp import web


async def serve(answer_s: float, stall_at: int, stall_s: float, fail_from: int, status: int) -> None:
    seen = 0

    async def answer(request: web.Request) -> web.Response:
        nonlocal seen
        seen += 1
        number = seen  # others arrive while this one waits
        body = await request.read()
        if number == stall_at:
            time.sleep(stall_s)  # noqa: ASYNC251 - the stall is the point
        await asyncio.sleep(answer_s)
        answer = web.Response(text="good", status=status if 0 < fail_from <= number else 200)
        if body == b"close":
            answer.force_close()
        return answer

    application = web.Application(client_max_size=2**24)
    application.router.add_post("/infer", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])))
