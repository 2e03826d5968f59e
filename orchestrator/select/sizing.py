"""How much a replica needs and how many are needed, from what was measured of the winner. Rules in docs/measuring.md."""

from __future__ import annotations

import math

from orchestrator.artifacts.server_report import ServerMeasurement
from orchestrator.artifacts.sizing import Sizing
from orchestrator.measure.knee import rungs
from orchestrator.steps.parameters import SelectParameters

__all__ = ["MEMORY_HEADROOM", "WITHOUT_LIMIT", "cost_per_million", "peak_cpus", "proven_rate", "sized"]

MEMORY_HEADROOM = 1.25
"""Above the measured peak: memory also grows with what allocators keep and with larger requests than the samples."""

WITHOUT_LIMIT = 0.8
"""Without a limit on the latency there is no knee, and a replica is given this fraction of its saturated throughput."""

_LEAST_MEMORY = 64 * 2**20
_LEAST_CPUS = 0.25
_LEAST_SECONDS = 5
_LONGEST = 3
"""The longest request while stopping, in terms of the longest that was measured."""

_DEFAULT_TARGET = 80
_LOWEST_TARGET, _HIGHEST_TARGET = 10, 90


def sized(server: ServerMeasurement | None, parameters: SelectParameters, *, shares_cpus: bool) -> Sizing:
    """The winner's sizes.

    Args:
        server: its measurements over the wire; None if only its runtime was measured, which says little about a server.
        parameters: of the selection, with the limits of `hardware`.
        shares_cpus: whether the load generator shared the server's CPUs.
    """
    limit = parameters.slo.p99_latency
    if server is None:
        return Sizing(
            memory_request=parameters.memory,
            cpu_request=parameters.cpus,
            longest_request=None,
            target_cpu_percent=_DEFAULT_TARGET,
            proven_rate=None,
            replicas=None,
            p99_limit=limit,
        )
    memory = _step_above(MEMORY_HEADROOM * server.peak_rss, _LEAST_MEMORY)
    peak = peak_cpus(server, shares_cpus=shares_cpus)
    cpus = parameters.cpus
    if peak is not None:
        # Without head-room, as less CPU time makes a server slower and does not end it.
        cpus = min(cpus, _step_above(peak, _LEAST_CPUS))
    rate, total = proven_rate(server), parameters.slo.total_throughput
    return Sizing(
        memory_request=min(parameters.memory, int(memory)),
        cpu_request=cpus,
        longest_request=_doubled(_LONGEST * server.longest_request, _LEAST_SECONDS),
        target_cpu_percent=_target(server, cpus),
        proven_rate=rate,
        replicas=None if total is None or rate is None else max(1, math.ceil(total / rate)),
        p99_limit=limit,
    )


def proven_rate(server: ServerMeasurement) -> float | None:
    """Requests per second that one replica is proven to hold, from a fixed series or `slo.throughput`; None if nothing is.

    With a limit on the latency it is the knee, without one `WITHOUT_LIMIT` of the saturated throughput.
    """
    wanted = server.slo.throughput
    asked = wanted.wanted if wanted is not None and wanted.met else None
    if server.slo.p99 is not None:
        knee = server.known_knee
        if knee is None:
            return None
        return knee.rate if knee.rate == asked else _series_below(knee.rate)
    if server.saturated is None:
        return asked
    return max(asked or 0.0, _series_below(WITHOUT_LIMIT * server.saturated.at_least))


def cost_per_million(server: ServerMeasurement, price_per_hour: float | None) -> float | None:
    """What a million requests cost on replicas that each answer what is proven; in the currency of the price.

    Args:
        server: the measurements of a replica.
        price_per_hour: of a replica; None if the spec does not say.
    """
    rate = proven_rate(server)
    return None if price_per_hour is None or rate is None else price_per_hour / 3600 / rate * 1e6


def peak_cpus(server: ServerMeasurement, *, shares_cpus: bool) -> float | None:
    """CPUs that the server used at saturation; None if that was not measured.

    Where the load generator shared the server's CPUs, what it used counts too: the server would have used it.
    """
    full = server.saturated
    if full is None or full.cpu_seconds_per_request is None:
        return None
    generator = full.generator_cpu_seconds_per_request if shares_cpus else 0.0
    return full.at_least * (full.cpu_seconds_per_request + generator)


def _target(server: ServerMeasurement, requested: float) -> int:
    """The CPU time at the knee in percent of what is requested, rounded down to tens."""
    if server.slo.p99 is not None:
        used = None if server.known_knee is None else server.known_knee.cpus
    else:
        peak = peak_cpus(server, shares_cpus=False)
        used = None if peak is None else WITHOUT_LIMIT * peak
    if not used:
        return _DEFAULT_TARGET
    return min(_HIGHEST_TARGET, max(_LOWEST_TARGET, int(10 * used / requested) * 10))


def _series_below(rate: float) -> float:
    """The largest rate of the series of `rungs` that is not above; the rate itself below a request in a thousand seconds."""
    return next(iter(rungs(rate / 2, rate)), rate)


def _step_above(value: float, least: float) -> float:
    """The smallest of `least` times 1, 1.5, 2, 3, 4, 6, 8, ... that is not below the value."""
    step = least
    while step < value:
        if 1.5 * step >= value:
            return 1.5 * step
        step *= 2
    return step


def _doubled(value: float, least: int) -> int:
    """The smallest of `least` times 1, 2, 4, ... that is not below the value."""
    step = least
    while step < value:
        step *= 2
    return step
