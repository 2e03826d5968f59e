"""Ctrl-C: once to stop soon, twice to stop now."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stop", "stop_on_signals"]


class Stop:
    """Whether somebody asked to stop: 0 no, 1 start nothing more, 2 kill what runs."""

    def __init__(self) -> None:
        self._level = 0
        self._asked = threading.Event()

    @property
    def level(self) -> int:
        """How urgently."""
        return self._level

    def ask(self) -> int:
        """Ask once more; returns the new level."""
        self._level = min(2, self._level + 1)
        self._asked.set()
        return self._level


@contextmanager
def stop_on_signals(stop: Stop, told: Callable[[int], None]) -> Iterator[None]:
    """Within the block SIGINT asks `stop` (SIGTERM at once to kill), and `told` hears the level.

    Only the main thread can do this; elsewhere the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(number: int, frame: FrameType | None) -> None:
        del frame
        level = stop.ask()
        if number == signal.SIGTERM and level < 2:
            level = stop.ask()
        told(level)

    before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
