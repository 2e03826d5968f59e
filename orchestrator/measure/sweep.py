"""Measures several runtimes in interleaved rounds, so that drift of the machine affects all of them equally.

Each runs in its own process. First all are loaded and warmed up, one after the other; then the rounds follow. After a few
rounds, clearly dominated candidates are dropped, and the others share the remaining time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from statistics import fmean, median
from typing import Any

from orchestrator.artifacts.runtime_facts import RuntimeFacts
from orchestrator.artifacts.runtime_report import RuntimeFate
from orchestrator.diagnostics import Diagnostic
from orchestrator.machine.cpus import CpuShare
from orchestrator.measure.failure import NEEDS, MeasureError
from orchestrator.measure.runtime_candidates import RuntimeCandidate
from orchestrator.measure.session import MeasuredProcess
from orchestrator.measure.statistics import FEWEST_ROUNDS, settled
from orchestrator.steps.context import Ending

__all__ = ["NO_TIME", "Measurement", "SweepSettings", "WarmUp", "sweep"]

NO_TIME = "there was no time to load it"

_LOADED_AT_LEAST = 2
"""Candidates that are loaded whatever the time: one alone is compared with nothing."""

_LOAD = "load"
_SESSION = "orchestrator.frameworks.source.measure_session"
_ANSWER_TIMEOUT = 180.0
_COLD_CALLS = 10
_WINDOW_SECONDS = 0.04
_CALLS_AT_MOST = 500
_SHORTEST_CHUNK, _LONGEST_CHUNK = 0.005, 0.25
_USED = 0.7
"""The fraction of the remaining time that calls may take; the rest is for calls that end late and for what lies between."""


@dataclass(frozen=True, slots=True)
class SweepSettings:
    """How to measure.

    Attributes:
        batch_sizes: rows per call, ascending; (1,) for a model without a batch dimension.
        batched: whether the inputs have a batch dimension.
        share: the CPUs that the measured processes run on.
        memory: bytes that each of them may use.
        samples: the npz file with the samples.
        time_budget: seconds for everything; a round only starts if it would end in time.
        measuring: total seconds of all rounds for fast models; with slow models a round takes at least one call each.
        rounds: the maximum; the sign test needs six.
        screening: the number of rounds after which dominated candidates are dropped; 0 to drop none.
        dominated: a candidate is dominated if another of its backend is this many times faster at every batch size.
        warming: maximum seconds of warm-up per batch size.
        loading: the fraction of the time budget after which no other candidate is loaded, so that turns are left for those that are;
            the first two always are. Infinite: all are loaded, however long that takes.
    """

    batch_sizes: tuple[int, ...]
    batched: bool
    share: CpuShare
    memory: int
    samples: Path
    time_budget: float
    measuring: float = 12.0
    rounds: int = 12
    screening: int = 3
    dominated: float = 2.0
    warming: float = 0.6
    loading: float = inf


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How one batch size settled: the first calls (seconds), the means of the windows after them, and whether it did."""

    cold: tuple[float, ...]
    windows: tuple[float, ...]
    settled: bool


@dataclass(slots=True)
class Measurement:
    """The measurement of one candidate, or of the baseline; filled while measuring.

    Attributes:
        fate: `measured`, `dominated`, `out of memory` (not even the smallest batch fits) or `failed`.
        reason: for any other fate than `measured`, a sentence without a full stop.
        error: what failed, for the fates `out of memory` and `failed`.
        rows: the batch sizes that are still measured.
        samples: rows → round → seconds of each call.
        limited_by: why larger batch sizes are missing.
    """

    candidate: RuntimeCandidate
    rows: list[int]
    fate: RuntimeFate = "measured"
    reason: str = ""
    error: Diagnostic | None = None
    load_seconds: float | None = None
    facts: RuntimeFacts | None = None
    warm_up: dict[int, WarmUp] = field(default_factory=dict)
    samples: dict[int, dict[int, list[float]]] = field(default_factory=dict)
    peak: int = 0
    limited_by: str = ""

    @property
    def name(self) -> str:
        """The candidate's name."""
        return self.candidate.name


