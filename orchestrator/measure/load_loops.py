"""How the load generator sends: on a schedule, whatever the answers (open loop), or each request after an answer (closed loop)."""

from __future__ import annotations

import random
import select
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from orchestrator.measure.alarm import Alarm
from orchestrator.measure.load_connections import CONNECTED, GOOD, Connection, Ended, Endpoint

__all__ = ["arrivals", "saturate", "send_on_schedule", "steady"]

_LEAD = 0.05
"""Seconds between making a schedule and its first request."""

_READY = 16
"""Connections that an open loop opens beforehand; clients of a server keep theirs too."""

_PAUSE = 0.01
"""Seconds after a refused request, so that a server that refuses at once does not turn a closed loop into a busy one."""

_TICK = 0.1
"""Seconds between looks for requests that got no answer in time."""

_BURST = 0.9
"""An answer starts a burst if it comes at least this fraction of the mean gap after the one before it."""


class _Results:
    """The answers of one segment, by kind."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.sent: list[float] = []
        self.delays: list[float] = []
        self.refused: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def no_answer(self, ended: Ended) -> None:
        if ended.refused:
            self.refused[ended.refused] += 1
        else:
            self.errors[ended.failed] += 1

    def as_json(self, answered: int, seconds: float, cpu_seconds: float) -> dict[str, Any]:
        return {
            "latencies": self.latencies,
            "sent": self.sent,
            "delays": self.delays,
            "refused": dict(self.refused),
            "errors": dict(self.errors),
            "seconds": seconds,
            "answered": answered,
            "generator_cpu_seconds": cpu_seconds,
        }


def arrivals(rate: float, requests: int, seed: int) -> list[float]:
    """When requests arrive, seconds from the start: a Poisson process with the rate, the same for the same seed.

    Independent users do not take turns, so evenly spaced requests would flatter a server. The number of requests is fixed,
    so that chance does not change the rate: given their number, the arrival times of a Poisson process are uniform.
    """
    draw = random.Random(seed)  # noqa: S311 - a schedule, not a secret
    return sorted(draw.uniform(0, requests / rate) for _ in range(requests))


def steady(ended: Sequence[float]) -> tuple[int, float]:
    """How many answers came in how many seconds, without the ends of a measurement that would falsify their quotient.

    It counts from the first answer, since those that were sent first had no queue before them, to the last one that started
    a burst: a server answers a whole batch at once, and a part of a batch in a part of its time says nothing.

    Args:
        ended: when the answers came, ascending.

    Returns:
        (0, 0.0) if no rate follows from them.
    """
    last = len(ended) - 1
    while last > 0 and not _starts_burst(ended, last):
        last -= 1
    return (last, ended[last] - ended[0]) if last > 0 else (0, 0.0)


def _starts_burst(ended: Sequence[float], place: int) -> bool:
    gap = ended[place] - ended[place - 1]
    return gap > 0 and gap >= _BURST * (ended[-1] - ended[0]) / (len(ended) - 1)


class _Loop(ABC):
    """Waits for connections and for whatever the kind of loop waits for besides."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}
        self.results = _Results()

    @abstractmethod
    def on_connected(self, connection: Connection) -> None:
        """A new connection is usable."""

    @abstractmethod
    def on_ended(self, connection: Connection, ended: Ended) -> None:
        """A request has ended, or a connection was not made."""

    @abstractmethod
    def on_other(self) -> None:
        """Something has happened that is not of a connection."""

    def open(self) -> None:
        """Open one more connection."""
        connection = self._endpoint.connect(self._endpoint.address, self._epoll, self._endpoint.context)
        self._connections[connection.file] = connection

    def close(self) -> None:
        """Close everything."""
        for connection in self._connections.values():
            connection.close()
        self._epoll.close()

    def step(self, seconds: float = _TICK) -> None:
        """Process what has happened, or wait for it for some time."""
        for file, events in self._epoll.poll(seconds):
            self.on_event(file, events)

    def on_event(self, file: int, events: int) -> None:
        """Something has happened at a file."""
        connection = self._connections.get(file)
        if connection is None:  # the alarm, or a connection that was closed since
            self.on_other()
        else:
            self.note(connection, connection.on_events(events))

    def note(self, connection: Connection, ended: Ended | None) -> None:
        """What has become of a connection's request, if that is known."""
        if connection.closed:
            del self._connections[connection.file]
        if ended is CONNECTED:
            self.on_connected(connection)
        elif ended is not None:
            self.on_ended(connection, ended)

    def expire(self) -> None:
        """Refuse requests that got no answer in time."""
        limit = time.perf_counter() - self._endpoint.timeout
        for connection in [each for each in self._connections.values() if each.busy and each.begun < limit]:
            del self._connections[connection.file]
            connection.close()
            self.on_ended(connection, self.too_late)

    @property
    def too_late(self) -> Ended:
        """The end of a request that got no answer in time."""
        return Ended(refused=f"no answer within {self._endpoint.timeout:g} s")


