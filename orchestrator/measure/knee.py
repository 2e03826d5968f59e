"""Finds the knee of a server: the largest rate at which the limit on its latency is proven to be held."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from orchestrator.artifacts.measurement import rate_text
from orchestrator.measure.server_rounds import FoundKnee, LoadedServer, LoadSettings, p99_test, schedule
from orchestrator.measure.statistics import quantile_test, samples_to_meet

__all__ = ["find_knees", "rungs"]

_TRIED = 6
"""At most so many rates are tried: the largest, and by bisection those below it; they find one among 32, a factor of 1,600."""

_CONFIDENCE = 1 - 0.01 / _TRIED
"""Of each test, so that a limit that is missed at all of the rates passes one of them at most once in a hundred times."""

_FEWEST = samples_to_meet(0, confidence=_CONFIDENCE)
_REQUESTS = 2 * _FEWEST
"""Twice what no slow answer needs, so that a few may be slow."""

_SECONDS = 2.0
"""A rate is held for so long at least, so that a growing queue is seen."""

_MOST = 20_000
_BELOW_SATURATION = 0.9
"""The search begins below this fraction of the saturated throughput; above it every queue grows without end."""

_SHARE = 0.2
"""The part of the remaining time that the search may take, for all servers together."""

_SEED = 1000
"""The schedules differ from those of the rounds."""


def rungs(least: float, most: float) -> list[float]:
    """The rates between two rates, the largest first: Renard's series R10 (ISO 3), ten to the tenth power of each integer.

    They do not depend on what was measured, so that measuring again mostly finds the same one.

    Args:
        least: exclusive, requests per second.
        most: inclusive.
    """
    if least <= 0 or most <= least:
        return []
    exponents = range(math.floor(10 * math.log10(least)), math.ceil(10 * math.log10(most)) + 1)
    rates = [float(f"{10 ** (exponent / 10):.3g}") for exponent in exponents]
    return [rate for rate in reversed(rates) if least < rate <= most]


def find_knees(
    servers: Sequence[LoadedServer], settings: LoadSettings, rate: float, progress: Callable[..., None]
) -> None:
    """Find the knee of each server that holds the limit at the rate of the rounds; sets `knee`, or `no_knee` to the reason.

    Args:
        servers: after the rounds.
        settings: of the load; without a limit on the latency, nothing is searched.
        rate: of the rounds, requests per second.
        progress: called before every rate.
    """
    limit = settings.p99_limit
    if limit is None:
        return
    ends = settings.clock() + _SHARE * settings.left()
    able = [loaded for loaded in servers if loaded.fate == "measured" and loaded.scheduled]
    for number, loaded in enumerate(able):
        level = p99_test(loaded, limit)
        if level.status != "met":
            loaded.no_knee = f"it is not proven that it holds the limit at {rate_text(rate)}/s"
            continue
        seconds = sum(segment.seconds for segment in loaded.scheduled)
        used = sum(segment.cpu_seconds for segment in loaded.scheduled) / seconds
        turn_ends = settings.clock() + max(0.0, ends - settings.clock()) / (len(able) - number)
        _search(loaded, settings, limit, FoundKnee(rate, level, loaded.latencies, used), turn_ends, progress)


def _search(
    loaded: LoadedServer,
    settings: LoadSettings,
    limit: float,
    known: FoundKnee,
    ends: float,
    progress: Callable[..., None],
) -> None:
    """Set `knee` to the largest rate above a known one that is proven, as far as the time allows."""
    reached = sum(s.answered for s in loaded.saturated) / max(1e-9, sum(s.seconds for s in loaded.saturated))
    rates = rungs(known.rate, _BELOW_SATURATION * reached)
    # Those before `first` are not proven, that at `last` and those behind it are. The largest comes first, as many servers hold it.
    first, last = 0, len(rates)
    for number in range(_TRIED + 1):
        if first == last:
            break
        chosen = (first + last) // 2 if number else 0
        each = rates[chosen]
        left = ends - settings.clock()
        affordable = int(left * each)
        if number == _TRIED or affordable < _FEWEST or left < _SECONDS:
            why = f"{_TRIED} rates were tried" if number == _TRIED else "there was no more time for it"
            known = replace(known, unsearched=why)
            break
        progress(f"{rate_text(each)} requests per second: {loaded.candidate}", 0.99)
        requests = max(_REQUESTS, min(_MOST, math.ceil(_SECONDS * each)))
        segment = schedule(loaded, each, min(requests, affordable), _SEED + number)
        if segment is None:
            break
        latencies = segment.latencies + [math.inf] * sum(segment.refused.values())
        test = quantile_test(latencies, limit, confidence=_CONFIDENCE)
        if test.status == "met" and not segment.errors:
            last = chosen
            known = FoundKnee(each, test, latencies, segment.cpu_seconds / segment.seconds)
        else:
            first = chosen + 1
    loaded.knee = known