def sweep(
    candidates: Sequence[RuntimeCandidate],
    settings: SweepSettings,
    scratch: Path,
    progress: Callable[..., None],
) -> list[Measurement]:
    """Measure all candidates; if one fails, the others go on.

    Args:
        candidates: to measure, in this order.
        settings: how to measure.
        scratch: folder for the working directories and logs of the processes, one for each candidate.
        progress: called with what is being done and the completed fraction.

    Returns:
        One measurement for each candidate, in their order.
    """
    running = _Sweep(settings, scratch, progress)
    try:
        return running.run(candidates)
    finally:
        running.close()


class _Sweep:
    def __init__(self, settings: SweepSettings, scratch: Path, progress: Callable[..., None]) -> None:
        self._settings = settings
        self._scratch = scratch
        self._progress = progress
        self._processes: dict[str, MeasuredProcess] = {}
        self._deadline = time.monotonic() + settings.time_budget
        self._longest_call = settings.time_budget
        self._leads = ""

    def run(self, candidates: Sequence[RuntimeCandidate]) -> list[Measurement]:
        measurements = [Measurement(candidate, list(self._settings.batch_sizes)) for candidate in candidates]
        # The longest call with which warming up and enough rounds of all candidates fit into the budget.
        self._longest_call = self._settings.time_budget / (1 + FEWEST_ROUNDS) / max(1, len(measurements))
        self._fill_page_cache(measurements)
        for number, measured in enumerate(measurements):
            if number >= _LOADED_AT_LEAST and self._is_late():
                measured.fate, measured.reason = "not measured", NO_TIME
                continue
            self._progress(f"loading and warming up: {measured.name}", 0.5 * number / len(measurements))
            if self._opened(measured):
                self._warm(measured)
        self._take_rounds(measurements)
        for measured in measurements:
            if measured.name in self._processes:
                self._note_peak(measured)
        return measurements

    def _is_late(self) -> bool:
        """Whether the time for loading has passed."""
        settings = self._settings
        return time.monotonic() > self._deadline - (1 - settings.loading) * settings.time_budget

    def close(self) -> None:
        for process in self._processes.values():
            process.close()

    def _fill_page_cache(self, measurements: list[Measurement]) -> None:
        """Load the first model once without timing it; otherwise only its load time would include reading files from disk."""
        if len(measurements) < 2:
            return
        first = measurements[0]
        self._progress(f"reading the files of {first.name}", 0.0)
        with self._process(first) as process:
            try:
                process.ask(self._open_command(first), _ANSWER_TIMEOUT)
            except MeasureError:
                return  # it is loaded again, and then the failure is recorded

    def _process(self, measured: Measurement) -> MeasuredProcess:
        folder = self._scratch / measured.name
        return MeasuredProcess(_SESSION, self._settings.share, memory=self._settings.memory, folder=folder)

    def _open_command(self, measured: Measurement) -> dict[str, Any]:
        return {
            "do": "open",
            "opener": measured.candidate.opener,
            "arguments": dict(measured.candidate.arguments),
            "samples": str(self._settings.samples),
            "batched": self._settings.batched,
            "instances": measured.candidate.instances,
        }

    def _opened(self, measured: Measurement) -> bool:
        """Start the process and load the model; the load time of the first start is recorded."""
        process = self._process(measured)
        self._processes[measured.name] = process
        try:
            reply = process.ask(self._open_command(measured), _ANSWER_TIMEOUT)
        except MeasureError as error:
            self._fail(measured, _LOAD, error)
            return False
        if measured.load_seconds is None:
            measured.load_seconds, measured.facts = reply["seconds"], RuntimeFacts.from_json(reply["facts"])
        return True

    def _warm(self, measured: Measurement) -> None:
        for rows in list(measured.rows):
            if rows not in measured.rows:
                return  # a smaller size did not fit
            smaller = max(measured.warm_up, default=0)
            if smaller and _last_call(measured, smaller) * rows / smaller > self._longest_call:
                _leave_out(measured, rows)
                return
            cold = self._cold_times(measured, rows)
            if cold is None:
                return
            windows: list[float] = []
            ends = time.monotonic() + self._settings.warming - sum(cold)
            while not settled(windows) and time.monotonic() < ends:
                times = self._times(measured, rows, calls=_CALLS_AT_MOST, seconds=_WINDOW_SECONDS)
                if times is None:
                    return
                windows.append(fmean(times))
            measured.warm_up[rows] = WarmUp(tuple(cold), tuple(windows), settled(windows))

    def _cold_times(self, measured: Measurement, rows: int) -> list[float] | None:
        """Seconds of the first calls of a process; see `_times`."""
        return self._times(measured, rows, calls=_COLD_CALLS, seconds=self._settings.warming)

    def _take_rounds(self, measurements: list[Measurement]) -> None:
        settings = self._settings
        self._fit(measurements)
        longest = 0.0
        for number in range(settings.rounds):
            alive = [measured for measured in measurements if measured.fate == "measured"]
            begun = time.monotonic()
            if not alive or (number and begun + longest > self._deadline):
                return
            chunk = self._chunk(alive, settings.rounds - number)
            for turn, rows in enumerate(settings.batch_sizes):
                first = (number + turn) % len(alive)
                for measured in alive[first:] + alive[:first]:
                    self._take_turn(measured, rows, number, chunk)
            longest = max(longest, time.monotonic() - begun)
            self._leads = _leader(alive)
            if number + 1 == settings.screening:
                self._drop_dominated(alive)

    def _fit(self, measurements: list[Measurement]) -> None:
        """Leave out the largest batch sizes until enough rounds of the others fit into the remaining time."""
        alive = [measured for measured in measurements if measured.fate == "measured"]
        for largest in sorted(self._settings.batch_sizes, reverse=True)[:-1]:
            chunk = self._chunk(alive, self._settings.rounds)
            one = sum(chunk + _last_call(measured, rows) for measured in alive for rows in measured.rows)
            if time.monotonic() + min(FEWEST_ROUNDS, self._settings.rounds) * one <= self._deadline:
                return
            for measured in alive:
                if largest in measured.rows[1:]:
                    _leave_out(measured, largest)

    def _chunk(self, alive: list[Measurement], rounds_left: int) -> float:
        """Seconds of a turn. If time is short, turns are: many short rounds can be compared, few long ones cannot."""
        cells = sum(len(measured.rows) for measured in alive)
        left = _USED * (self._deadline - time.monotonic()) / max(1, rounds_left)
        share = min(self._settings.measuring / self._settings.rounds, left) / max(1, cells)
        return min(max(share, _SHORTEST_CHUNK), _LONGEST_CHUNK)

    def _take_turn(self, measured: Measurement, rows: int, number: int, chunk: float) -> None:
        if measured.fate != "measured" or rows not in measured.rows:
            return
        rounds = self._settings.rounds
        what = f"round {number + 1} of {rounds}, batch {rows}: {measured.name}{self._leads}"
        self._progress(what, 0.5 + 0.5 * number / rounds)
        # The other models have replaced the contents of the caches meanwhile, which does not happen to a busy server, so one
        # call is not timed. With long calls, of which few fit into a turn, that would cost more than it gains.
        untimed = int(_last_call(measured, rows) < chunk / 10)
        times = self._times(measured, rows, calls=_CALLS_AT_MOST, seconds=chunk, untimed=untimed)
        if times is not None:
            measured.samples.setdefault(rows, {})[number] = times

    def _times(
        self, measured: Measurement, rows: int, *, calls: int, seconds: float, untimed: int = 0
    ) -> list[float] | None:
        """Seconds of some calls; None if they failed, and then the measurement's fate or batch sizes are updated."""
        command = {"do": "run", "rows": rows, "calls": calls, "seconds": seconds, "untimed": untimed}
        try:
            times: list[float] = self._processes[measured.name].ask(command, _ANSWER_TIMEOUT)["seconds"]
        except MeasureError as error:
            if error.ending is Ending.MEMORY:
                self._shrink(measured, rows, error)
            else:
                self._fail(measured, f"batch {rows}", error)
            return None
        return times

    def _shrink(self, measured: Measurement, rows: int, error: MeasureError) -> None:
        """So many rows do not fit into memory: go on with fewer in a new process, or end."""
        self._note_peak(measured)
        measured.rows = [size for size in measured.rows if size < rows]
        where = f"batch {rows}"
        measured.limited_by = _at(where, error).sentence
        for size in [size for size in measured.samples if size >= rows]:
            del measured.samples[size]
        if not measured.rows:
            self._fail(measured, where, error)
            return
        self._processes[measured.name].close()
        # The peak of the killed process says nothing about the memory that smaller sizes need.
        measured.peak = 0
        if self._opened(measured):
            for size in tuple(measured.rows):
                if measured.fate == "measured" and size in measured.rows:
                    self._cold_times(measured, size)

    def _drop_dominated(self, alive: list[Measurement]) -> None:
        for measured in alive:
            peers = [
                other
                for other in alive
                if other is not measured
                and other.fate == "measured"
                and measured.candidate.backend
                and other.candidate.backend == measured.candidate.backend
            ]
            for other in peers:
                least = _times_slower(measured, other)
                if least is not None and least >= self._settings.dominated:
                    reason = (
                        f"dropped after {self._settings.screening} rounds: it takes at least {least:.1f} times as long as "
                        f"{other.name} at every batch size"
                    )
                    self._end(measured, "dominated", reason)
                    break

    def _fail(self, measured: Measurement, where: str, error: MeasureError) -> None:
        measured.error = _at(where, error)
        self._end(measured, error.fate, measured.error.sentence)

    def _end(self, measured: Measurement, fate: RuntimeFate, reason: str) -> None:
        self._note_peak(measured)
        measured.fate, measured.reason = fate, reason
        self._processes[measured.name].close()

    def _note_peak(self, measured: Measurement) -> None:
        measured.peak = max(measured.peak, self._processes[measured.name].peak)


