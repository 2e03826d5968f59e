"""The live view of a run on a terminal: finished steps scroll up, running steps are below with time and progress."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from orchestrator.cli.progress import Tally, ended_line, queued_line, stopping_line, time_text
from orchestrator.events import Event, Observer, Queued, StepEnded, StepProgress, StepStarted, Stopping, Waiting
from orchestrator.visible import shown_line

__all__ = ["live_view"]

_ROOM = 40
"""Columns that a message needs beside its step's name; with fewer it is below."""


@dataclass(slots=True)
class _Running:
    began: float
    usual: float | None
    message: str
    fraction: float | None = None


@contextmanager
def live_view(*, show_cached: bool, deploys: bool) -> Iterator[Observer]:
    """The observer for the block, drawing on standard error."""
    console = Console(stderr=True)
    running: dict[str, _Running] = {}
    tally, began = Tally(deploys=deploys), time.monotonic()

    def draw() -> Group:
        return _draw(running, tally.text, time.monotonic() - began, console.width)

    with Live(console=console, refresh_per_second=8, transient=True, get_renderable=draw) as live:

        def observe(event: Event) -> None:
            tally.count(event)
            match event:
                case StepStarted(step, reason, usual):
                    running[step] = _Running(time.monotonic(), usual, reason)
                case StepProgress(step, message, fraction):
                    if step in running:
                        running[step].message, running[step].fraction = message, fraction
                case StepEnded():
                    running.pop(event.step, None)
                    if line := ended_line(event, show_cached=show_cached):
                        live.console.print(Text.from_ansi(shown_line(line)))
                case Waiting(step, on):
                    live.console.print(Text(shown_line(f"{step}: waiting for {on}")))
                case Queued():
                    live.console.print(Text(shown_line(queued_line(event))))
                case Stopping():
                    live.console.print(Text(stopping_line(event), style="yellow"))

        yield observe


def _draw(running: dict[str, _Running], overall: str, seconds: float, width: int) -> Group:
    now = time.monotonic()
    steps = list(running.items())
    below = width - max((len(step) for step, _ in steps), default=0) < _ROOM
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=not below)
    for step, at in steps:
        share = "" if at.fraction is None else f" {at.fraction:.0%}"
        message = Text(shown_line(f"{at.message}{share} ({time_text(now - at.began, at.usual)})"))
        name = Text(step, style="bold")
        cells: list[RenderableType] = [Group(name, message)] if below else [name, message]
        table.add_row(Spinner("dots"), *cells)
    return Group(table, Text(f"{overall}, {seconds:.0f} s", style="dim")) if overall else Group(table)
