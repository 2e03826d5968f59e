"""The load generator, a process of its own: `python -m orchestrator.measure.load COMMANDS REPLIES`.

Lines of JSON on one descriptor, one reply each on the other; the parent's side is `orchestrator.measure.session`.

    {"do": "open", "url": ..., "headers": {...}, "bodies": [PATH, ...], "limit": 256, "timeout": 10.0}
        → {"bodies": n}; the requests that are sent, in turn
    {"do": "schedule", "rate": 200.0, "requests": 350, "seed": 1}
        → open loop: independent arrivals (Poisson) at the rate, whatever becomes of the earlier ones
    {"do": "saturate", "connections": 32, "seconds": 1.0}
        → closed loop: each connection sends its next request when the last one is answered

Both answer {"latencies": [s, ...], "sent": [s, ...], "delays": [s, ...], "refused": {TEXT: count}, "errors": {TEXT: count},
"seconds": s, "answered": n}. The latency of a scheduled request counts from the time it was *scheduled* at, not from when
it was sent: a server that stalls is charged for everything that had to wait ("coordinated omission"; MLPerf's loadgen
counts in the same way). `delays` are how late the generator itself sent them, and `sent` are the latencies without
that. `seconds` of a schedule end with the last answer. A request has no latency when the server was too busy for it
(`refused`: it says so with 429 or 503, or does not answer in time) or when it failed (`errors`: anything else).
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

__all__ = ["Target", "arrivals", "main", "saturate", "send_on_schedule"]

_LEAD = 0.05
"""Seconds between making a schedule and its first request."""

_TOO_BUSY = frozenset({429, 503})
"""Statuses by which a sound server says that it has more to do than it can."""


class Target:
    """Where requests go, and what they hold.

    Args:
        url: of the endpoint.
        headers: of every request.
        bodies: sent in turn.
        limit: connections at most in an open loop; what waits for one is waiting time like any other.
        timeout: seconds until a request has failed.
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
    """When requests arrive, seconds from the start: a Poisson process of the rate, the same for the same seed.

    Independent users do not take turns, so evenly spaced requests would flatter a server. As many arrive as the rate
    gives on average, so that chance neither raises nor lowers the rate: given their number, the times of a Poisson
    process are uniform.
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
            # The event loop's timers are a millisecond coarse; a sleeping thread is twenty times finer.
            for number, offset in enumerate(schedule):
                scheduled = begin + offset
                if (ahead := scheduled - time.perf_counter()) > 0:
                    time.sleep(ahead)
                loop.call_soon_threadsafe(send, number, scheduled)

        await asyncio.to_thread(keep_time)
        await asyncio.sleep(0)  # the last request of the thread is made into a task before they are gathered
        await asyncio.gather(*sent)
        seconds = time.perf_counter() - begin
    return results.as_json(seconds)


async def saturate(target: Target, connections: int, seconds: float) -> dict[str, Any]:
    """Keep every connection busy for a while; what is answered after the end is waited for but not counted."""
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
                await asyncio.sleep(0.01)  # a server that refuses at once must not make this loop a busy one
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
                reply = {"error": {"kind": "error", "message": str(error)}}
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
