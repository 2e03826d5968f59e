"""A real HTTP server whose slowness a test knows: `python slow_server.py ANSWER_S SPREAD STALL_AT STALL_S FAIL_FROM STATUS`.

Prints its port. Answers take ANSWER_S in the median, log-normally distributed with SPREAD (0: all the same); at request number STALL_AT the whole server stands still for STALL_S; from
request FAIL_FROM on (0: never) it answers with STATUS. After a request `close` it closes the connection. `GET /seen`
answers when each request came and when its answer was ready, on the monotonic clock that processes share. SIGTERM ends it.
"""

from __future__ import annotations

import asyncio
import math
import random
import sys
import time

from aiohttp import web


async def serve(answer_s: float, spread: float, stall_at: int, stall_s: float, fail_from: int, status: int) -> None:
    draw = random.Random(0)
    seen: list[list[float]] = []

    async def answer(request: web.Request) -> web.Response:
        times = [time.monotonic(), math.inf]
        seen.append(times)
        number = len(seen)  # others arrive while this one waits
        body = await request.read()
        if number == stall_at:
            time.sleep(stall_s)  # noqa: ASYNC251 - the stall is the point
        await asyncio.sleep(answer_s * math.exp(draw.gauss(0.0, spread)))
        times[1] = time.monotonic()
        answer = web.Response(text="good", status=status if 0 < fail_from <= number else 200)
        if body == b"close":
            answer.force_close()
        return answer

    async def what_was_seen(request: web.Request) -> web.Response:
        return web.json_response(seen)

    application = web.Application(client_max_size=2**24)
    application.router.add_post("/infer", answer)
    application.router.add_get("/seen", what_was_seen)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    answer_s, spread, stall_s = (float(sys.argv[place]) for place in (1, 2, 4))
    stall_at, fail_from, status = (int(sys.argv[place]) for place in (3, 5, 6))
    asyncio.run(serve(answer_s, spread, stall_at, stall_s, fail_from, status))
