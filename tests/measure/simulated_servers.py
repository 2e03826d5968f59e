"""Servers under load in simulated time: stand-ins for a server, its load generator, and what else runs on its CPUs."""

from __future__ import annotations

import math
import random
from typing import Any, cast

from orchestrator.artifacts.server_report import (
    GeneratorLimit,
    OpenLoop,
    P99Level,
    Saturation,
    ServerMeasurement,
    ServerSettings,
    ThroughputLevel,
    WireResult,
)
from orchestrator.machine.cpu_use import CpuTime
from orchestrator.measure.again import measure_again
from orchestrator.measure.knee import find_knees
from orchestrator.measure.load_loops import arrivals, steady
from orchestrator.measure.measured_server import MeasuredServer
from orchestrator.measure.server_report import ServerResult, StartedServer, server_result
from orchestrator.measure.server_rounds import (
    LoadedServer,
    LoadSettings,
    load_in_rounds,
    probe,
    warm_up,
)
from orchestrator.measure.session import MeasuredProcess
from orchestrator.spec.types import Wire

LIMIT = 0.02
STARTED = StartedServer(ServerSettings(max_batch_size=8, max_delay=0.0), None, 1.0, 0.01)


class QuietServer:
    """Lives, and uses a fifth of a CPU."""

    peak = 2**20
    host = "127.0.0.1"
    port = 1
    grpc_port = 2

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def cpu_seconds(self) -> float:
        return self._clock() / 5

    def check(self) -> None:
        """Nothing ends it."""


