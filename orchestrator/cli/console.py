"""Printing: colour only on terminals, aligned tables, one JSON document; control sequences from elsewhere are escaped."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from typing import IO, Any

import click

from orchestrator.cli.visible import shown, shown_line
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import MloError

__all__ = ["confirm", "print_json", "print_note", "print_result", "show_diagnostics", "table", "wants_colour", "width"]


_OBEYED = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""Control and format characters, beside those that JSON escapes anyway."""


def wants_colour(stream: IO[Any]) -> bool:
    """Colour on terminals, unless NO_COLOR (no-color.org) is set or the terminal is dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Columns of the terminal; 100 without one."""
    return shutil.get_terminal_size((100, 24)).columns


def print_result(text: str = "") -> None:
    """Print a result to standard output."""
    click.echo(shown(text), color=wants_colour(sys.stdout))


def print_note(text: str) -> None:
    """Print progress or a remark to standard error."""
    click.echo(shown(text), err=True, color=wants_colour(sys.stderr))


def confirm(question: str) -> None:
    """Ask for confirmation on the terminal.

    Raises:
        MloError: E219, declined.
    """
    if not click.confirm(question, err=True):
        raise MloError(Diagnostic("E219", "nothing was changed", cause="the answer was no"))


def print_json(document: Any) -> None:
    """Print the JSON document of a command to standard output."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    # They only occur inside strings, where JSON has an escape for each, so the document stays the same.
    click.echo(_OBEYED.sub(lambda match: json.dumps(match[0])[1:-1], text))


def show_diagnostics(diagnostics: Sequence[Diagnostic]) -> None:
    """Print errors and warnings to standard error."""
    from orchestrator.cli.report import render_text  # noqa: PLC0415 - only when there is something to show

    click.echo(render_text(diagnostics, color=wants_colour(sys.stderr), width=width()), err=True, color=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """An aligned table.

    Args:
        header: column names.
        rows: cells; may contain mlo's own styles.
        right: right-aligned columns (numbers).
    """
    cells = [[shown_line(str(cell)) for cell in row] for row in (header, *rows)]
    widths = [max(_cells(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = []
        for i, cell in enumerate(row):
            gap = " " * (widths[i] - _cells(cell))
            padded.append(gap + cell if i in right else cell + gap)
        return "  ".join(padded).rstrip()

    head, *body = cells
    return "\n".join([click.style(line(head), bold=True), *(line(row) for row in body)])


def _cells(text: str) -> int:
    plain = click.unstyle(text)
    if plain.isascii():
        return len(plain)
    from wcwidth import wcswidth  # noqa: PLC0415 - takes 16 ms, and validation does not need it

    return max(0, wcswidth(plain))
