"""Printing: colour only on terminals, aligned tables, one JSON document; control sequences from elsewhere are escaped."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from typing import IO, Any

import click

from orchestrator.cli.columns import table_lines, wrapped
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import MloError
from orchestrator.visible import shown, shown_line

__all__ = [
    "confirm",
    "print_file",
    "print_json",
    "print_note",
    "print_result",
    "show_diagnostics",
    "table",
    "wants_colour",
    "width",
]


_OBEYED = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""Control and format characters, beside those that JSON escapes anyway."""


def wants_colour(stream: IO[Any]) -> bool:
    """Colour on terminals, unless NO_COLOR (no-color.org) is set or the terminal is dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Columns of the terminal; 100 without one."""
    import shutil  # noqa: PLC0415 - it imports all kinds of archives, and most results are narrow or go to no terminal

    return shutil.get_terminal_size((100, 24)).columns


def print_result(text: str = "") -> None:
    """Print a result to standard output; on a terminal long lines are wrapped at words."""
    click.echo(_fitted(shown(text), sys.stdout), color=wants_colour(sys.stdout))


def print_note(text: str) -> None:
    """Print progress or a remark to standard error; on a terminal long lines are wrapped at words."""
    click.echo(_fitted(shown(text), sys.stderr), err=True, color=wants_colour(sys.stderr))


def print_file(text: str) -> None:
    """Print lines of a file to standard output, each as it is: they are copied, or read by programs."""
    click.echo(shown(text), color=wants_colour(sys.stdout))


def _fitted(text: str, stream: IO[Any]) -> str:
    return wrapped(text, width()) if stream.isatty() else text


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
    from orchestrator.cli.diagnostics_text import render_text  # noqa: PLC0415 - only when there is something to show

    click.echo(render_text(diagnostics, color=wants_colour(sys.stderr), width=width()), err=True, color=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """An aligned table, within the columns of the terminal if results are printed on one.

    Args:
        header: column names.
        rows: cells; may contain mlo's own styles.
        right: right-aligned columns (numbers).
    """
    shown_rows = [[shown_line(str(cell)) for cell in row] for row in (header, *rows)]
    head, *body = table_lines(shown_rows, right=right, width=width() if sys.stdout.isatty() else None)
    return "\n".join([click.style(head, bold=True), *body])
