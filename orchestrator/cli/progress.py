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
    StepStarted,
    Stopping,
    Waiting,
)

__all__ = ["lines", "watch"]

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
    return _Lines(show_cached=False)


@contextmanager
def watch(*, show_cached: bool) -> Iterator[Observer]:
    """The observer for the block: a live view on a terminal, plain lines elsewhere.

    Args:
        show_cached: whether cached steps get a line; not useful if everything is cached.
    """
    if console.wants_colour(sys.stderr):
        from orchestrator.cli.live_view import live_view  # noqa: PLC0415 - rich is slow to import

        with live_view(show_cached=show_cached) as observer:
            yield observer
        return
    yield _Lines(show_cached=show_cached)


class _Lines:
    """Plain lines; called from several threads."""

    def __init__(self, *, show_cached: bool) -> None:
        self._show_cached = show_cached
        self._last_shown: dict[str, float] = {}
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            if line := self._line(event):
                console.print_note(line)

    def _line(self, event: Event) -> str | None:
        match event:
            case StepStarted(step, reason):
                self._last_shown[step] = time.monotonic()
                return f"{step}: started ({reason})"
            case StepProgress(step, message, fraction):
                now = time.monotonic()
                if now - self._last_shown.get(step, 0.0) < _QUIET_SECONDS:
                    return None
                self._last_shown[step] = now
                return f"{step}: {message}" + ("" if fraction is None else f" ({fraction:.0%})")
            case StepEnded():
                return ended_line(event, show_cached=self._show_cached)
            case Waiting(step, on):
                return f"{step}: waiting for {on}"
            case Queued():
                return queued_line(event)
            case Stopping():
                return stopping_line(event)


def ended_line(event: StepEnded, *, show_cached: bool) -> str | None:
    """The line for a step that ended; None to omit it."""
    if event.status == "cached" and not show_cached:
        return None
    word, colour = _MARKS[event.status]
    seconds = f" in {event.seconds:.1f} s" if event.seconds >= 0.05 else ""
    detail = f": {event.detail}" if event.detail and event.status != "cached" else ""
    return f"{event.step}: {click.style(word, fg=colour)}{seconds}{detail}"


def queued_line(event: Queued) -> str:
    """The line for a step that waits for its turn on the machine."""
    other = "another measurement" if event.measurement else "steps of other runs, because it measures"
    return f"{event.step}: waits for {other}: {_ordinal(event.place)} in the queue; now: {event.holder}"


def _ordinal(number: int) -> str:
    teen = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def stopping_line(event: Stopping) -> str:
    """The line for Ctrl-C."""
    running = ", ".join(event.running)
    if event.level == 1 and running:
        return f"stopping: waiting for {running} (measurements stop at once); press Ctrl-C again to kill"
    return f"killing {running}" if running else "stopping"
