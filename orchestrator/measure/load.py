"""The load generator, a separate process: `python -m orchestrator.measure.load COMMANDS REPLIES`.

It reads lines of JSON from one descriptor and writes one reply each to the other; the parent's side is
`orchestrator.measure.session`.

    {"do": "open", "url": ..., "headers": {...}, "bodies": [PATH, ...], "limit": 256, "timeout": 10.0}
        → {"bodies": n}; the request bodies, sent in turn
    {"do": "schedule", "rate": 200.0, "requests": 350, "seed": 1}
        → open loop: Poisson arrivals at the rate, independent of answers
    {"do": "saturate", "connections": 32, "seconds": 1.0}
        → closed loop: each connection sends its next request when the previous one is answered

Both reply with {"latencies": [s, ...], "sent": [s, ...], "delays": [s, ...], "refused": {TEXT: count}, "errors": {TEXT: count},
"seconds": s, "answered": n}. The latency of a scheduled request counts from the time at which it was *scheduled*, not
from when it was sent: if a server stalls, all waiting requests count (this avoids "coordinated omission"; MLPerf's loadgen
does the same). `delays` are how late the generator itself sent the requests, and `sent` are the latencies without these
delays. `seconds` of a schedule end with the last answer. A request has no latency if the server was too busy (`refused`:
status 429 or 503, or no answer in time) or if it failed (`errors`: anything else).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from orchestrator.measure.failure import MeasureError
from orchestrator.steps.context import Ending
from orchestrator.steps.failures import unexpected

__all__ = ["Target", "arrivals", "main", "saturate", "send_on_schedule"]

_LEAD = 0.05
"""Seconds between making a schedule and its first request."""

_TOO_BUSY = frozenset({429, 503})
"""Status codes of an overloaded server."""


class Target:
    """Where requests are sent, and their content.

    Args:
        url: of the endpoint.
        headers: of every request.
        bodies: sent in turn.
        limit: maximum connections in an open loop; waiting for one counts as latency.
        timeout: seconds until a request counts as refused.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], bodies: Sequence[bytes], *, limit: int, timeout: float
    ) -> None:
        self.url = url
        self.headers = dict(headers)
        self.bodies = tuple(bodies)
        self.limit = limit
        self.timeout = timeout

    def session(self, connections: int) -> aiohttp.ClientSession:
        """Keep-alive connections, no cookies, no retries."""
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=self.timeout),
            headers=self.headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )


class _Results:
    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.sent: list[float] = []
        self.delays: list[float] = []
        self.refused: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    async def request(self, session: aiohttp.ClientSession, target: Target, number: int, scheduled: float) -> bool:
        """Send one request and wait for its answer; whether it came and was good."""
        begun = time.perf_counter()
        self.delays.append(begun - scheduled)
        body = target.bodies[number % len(target.bodies)]
        try:
            async with session.post(target.url, data=body) as answer:
                content = await answer.read()
        except TimeoutError:
            self.refused[f"no answer within {target.timeout:g} s"] += 1
        except aiohttp.ClientError as error:
            self.errors[f"{type(error).__name__}: {error}"] += 1
        else:
            if answer.status in _TOO_BUSY:
                self.refused[f"status {answer.status}"] += 1
            elif answer.status != 200:
                self.errors[f"status {answer.status}"] += 1
            elif not content:
                self.errors["an empty answer"] += 1
            else:
                ended = time.perf_counter()
                self.latencies.append(ended - scheduled)
                self.sent.append(ended - begun)
                return True
        return False

    def as_json(self, seconds: float) -> dict[str, Any]:
        return {
            "latencies": self.latencies,
            "sent": self.sent,
            "delays": self.delays,
            "refused": dict(self.refused),
            "errors": dict(self.errors),
            "seconds": seconds,
            "answered": len(self.latencies),
        }


def arrivals(rate: float, requests: int, seed: int) -> list[float]:
    """When requests arrive, seconds from the start: a Poisson process with the rate, the same for the same seed.

    Independent users do not take turns, so evenly spaced requests would flatter a server. The number of requests is fixed,
    so that chance does not change the rate: given their number, the arrival times of a Poisson process are uniform.
    """
    draw = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    return sorted(draw.uniform(0, requests / rate) for _ in range(requests))


async def send_on_schedule(target: Target, schedule: Sequence[float]) -> dict[str, Any]:
    """Send one request at each time of the schedule, and wait for all answers."""
    results = _Results()
    loop = asyncio.get_running_loop()
    sent: list[asyncio.Task[bool]] = []
    begin = time.perf_counter() + _LEAD
    async with target.session(target.limit) as session:

        def send(number: int, scheduled: float) -> None:
            sent.append(loop.create_task(results.request(session, target, number, scheduled)))

        def keep_time() -> None:
            # The event loop's timers have a resolution of a millisecond; a sleeping thread is twenty times finer.
            for number, offset in enumerate(schedule):
                scheduled = begin + offset
                if (ahead := scheduled - time.perf_counter()) > 0:
                    time.sleep(ahead)
                loop.call_soon_threadsafe(send, number, scheduled)

        await asyncio.to_thread(keep_time)
        await asyncio.sleep(0)  # lets the thread's last request become a task before all are gathered
        await asyncio.gather(*sent)
        seconds = time.perf_counter() - begin
    return results.as_json(seconds)


async def saturate(target: Target, connections: int, seconds: float) -> dict[str, Any]:
    """Keep every connection busy for some seconds; answers after the end are awaited but not counted."""
    results = _Results()
    begin = time.perf_counter()
    ends = begin + seconds
    in_time = 0

    async def keep_busy(session: aiohttp.ClientSession, first: int) -> None:
        nonlocal in_time
        number = first
        while (now := time.perf_counter()) < ends:
            if await results.request(session, target, number, now):
                in_time += time.perf_counter() <= ends
            else:
                await asyncio.sleep(0.01)  # a server that refuses at once must not turn this into a busy loop
            number += connections

    async with target.session(connections) as session:
        await asyncio.gather(*(keep_busy(session, first) for first in range(connections)))
    return {**results.as_json(seconds), "answered": in_time}


def main(argv: Sequence[str]) -> int:
    """Answer commands until there are no more."""
    target: Target | None = None
    with (
        os.fdopen(int(argv[0]), encoding="utf-8") as commands,
        os.fdopen(int(argv[1]), "w", encoding="utf-8") as replies,
    ):
        for line in commands:
            command = json.loads(line)
            try:
                target = _target(command) if command["do"] == "open" else target
                reply = _answer(command, target)
            except (OSError, ValueError) as error:
                reply = {"error": MeasureError(Ending.EXCEPTION, unexpected(error)).as_json()}
            replies.write(json.dumps(reply) + "\n")
            replies.flush()
    return 0


def _target(command: Mapping[str, Any]) -> Target:
    bodies = [Path(path).read_bytes() for path in command["bodies"]]
    if not bodies:
        raise ValueError("there is no request to send")
    return Target(command["url"], command["headers"], bodies, limit=command["limit"], timeout=command["timeout"])


def _answer(command: Mapping[str, Any], target: Target | None) -> dict[str, Any]:
    if target is None:
        raise ValueError("nothing is open")
    if command["do"] == "open":
        return {"bodies": len(target.bodies)}
    if command["do"] == "schedule":
        schedule = arrivals(command["rate"], command["requests"], command["seed"])
        return asyncio.run(send_on_schedule(target, schedule))
    return asyncio.run(saturate(target, command["connections"], command["seconds"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
