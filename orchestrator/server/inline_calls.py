"""Runs short model calls directly on the event loop.

For a small model, passing a call to another thread and back costs more than the call itself. A call on the event loop
blocks everything else, though, so only sizes that have been short so far run there. A call that turns out to be long (its
duration can depend on the input values) is stopped and repeated in the instance's thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from .datatypes import Array

__all__ = ["InlineCalls", "Stopped"]

_SHORT_S = 0.001
"""CPU time of the calling thread up to which a call is short; independent of the load on the machine."""

_STOP_S = 0.02
"""A call on the event loop is stopped after this time, or at most twice this time."""

_LONGEST_PAUSE_S = 60.0
_NEVER = float("inf")


class Stopped(Exception):
    """A call was stopped before it finished."""


class InlineCalls:
    """Learns which call sizes are short, runs calls on the event loop, and stops those that are not short.

    Used by one thread at a time: the one that makes the instance's calls.
    """

    def __init__(self, run: Callable[[Mapping[str, Array]], Mapping[str, Array]], stop: Callable[[], None]) -> None:
        """Start without known sizes.

        Args:
            run: calls the model; raises `Stopped` after `stop` was called.
            stop: stops the current call; can be called from any thread, also too late.
        """
        self._run = run
        self._stop = stop
        self._most = 0
        self._pause_s = 0.0
        self._resume = -_NEVER
        self._began = _NEVER
        self._called = threading.Event()
        self._watch: threading.Thread | None = None

    def fits(self, elements: int, now: float) -> bool:
        """Whether a call with this many input elements is known to be short."""
        return elements <= self._most and now >= self._resume

    def learn(self, elements: int, seconds: float, *, here: bool) -> None:
        """Record a finished call.

        Args:
            elements: number of input elements.
            seconds: the CPU time of the calling thread.
            here: whether it ran on the event loop. If it was not short, inline calls pause for a second, then twice as long
                each time up to a minute, until all calls have been short for a minute.
        """
        if seconds <= _SHORT_S:
            self._most = max(self._most, elements)
            return
        self._most = min(self._most, elements - 1)
        if here:
            now = time.monotonic()
            again = now - self._resume < _LONGEST_PAUSE_S
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S) if again else 1.0
            self._resume = now + self._pause_s

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """One call on the event loop.

        Raises:
            Stopped: it took too long.
        """
        if self._watch is None:
            # A daemon, because it has nothing to finish.
            self._watch = threading.Thread(target=self._watch_calls, name="inline-calls", daemon=True)
            self._watch.start()
        self._began = time.monotonic()
        if not self._called.is_set():
            self._called.set()
        try:
            return self._run(inputs)
        finally:
            self._began = _NEVER

    def _watch_calls(self) -> None:
        """Check the current call periodically, while there are calls."""
        while self._called.wait():
            self._called.clear()
            time.sleep(_STOP_S)
            while time.monotonic() - self._began > _STOP_S:
                self._stop()
                time.sleep(_STOP_S)
