"""Progress events of the engine: plain values, which `cli` turns into lines or a live view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Event",
    "Observer",
    "Queued",
    "StepEnded",
    "StepProgress",
    "StepStarted",
    "StepsPlanned",
    "Stopping",
    "Waiting",
    "ignore",
]


@dataclass(frozen=True, slots=True)
class StepsPlanned:
    """The steps of the run, once at its beginning and again whenever the plan has grown.

    Attributes:
        steps: their ids, without those of `live`.
        live: ids of the steps that only a deployment runs.
    """

    steps: frozenset[str]
    live: frozenset[str]


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A worker was started for this step.

    Attributes:
        usual: how long it took the last time, seconds; None if that is not known.
    """

    step: str
    reason: str
    usual: float | None = None


@dataclass(frozen=True, slots=True)
class StepProgress:
    """Progress reported by a step; fraction in [0, 1] or None."""

    step: str
    message: str
    fraction: float | None


@dataclass(frozen=True, slots=True)
class StepEnded:
    """A step ended; `seconds` is 0 for cached and skipped steps."""

    step: str
    status: Literal["done", "cached", "failed", "skipped", "stopped"]
    seconds: float
    detail: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """Another command computes this step, or holds a lock that it needs."""

    step: str
    on: str


@dataclass(frozen=True, slots=True)
class Queued:
    """This step waits for its turn on the machine, because one step measures at a time, and nothing runs meanwhile.

    Attributes:
        place: in the queue; 1 is next.
        measurement: whether it waits for a measurement; otherwise it is one, and waits for other steps to end.
        holder: the process that measures now; empty if none does.
    """

    step: str
    place: int
    measurement: bool
    holder: str


@dataclass(frozen=True, slots=True)
class Stopping:
    """Ctrl-C was pressed: level 1 lets running steps finish, level 2 kills them."""

    level: int
    running: tuple[str, ...]


Event = StepsPlanned | StepStarted | StepProgress | StepEnded | Waiting | Queued | Stopping
Observer = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An observer that ignores all events."""
    del event