class Clock:
    """Time that passes only where a simulation says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Busy:
    """Two CPUs, of which another process uses a part from a time until another.

    Args:
        clock: of the simulation.
        part: that it uses, 0 to 1.
        ends: seconds from now.
        adds: seconds that a request takes longer meanwhile.
    """

    def __init__(self, clock: Clock, part: float, ends: float = math.inf, adds: float = LIMIT) -> None:
        self.adds = adds
        self._clock, self._part, self._ends = clock, part, ends
        self._began = clock()

    def time(self) -> CpuTime:
        passed = self._clock() - self._began
        # The server's own fifth of a CPU, and that of a load generator, which this simulation neglects.
        return CpuTime(busy=passed / 5 + 2 * self._part * min(passed, self._ends), total=2 * passed)

    def ended(self) -> bool:
        return self._clock() - self._began >= self._ends


class Generator:
    """Answers as it would with a server that takes some time for each batch, one batch after the other.

    Args:
        clock: is moved on.
        capacity: requests per second.
        latency: seconds that an answer takes besides.
        batch: requests in a batch.
        more: `slower`: wire → seconds that an answer takes besides over it; `broken`: a wire over which calls fail; `busy`: what
            else runs; `generator_cpus`: that it uses itself; `errors_again`: of segments that are measured again; `slow`: the share of
            requests that take `LIMIT` longer, at random by `draw`.
    """

    def __init__(self, clock: Clock, *, capacity: float, latency: float, batch: int = 1, **more: Any) -> None:
        self._clock = clock
        self._call = batch / capacity
        self._latency, self._batch, self._more = latency, batch, more
        self._slower: dict[str, float] = more.get("slower", {})
        self._busy: Busy | None = more.get("busy")
        self._slow: float = more.get("slow", 0.0)
        self._draw = random.Random(more.get("draw", 0))
        self.asked: list[dict[str, Any]] = []

    def ask(self, command: dict[str, Any], timeout: float) -> dict[str, Any]:
        assert timeout > 0
        self.asked.append(command)
        return self._saturate(command) if command["do"] == "saturate" else self._schedule(command)

    def _schedule(self, command: dict[str, Any]) -> dict[str, Any]:
        number = command["requests"]
        refused = min(number, self._more.get("refused", 0))
        free = 0.0
        sent = []
        for due in arrivals(command["rate"], number, command["seed"])[refused:]:
            free = max(free, due) + self._call / self._batch
            hindered = 0.0 if self._busy is None or self._busy.ended() else self._busy.adds
            if self._draw.random() < self._slow:
                hindered += LIMIT
            sent.append(free - due + self._latency + self._slower.get(command["wire"], 0.0) + hindered)
        seconds = max(free, number / command["rate"]) + self._latency
        self._clock.now += seconds
        reply = self._reply(sent, refused, number, seconds, len(sent))
        if (cpus := self._more.get("generator_cpus")) is not None:
            reply["generator_cpu_seconds"] = cpus * seconds
        again = command["seed"] >= 2000
        return {**reply, "errors": self._more["errors_again"]} if again and "errors_again" in self._more else reply

    def _saturate(self, command: dict[str, Any]) -> dict[str, Any]:
        now, waiting = 0.0, command["connections"]
        ended: list[float] = []
        while True:
            size = min(self._batch, waiting)
            now += self._call * (1 if size == self._batch else size / self._batch)
            if now > command["at_most"]:
                break
            ended += [now + self._latency] * size
            if now >= command["seconds"] and len(ended) - size >= command["answers"]:
                break
        self._clock.now += now + self._latency
        answered, seconds = steady(ended)
        cycle = command["connections"] / self._batch * self._call
        latency = self._latency + self._slower.get(command["wire"], 0.0)
        finished = len(ended) + command["connections"]  # those in flight at the end are awaited
        if command["wire"] == self._more.get("broken"):
            return {**self._reply([], 0, finished, seconds, 0), "errors": {"status 500": finished}}
        if cycle > command["timeout"]:
            return self._reply([], finished, finished, seconds, 0)
        return self._reply([cycle + latency] * finished, 0, finished, seconds, answered)

    def _reply(self, sent: list[float], refused: int, number: int, seconds: float, answered: int) -> dict[str, Any]:
        delay = self._more.get("delay", 0.0)
        return {
            "latencies": [latency + delay for latency in sent],
            "sent": sent,
            "delays": [delay] * number,
            "refused": {"status 503": refused} if refused else {},
            "errors": self._more.get("errors", {}),
            "seconds": seconds,
            "answered": answered,
            "generator_cpu_seconds": 0.00001 * number,
        }


CEILING = GeneratorLimit(connections=32, requests_per_second=30_000.0, cpu_seconds_per_request=0.00001)


def wires(*names: Wire) -> dict[Wire, WireResult]:
    """Of a model that takes 2 ms; JSON alone by default."""
    return {
        name: WireResult(
            wire=name,
            request_bytes=1000,
            answer_bytes=100,
            call=None,
            model=0.002,
            connections=None,
            rows_per_second=None,
            refused="",
        )
        for name in names or ("json",)
    }


class Bench:
    """Servers that are measured in simulated time."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.budget = 300.0

    def settings(self, *, rate: float | None = 200.0, p99_limit: float | None = LIMIT) -> LoadSettings:
        return LoadSettings(rate, p99_limit, deadline=self.clock.now + self.budget, clock=self.clock)

    def server(
        self,
        name: str = "onnx-fp32",
        *over: Wire,
        capacity: float = 1000.0,
        latency: float = 0.003,
        allowed: tuple[Wire, ...] = (),
        **more: Any,
    ) -> LoadedServer:
        generator = Generator(self.clock, capacity=capacity, latency=latency, **more)
        quiet = cast("MeasuredServer", QuietServer(self.clock))
        loaded = LoadedServer(
            name,
            quiet,
            cast("MeasuredProcess", generator),
            wires(*over),
            "json",
            allowed or over or ("json",),
            generator=CEILING,
        )
        if (busy := more.get("busy")) is not None:
            loaded.cpu_time = busy.time
        return loaded

    def measure(
        self, *servers: LoadedServer, wanted: float | None = None, **settings: float | None
    ) -> list[ServerResult]:
        load = self.settings(**settings)
        for one in servers:
            probe(one, load, len(servers))
        for one in servers:
            warm_up(one, load, len(servers))
        rate = load_in_rounds(servers, load, lambda *_: None)
        measure_again(servers, load, rate, lambda *_: None)
        find_knees(servers, load, rate, lambda *_: None)
        return [server_result(one, STARTED, load, rate, wanted or load.rate) for one in servers]


def asked(of: LoadedServer) -> list[dict[str, Any]]:
    return [command for command in cast("Generator", of.load).asked if command["do"] == "schedule"]


def numbers(result: ServerResult) -> ServerMeasurement:
    assert result.measured is not None, result.reason
    return result.measured


def loop(result: ServerResult) -> OpenLoop:
    found = numbers(result).on_schedule
    assert found is not None
    return found


def saturated(result: ServerResult) -> Saturation:
    found = numbers(result).saturated
    assert found is not None
    return found


def p99(result: ServerResult) -> P99Level:
    found = numbers(result).slo.p99
    assert found is not None
    return found


def throughput(result: ServerResult) -> ThroughputLevel:
    found = numbers(result).slo.throughput
    assert found is not None
    return found