class _OpenLoop(_Loop):
    """Sends each request when it is due. One that finds no idle connection waits for one, or for a new one."""

    def __init__(self, endpoint: Endpoint, schedule: Sequence[float]) -> None:
        super().__init__(endpoint)
        self._schedule = schedule
        self._alarm = Alarm()
        self._epoll.register(self._alarm.file, select.EPOLLIN)
        self._idle: list[Connection] = []
        self._opening = 0
        self._waiting: deque[tuple[int, float, float]] = deque()
        self._due = 0
        self._ended = 0
        self._begin = 0.0

    def run(self) -> dict[str, Any]:
        """Until the last answer."""
        ready = min(_READY, self._endpoint.limit, len(self._schedule))
        for _ in range(ready):
            self._open_one()
        until = time.perf_counter() + self._endpoint.timeout
        while self._opening and time.perf_counter() < until:
            self.step()
        cpu = time.process_time()
        self._begin = time.perf_counter() + _LEAD
        self._alarm.set(self._begin + self._schedule[0])
        tick = self._begin + _TICK
        while self._ended < len(self._schedule):
            self.step()
            if (now := time.perf_counter()) > tick:
                tick = now + _TICK
                self.expire()
        seconds = time.perf_counter() - self._begin
        return self.results.as_json(len(self.results.latencies), seconds, time.process_time() - cpu)

    def close(self) -> None:
        """Close everything."""
        super().close()
        self._alarm.close()

    def on_other(self) -> None:
        """The next request is due: send all that are."""
        schedule = self._schedule
        while self._due < len(schedule):
            scheduled = self._begin + schedule[self._due]
            now = time.perf_counter()
            if scheduled > now:
                self._alarm.set(scheduled)
                return
            self.results.delays.append(now - scheduled)
            request = (self._due, scheduled, now - scheduled)
            self._due += 1
            while self._idle and not self._idle[-1].usable:  # the server has closed it
                self._idle.pop()
            if self._idle:
                self._send(self._idle.pop(), *request)
            else:
                self._waiting.append(request)
                self._open_one()

    def _send(self, connection: Connection, number: int, scheduled: float, late: float) -> None:
        connection.scheduled, connection.late = scheduled, late
        requests = self._endpoint.requests
        connection.send(requests[number % len(requests)], time.perf_counter())

    def _open_one(self) -> None:
        if len(self._connections) < self._endpoint.limit:
            self._opening += 1
            self.open()

    def on_connected(self, connection: Connection) -> None:
        """It takes the first request that waits."""
        self._opening -= 1
        self._next(connection)

    def _next(self, connection: Connection) -> None:
        if self._waiting:
            self._send(connection, *self._waiting.popleft())
        else:
            self._idle.append(connection)

    def on_ended(self, connection: Connection, ended: Ended) -> None:
        """Note it; the connection takes the next request that waits."""
        if ended is GOOD:
            now = time.perf_counter()
            self.results.latencies.append(now - connection.scheduled)
            self.results.sent.append(now - connection.scheduled - connection.late)
            self._ended += 1
        elif connection.begun:
            self._no_answer(ended)
        else:  # it was never connected, and fails the request that waited for it, if one did
            self._opening -= 1
            if self._waiting:
                self._waiting.popleft()
                self._no_answer(ended)
            return
        if connection.usable:
            self._next(connection)
        elif self._waiting:
            self._open_one()

    def _no_answer(self, ended: Ended) -> None:
        self.results.no_answer(ended)
        self._ended += 1

    def expire(self) -> None:
        """Those that still wait for a connection, too."""
        super().expire()
        limit = time.perf_counter() - self._endpoint.timeout
        while self._waiting and self._waiting[0][1] < limit:
            self._waiting.popleft()
            self._no_answer(self.too_late)