def _leader(alive: Sequence[Measurement]) -> str:
    """What leads so far among the candidates, by the time of a call with their smallest batch, for people; empty if nothing does."""
    seconds = {
        measured.name: median(_pooled(measured, min(measured.samples)))
        for measured in alive
        if measured.fate == "measured" and measured.candidate.backend and measured.samples
    }
    if len(seconds) < 2:
        return ""
    leads = min(seconds, key=lambda name: seconds[name])
    return f"; {leads} leads with {1000 * seconds[leads]:.3g} ms"


def _leave_out(measured: Measurement, rows: int) -> None:
    measured.rows = [size for size in measured.rows if size < rows]
    measured.limited_by = f"batch {rows} was skipped: it would have left no time for {FEWEST_ROUNDS} rounds"


def _at(where: str, error: MeasureError) -> Diagnostic:
    """The failure with what was being done: `it needs at least 412 MiB at batch 4`; smaller batches do not help at load."""
    message = error.diagnostic.message
    if where != _LOAD or error.fate != "out of memory":
        return replace(error.diagnostic, message=f"{message} at {where}")
    return replace(
        error.diagnostic,
        message=f"{message} {'to' if NEEDS in message else 'at'} {where}",
        remedy="raise `hardware.memory`",
    )


def _last_call(measured: Measurement, rows: int) -> float:
    """The approximate duration of a call, seconds: the mean of the last window, or the last cold call."""
    warm_up = measured.warm_up[rows]
    return warm_up.windows[-1] if warm_up.windows else warm_up.cold[-1]


def _times_slower(measured: Measurement, other: Measurement) -> float | None:
    """How many times as long it takes as the other, at the batch size where it compares best.

    None if there is nothing to compare, or if it was measured at a batch size that the other was not.
    """
    if not measured.samples.keys() <= other.samples.keys():
        return None
    ratios = [median(_pooled(measured, rows)) / median(_pooled(other, rows)) for rows in measured.samples]
    return min(ratios, default=None)


def _pooled(measured: Measurement, rows: int) -> list[float]:
    return [seconds for chunk in measured.samples[rows].values() for seconds in chunk]
