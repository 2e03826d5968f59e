"""Two servers that take real traffic, compared: asked in turns, a few requests at a time, so that what disturbs one disturbs both.

Each round asks both over one connection, one request after the other, in an order that changes with each round. Rounds are spread over
the time that is given, with pauses, so that the load is small beside the traffic. Two rules tell that the new server is worse, both
without an assumption about the distribution:

- its calls take longer: the interval of the ratio of both medians over the rounds (`statistics.compare_rounds`) lies above what is
  allowed;
- its tail is slower: the intervals of both 99th percentiles (`statistics.percentile_interval`) are further apart than that, and the
  interval of the ratio of the rounds' own 99th percentiles lies above 1. For what slows a node down for a moment makes many calls of
  one round slow, which are not independent of each other.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator.machine.cpus import cpu_share, usable_cpus
from orchestrator.measure.certificate import Trust
from orchestrator.measure.requests import open_requests
from orchestrator.measure.session import MeasuredProcess
from orchestrator.measure.statistics import (
    FEWEST_ROUNDS,
    Comparison,
    compare_rounds,
    percentile,
    percentile_interval,
)

__all__ = ["Allowed", "Asked", "Compared", "Disturbed", "compared", "measure_side_by_side", "worse"]

_ROUNDS = 12
_SEGMENT = 0.5
"""Seconds for which one server is asked in a round, at most; a twentieth of the whole time together with the other one."""
_ANSWERS = 4
"""Of a segment at least, whatever time they take; the first one is not counted if there are others."""
_AT_MOST = 10.0
"""Seconds after which a segment ends, even with fewer answers."""
_TIMEOUT = 30.0
_ANY = Trust(pem=None, pinned=True)
"""Golden requests have just been answered on the same way, and have checked the certificate as the target wants it."""
_LOOK = 2.0
"""Seconds between two looks while nothing is asked."""
_PAUSE = 1.0
"""Seconds after a round that was disturbed."""
_DISTURBED = 5
"""Rounds in a row that may be disturbed on the way."""


class Disturbed(Exception):
    """The servers could not be compared: the way to them is disturbed; the message says what was seen."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A server and what it is asked.

    Attributes:
        port: on this machine.
        requests: whole HTTP requests, sent in turn.
        tls: whether it speaks TLS.
    """

    port: int
    requests: Sequence[bytes]
    tls: bool


@dataclass(frozen=True, slots=True)
class Allowed:
    """How many times the calls and the 99th percentile of the new server may take as long as those of the old one."""

    call: float
    p99: float


@dataclass(frozen=True, slots=True)
class Compared:
    """What both answered, seconds.

    Attributes:
        new, old: the latencies of good answers; without the first of each connection, which also opens the way there,
            unless it is the only one.
        call: the medians of the rounds, new against old; None if a server has not answered in any.
        tail: the same of the 99th percentiles of the rounds.
        new_failed, old_failed: why a request had no good answer → how many.
    """

    new: tuple[float, ...]
    old: tuple[float, ...]
    call: Comparison | None
    tail: Comparison | None
    new_failed: Mapping[str, int]
    old_failed: Mapping[str, int]

    @property
    def text(self) -> str:
        """One clause for people."""
        if not self.new or not self.old:
            return f"{len(self.new)} answers"
        low, high = (percentile(self.new, quantile) for quantile in (0.5, 0.99))
        old_low, old_high = (percentile(self.old, quantile) for quantile in (0.5, 0.99))
        return (
            f"p50 {_ms(low)} against {_ms(old_low)}, p99 {_ms(high)} against {_ms(old_high)},"
            f" of {len(self.new):,} and {len(self.old):,} answers"
        )


def worse(seen: Compared, allowed: Allowed) -> str:
    """Why the new server is worse beyond doubt, a clause; empty if it is not."""
    if seen.new_failed:
        count = sum(seen.new_failed.values())
        why = max(seen.new_failed, key=lambda text: seen.new_failed[text])
        too = f"; of the old one's, {sum(seen.old_failed.values())} failed as well" if seen.old_failed else ""
        return f"{count} of {count + len(seen.new)} requests failed, such as: {why}{too}"
    if seen.call is not None and seen.call.low > allowed.call:
        return (
            f"its calls take {seen.call.ratio:.2f} times as long, at least {seen.call.low:.2f} times at 95 % confidence,"
            f" and {allowed.call:.2f} times are allowed"
        )
    if seen.tail is not None and seen.tail.slower:
        new, old = percentile_interval(seen.new, 0.99)[0], percentile_interval(seen.old, 0.99)[1]
        if old is not None and new > allowed.p99 * old:
            return (
                f"its p99 is at least {_ms(new)}, and that of the other one at most {_ms(old)}, each at 95 % confidence;"
                f" {allowed.p99:.2f} times are allowed"
            )
    return ""


def compared(
    rounds: Sequence[tuple[Sequence[float], Sequence[float]]], failed: Sequence[Mapping[str, int]]
) -> Compared:
    """The rounds together.

    Args:
        rounds: the latencies of both servers, the new one's first.
        failed: of both, reason → number.
    """
    whole = [(new, old) for new, old in rounds if new and old]

    def by_rounds(what: Callable[[Sequence[float]], float]) -> Comparison | None:
        return compare_rounds([what(new) for new, _ in whole], [what(old) for _, old in whole]) if whole else None

    return Compared(
        tuple(each for new, _ in rounds for each in new),
        tuple(each for _, old in rounds for each in old),
        by_rounds(median),
        by_rounds(lambda latencies: percentile(latencies, 0.99)),
        dict(failed[0]),
        dict(failed[1]),
    )


def measure_side_by_side(
    new: Asked,
    old: Asked | None,
    folder: Path,
    seconds: float,
    look: Callable[[], None],
    progress: Callable[[float, Compared], None],
    lost: Callable[[], int] = lambda: 0,
) -> Compared:
    """Ask both servers in turns for a time.

    It takes longer where six rounds do, because fewer tell nothing. It ends early once a request to the new server has failed. A round
    in which a request failed while connections were lost on the way does not count, and is repeated.

    Args:
        new: the new server.
        old: the one that it is compared with; None if it cannot be asked.
        folder: a scratch folder.
        seconds: how long.
        look: called every two seconds, and between rounds; what it raises is raised.
        progress: is called with the seconds that are left and what was measured until then.
        lost: how many connections were lost on the way until now, through no fault of a server.

    Raises:
        Disturbed: five rounds in a row were disturbed on the way.
        MeasureError: the load generator failed.
    """
    asked = [each for each in (new, old) if each is not None]
    rounds: list[tuple[Sequence[float], Sequence[float]]] = []
    failed: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    with ExitStack() as stack:
        generators = [stack.enter_context(_generator(folder / str(number), each)) for number, each in enumerate(asked)]
        begun = time.monotonic()
        segment, disturbed = min(_SEGMENT, seconds / (4 * _ROUNDS)), 0
        while not failed[0] and (len(rounds) < FEWEST_ROUNDS or time.monotonic() < begun + seconds):
            _pause(min(begun + seconds, begun + len(rounds) * seconds / _ROUNDS), look)
            look()
            order = list(range(len(asked)))
            latencies: list[Sequence[float]] = [(), ()]
            missed: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
            before = lost()
            for number in order if len(rounds) % 2 else reversed(order):
                reply = _segment(generators[number], asked[number], segment)
                # Of calls that fill a whole segment there is only the first.
                latencies[number] = reply["latencies"][1:] or reply["latencies"]
                missed[number].update(reply["errors"])
                missed[number].update(reply["refused"])
            if any(missed) and lost() > before:
                disturbed += 1
                if disturbed == _DISTURBED:
                    raise Disturbed(f"{disturbed} rounds in a row, such as: {next(iter(missed[0] or missed[1]))}")
                time.sleep(_PAUSE)
                continue
            disturbed = 0
            for all_, new_ones in zip(failed, missed, strict=True):
                all_.update(new_ones)
            rounds.append((latencies[0], latencies[1]))
            progress(max(0.0, begun + seconds - time.monotonic()), compared(rounds, failed))
    return compared(rounds, failed)


def _pause(until: float, look: Callable[[], None]) -> None:
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(_LOOK, left))
        if left > _LOOK:
            look()


def _generator(folder: Path, asked: Asked) -> MeasuredProcess:
    process = MeasuredProcess("orchestrator.measure.load", cpu_share(usable_cpus()), memory=None, folder=folder)
    try:
        open_requests(process, folder, "json", asked.requests, _ANY if asked.tls else None)
    except BaseException:
        process.close()
        raise
    return process


def _segment(process: MeasuredProcess, asked: Asked, seconds: float) -> dict[str, Any]:
    command = {"do": "saturate", "wire": "json", "port": asked.port, "timeout": _TIMEOUT, "connections": 1}
    limits = {"seconds": seconds, "answers": _ANSWERS, "at_most": _AT_MOST}
    return process.ask(command | limits, 2 * _TIMEOUT + _AT_MOST)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"
