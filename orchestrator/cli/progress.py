"""Progress of a run: plain lines, or a live view on a terminal. Always on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from orchestrator.cli import console
from orchestrator.events import (
    Event,
    Observer,
    Queued,
    StepEnded,
    StepProgress,
    StepsPlanned,
    StepStarted,
    Stopping,
    Waiting,
)

__all__ = ["Tally", "ended_line", "lines", "queued_line", "stopping_line", "time_text", "watch"]

_MARKS = {
    "done": ("done", "green"),
    "cached": ("cached", None),
    "failed": ("failed", "red"),
    "skipped": ("skipped", "yellow"),
    "stopped": ("stopped", "yellow"),
}
_QUIET_SECONDS = 5.0
"""Minimum time between progress lines of a step."""


def lines() -> Observer:
    """Plain lines, also on a terminal, for runs too short for a live view."""
    return _Lines(show_cached=False, deploys=False)


@contextmanager
def watch(*, show_cached: bool, deploys: bool = False) -> Iterator[Observer]:
    """The observer for the block: a live view on a terminal, plain lines elsewhere.

    Args:
        show_cached: whether cached steps get a line; not useful if everything is cached.
        deploys: whether the steps of a deployment are run too.
    """
    if console.wants_colour(sys.stderr):
        from orchestrator.cli.live_view import live_view  # noqa: PLC0415 - rich is slow to import

        with live_view(show_cached=show_cached, deploys=deploys) as observer:
            yield observer
        return
    yield _Lines(show_cached=show_cached, deploys=deploys)


class Tally:
    """How many of a run's steps have ended.

    Args:
        deploys: whether the steps of a deployment are run too.
    """

    def __init__(self, *, deploys: bool) -> None:
        self._deploys = deploys
        self._planned: frozenset[str] = frozenset()
        self._ended: set[str] = set()

    def count(self, event: Event) -> None:
        """Take note of an event."""
        match event:
            case StepsPlanned(steps, live):
                self._planned = steps | live if self._deploys else steps
            case StepEnded():
                self._ended.add(event.step)

    @property
    def text(self) -> str:
        """`3 of 14 steps`; empty while there is no plan."""
        ended = len(self._ended & self._planned)
        return f"{ended} of {len(self._planned)} steps" if self._planned else ""


class _Lines:
    """Plain lines; called from several threads."""

    def __init__(self, *, show_cached: bool, deploys: bool) -> None:
        self._show_cached = show_cached
        self._tally = Tally(deploys=deploys)
        self._began: dict[str, tuple[float, float | None]] = {}
        self._last_shown: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._tally.count(event)
            if line := self._line(event):
                console.print_note(line)

    def _line(self, event: Event) -> str | None:
        match event:
            case StepStarted(step, reason, usual):
                now = time.monotonic()
                self._last_shown[step], self._began[step] = now, (now, usual)
                took = "" if usual is None or usual < _QUIET_SECONDS else f"; it took {usual:.0f} s the last time"
                return f"{step}: started ({reason}){took}"
            case StepProgress(step, message, fraction):
                now = time.monotonic()
                if now - self._last_shown.get(step, 0.0) < _QUIET_SECONDS:
                    return None
                self._last_shown[step] = now
                share = [] if fraction is None else [f"{fraction:.0%}"]
                if step in self._began:
                    began, usual = self._began[step]
                    share.append(time_text(now - began, usual))
                return f"{step}: {message}" + (f" ({', '.join(share)})" if share else "")
            case StepEnded():
                return ended_line(event, show_cached=self._show_cached, overall=self._tally.text)
            case Waiting(step, on):
                return f"{step}: waiting for {on}"
            case Queued():
                return queued_line(event)
            case Stopping():
                return stopping_line(event)
            case StepsPlanned():
                return None


def time_text(seconds: float, usual: float | None) -> str:
    """How long a step has been running, and how long it still takes if it takes as long as the last time.

    Args:
        seconds: since it began.
        usual: seconds that it took the last time; None if that is not known. Then nothing is guessed: how far a step is says
            little about its time, because its parts differ.
    """
    if usual is None or usual < _QUIET_SECONDS:
        return f"{seconds:.0f} s"
    if seconds > usual:
        return f"{seconds:.0f} s; the last time it took {usual:.0f} s"
    return f"{seconds:.0f} s, about {usual - seconds:.0f} s left"


def ended_line(event: StepEnded, *, show_cached: bool, overall: str = "") -> str | None:
    """The line for a step that ended; None to omit it.

    Args:
        event: its end.
        show_cached: whether a cached step gets a line.
        overall: how many steps have ended.
    """
    if event.status == "cached" and not show_cached:
        return None
    word, colour = _MARKS[event.status]
    seconds = f" in {event.seconds:.1f} s" if event.seconds >= 0.05 else ""
    detail = f": {event.detail}" if event.detail and event.status != "cached" else ""
    of = f" ({overall})" if overall else ""
    return f"{event.step}: {click.style(word, fg=colour)}{seconds}{of}{detail}"


def queued_line(event: Queued) -> str:
    """The line for a step that waits for its turn on the machine."""
    other = "another measurement" if event.measurement else "steps of other runs, because it measures"
    now = f"; now: {event.holder}" if event.holder else ""
    return f"{event.step}: waits for {other}: {_ordinal(event.place)} in the queue{now}"


def _ordinal(number: int) -> str:
    teen = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def stopping_line(event: Stopping) -> str:
    """The line for Ctrl-C."""
    running = ", ".join(event.running)
    if event.level == 1 and running:
        return f"stopping: waiting for {running} (measurements stop at once); press Ctrl-C again to kill"
    return f"killing {running}" if running else "stopping"
