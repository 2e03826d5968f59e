"""Ctrl-C: once to stop soon, twice to stop now."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Stop", "stop_on_signals"]


class Stop:
    """Whether a stop was requested: 0 no, 1 start nothing more, 2 kill running steps.

    Attributes:
        announced: the level that was announced to the user; running steps are ended only then, so that the reason is shown first.
        cause: what requested it: Ctrl-C, or SIGTERM, as a pipeline sends it to a job that it cancels.
    """

    def __init__(self) -> None:
        self._level = 0
        self.announced = 0
        self.cause = "Ctrl-C"

    @property
    def level(self) -> int:
        """How urgently."""
        return self._level

    def ask(self) -> int:
        """Ask once more; returns the new level."""
        self._level = min(2, self._level + 1)
        return self._level

    def end_now(self) -> None:
        """End running steps without an announcement, because an error that will be shown ends the run."""
        self._level = self.announced = 2


@contextmanager
def stop_on_signals(stop: Stop) -> Iterator[None]:
    """Within the block, SIGINT calls `stop.ask`, and SIGTERM requests an immediate kill.

    The handler does nothing else, because it runs between any two instructions of the main thread, which may hold a lock or
    be printing. Only the main thread can set handlers; elsewhere the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupted(number: int, frame: FrameType | None) -> None:
        del frame
        stop.ask()
        if number == signal.SIGTERM:
            stop.cause = "SIGTERM"
            stop.ask()

    before = {number: signal.signal(number, interrupted) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