class _ClosedLoop(_Loop):
    """Keeps every connection busy."""

    def __init__(self, endpoint: Endpoint, connections: int, *, seconds: float, answers: int, at_most: float) -> None:
        super().__init__(endpoint)
        self._wanted = connections
        self._seconds = seconds
        self._answers = answers
        self._at_most = at_most
        self._ended: list[float] = []
        self._paused: deque[float] = deque()
        """When a connection that had no good answer goes on, by opening another one."""
        self._sending = False
        self._sent = 0
        self._ends = 0.0
        self._ready: list[Connection] = []

    def run(self) -> dict[str, Any]:
        """Until enough answers have come, or as long as it may last; answers after the end are awaited but not counted."""
        for _ in range(self._wanted):
            self.open()
        until = time.perf_counter() + self._endpoint.timeout
        while len(self._ready) < self._wanted and not self._paused and time.perf_counter() < until:
            self.step()
        cpu = time.process_time()
        now = tick = time.perf_counter()
        self._ends, last = now + self._seconds, now + self._at_most
        self._sending = True
        for connection in self._ready:
            if connection.usable:
                self._send(connection)
            else:  # the server has closed it meanwhile
                self._paused.append(now)
        while self._sending or any(each.busy for each in self._connections.values()):
            self.step(min(_TICK, self._at_most) if not self._paused else _PAUSE)
            now = time.perf_counter()
            if now >= last:
                self._sending = False
            if now >= tick:
                tick = now + _TICK
                self.expire()
            while self._sending and self._paused and self._paused[0] <= now:
                self._paused.popleft()
                self.open()
        answered, seconds = steady(self._ended)
        return self.results.as_json(answered, seconds, time.process_time() - cpu)

    def on_other(self) -> None:
        """Nothing else is waited for: a connection that was just closed had one more event."""

    def step(self, seconds: float = _TICK) -> None:
        """As for all loops; but a good answer, and the next request, go a shorter way."""
        if not self._sending:
            super().step(seconds)
            return
        connections, requests = self._connections, self._endpoint.requests
        latencies, answers = self.results.latencies, self._ended
        for file, events in self._epoll.poll(seconds):
            connection = connections.get(file)
            if connection is None or events != select.EPOLLIN:
                self.on_event(file, events)
                continue
            ended = connection.receive()
            now = time.perf_counter()
            if ended is not GOOD or not connection.usable or now >= self._ends or not self._sending:
                self.note(connection, ended)
                continue
            number = self._sent
            self._sent = number + 1
            begun = connection.begun
            connection.send(requests[number % len(requests)], now)
            latencies.append(now - begun)
            answers.append(now)

    def _send(self, connection: Connection) -> None:
        requests = self._endpoint.requests
        connection.send(requests[self._sent % len(requests)], time.perf_counter())
        self._sent += 1

    def on_connected(self, connection: Connection) -> None:
        """It is kept busy from now on."""
        if self._sending:
            self._send(connection)
        else:
            self._ready.append(connection)

    def on_ended(self, connection: Connection, ended: Ended) -> None:
        """Note it, and send the next request."""
        now = time.perf_counter()
        if ended is GOOD:
            self.results.latencies.append(now - connection.begun)
            if self._sending:
                self._ended.append(now)
                if now >= self._ends and len(self._ended) > self._answers:
                    self._sending = not _starts_burst(self._ended, len(self._ended) - 1)
            if self._sending and connection.usable:
                self._send(connection)
                return
        else:
            self.results.no_answer(ended)
        if self._connections.pop(connection.file, None) is not None:
            connection.close()
        self._paused.append(now if ended is GOOD else now + _PAUSE)


def send_on_schedule(endpoint: Endpoint, schedule: Sequence[float]) -> dict[str, Any]:
    """Send one request at each time of the schedule, and wait for all answers."""
    loop = _OpenLoop(endpoint, schedule)
    try:
        return loop.run()
    finally:
        loop.close()


def saturate(endpoint: Endpoint, connections: int, *, seconds: float, answers: int, at_most: float) -> dict[str, Any]:
    """Keep every connection busy for so many seconds and until so many answers have come.

    Args:
        endpoint: where the requests go.
        connections: that are kept busy.
        seconds: at least.
        answers: at least.
        at_most: seconds, after which it ends in any case.
    """
    loop = _ClosedLoop(endpoint, connections, seconds=seconds, answers=answers, at_most=at_most)
    try:
        return loop.run()
    finally:
        loop.close()
