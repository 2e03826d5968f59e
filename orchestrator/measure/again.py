"""Measures servers again where other processes disturbed the measurement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.measure.server_rounds import LoadedServer, LoadSettings, failed, interim_level, schedule

__all__ = ["measure_again"]

_ROUNDS = 8
_SHARE = 0.5
"""Segments are measured again in so many rounds at most, and in this part of the time that is left."""

_SEED = 2000
"""The schedules differ from those of the first rounds and of the knee."""


def measure_again(
    servers: Sequence[LoadedServer], settings: LoadSettings, rate: float, progress: Callable[..., None]
) -> None:
    """Repeat scheduled segments that were disturbed, until the limit is decided, none is disturbed, or the time is used up.

    Which one is repeated, and which of the two is kept, depends on what other processes used and not on the latencies:
    otherwise repeating would favour fast answers. While one server is undecided, those that meet the limit are repeated too: the
    servers will be compared. A request that fails in a repetition fails the server, as any other.

    Args:
        servers: after the rounds.
        settings: of the load; without a limit on the latency, nothing is repeated.
        rate: of the rounds, requests per second.
        progress: called before every segment.
    """
    if settings.p99_limit is None:
        return
    ends = settings.clock() + _SHARE * settings.left()
    for number in range(_ROUNDS):
        able = [loaded for loaded in servers if loaded.fate == "measured" and loaded.level != "missed"]
        if not any(_undecided_beside_others(loaded) for loaded in able):
            return
        turns = [_repeat(loaded, settings, rate, ends, _SEED + number, progress) for loaded in able]
        for loaded in able:
            loaded.level = interim_level(loaded, settings.p99_limit)
        if not any(turns):
            return


def _undecided_beside_others(loaded: LoadedServer) -> bool:
    return loaded.level == "inconclusive" and any(segment.disturbed for segment in loaded.scheduled)


def _repeat(
    loaded: LoadedServer, settings: LoadSettings, rate: float, ends: float, seed: int, progress: Callable[..., None]
) -> bool:
    """Repeat the segment that was disturbed most; False if there is none, or no time for it."""
    place = max(range(len(loaded.scheduled)), key=lambda each: loaded.scheduled[each].others or 0.0, default=None)
    if place is None or not (before := loaded.scheduled[place]).disturbed:
        return False
    if settings.clock() + before.seconds > ends:
        return False
    progress(f"measuring again what other processes disturbed: {loaded.candidate}", 0.99)
    segment = schedule(loaded, rate, len(before.latencies) + sum(before.refused.values()), seed)
    if segment is None or failed(loaded, segment):
        return False
    loaded.again += 1
    if (segment.others or 0.0) < (before.others or 0.0):
        loaded.scheduled[place] = segment
    return True
