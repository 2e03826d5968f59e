"""Calls of the model that are so short that the event loop makes them itself.

Handing a call to another thread and its answer back costs more than a small model does. A call on the event loop keeps
everything else waiting, though, so it is made there only if calls of that size have been short, and it is stopped and made
anew in the instance's thread where it turns out not to be: how long a call takes can depend on the values that it is given.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from .datatypes import Array

__all__ = ["Brief", "Stopped"]

_SHORT_S = 0.001
"""CPU time of the calling thread below which a call is short; it is the same however busy the machine is."""

_STOP_S = 0.02
"""A call on the event loop that has taken this long is stopped within as much again."""

_LONGEST_PAUSE_S = 60.0
_NEVER = float("inf")


class Stopped(Exception):
    """A call was stopped before it was done."""


class Brief:
    """Which calls are short, learned from those that have been made; and who stops those that are not.

    Belongs to whoever makes the instance's calls, which is one thread at a time.
    """

    def __init__(self, run: Callable[[Mapping[str, Array]], Mapping[str, Array]], stop: Callable[[], None]) -> None:
        """Know of no short call yet.

        Args:
            run: the model; raises `Stopped` once `stop` was called.
            stop: ends the call that is being made; may be called by any thread, and too late.
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
        """Whether a call with so many elements in its inputs is short."""
        return elements <= self._most and now >= self._resume

    def learn(self, elements: int, seconds: float, *, here: bool) -> None:
        """A call has been made.

        Args:
            elements: of its inputs.
            seconds: the CPU time of the calling thread.
            here: whether it was made on the event loop. If it was not short, no call is for a second, and twice as long
                each time up to a minute, until all have been short for a minute.
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
            # A daemon: it has nothing to finish.
            self._watch = threading.Thread(target=self._watch_calls, name="brief", daemon=True)
            self._watch.start()
        self._began = time.monotonic()
        if not self._called.is_set():
            self._called.set()
        try:
            return self._run(inputs)
        finally:
            self._began = _NEVER

    def _watch_calls(self) -> None:
        """Look at the call that is being made now and then, as long as there are any."""
        while self._called.wait():
            self._called.clear()
            time.sleep(_STOP_S)
            while time.monotonic() - self._began > _STOP_S:
                self._stop()
                time.sleep(_STOP_S)
