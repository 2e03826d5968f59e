"""The live view of a run on a terminal: finished steps scroll up, running steps are below with time and progress."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from orchestrator.cli.progress import ended_line, queued_line, stopping_line
from orchestrator.cli.visible import shown_line
from orchestrator.events import Event, Observer, Queued, StepEnded, StepProgress, StepStarted, Stopping, Waiting

__all__ = ["live_view"]


@dataclass(slots=True)
class _Running:
    began: float
    message: str
    fraction: float | None = None


@contextmanager
def live_view(*, show_cached: bool) -> Iterator[Observer]:
    """The observer for the block, drawing on standard error."""
    console = Console(stderr=True)
    running: dict[str, _Running] = {}
    with Live(console=console, refresh_per_second=8, transient=True, get_renderable=lambda: _draw(running)) as live:

        def observe(event: Event) -> None:
            match event:
                case StepStarted(step, reason):
                    running[step] = _Running(time.monotonic(), reason)
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


def _draw(running: dict[str, _Running]) -> Group:
    table = Table.grid(padding=(0, 1))
    for step, at in list(running.items()):
        seconds = time.monotonic() - at.began
        left = f", about {seconds / at.fraction - seconds:.0f} s left" if at.fraction and at.fraction > 0.05 else ""
        share = "" if at.fraction is None else f" {at.fraction:.0%}"
        table.add_row(
            Spinner("dots"), Text(step, style="bold"), Text(shown_line(f"{at.message}{share} ({seconds:.0f} s{left})"))
        )
    return Group(table)
