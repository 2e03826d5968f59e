"""How things are printed: colour only on terminals, tables that align, one JSON document; nothing else that a terminal obeys."""

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

__all__ = ["confirm", "print_json", "say", "show_diagnostics", "table", "tell", "wants_colour", "width"]


_OBEYED = re.compile("[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
"""What a terminal obeys, or is misled by, beside the control characters that JSON escapes anyway."""


def wants_colour(stream: IO[Any]) -> bool:
    """Colour on terminals, unless NO_COLOR (no-color.org) or a dumb terminal asks for none."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Columns of the terminal; 100 where there is none."""
    return shutil.get_terminal_size((100, 24)).columns


def say(text: str = "") -> None:
    """A result, to standard output."""
    click.echo(shown(text), color=wants_colour(sys.stdout))


def tell(text: str) -> None:
    """Progress or a remark, to standard error."""
    click.echo(shown(text), err=True, color=wants_colour(sys.stderr))


def confirm(question: str) -> None:
    """Ask on the terminal.

    Raises:
        MloError: E219, the answer was not yes.
    """
    if not click.confirm(question, err=True):
        raise MloError(Diagnostic("E219", "nothing was changed", cause="the answer was no"))


def print_json(document: Any) -> None:
    """The one JSON document of a command, to standard output."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    # The same document: they stand in texts alone, and JSON has an escape for each.
    click.echo(_OBEYED.sub(lambda match: json.dumps(match[0])[1:-1], text))


def show_diagnostics(diagnostics: Sequence[Diagnostic]) -> None:
    """Errors and warnings, to standard error."""
    from orchestrator.cli.report import render_text  # noqa: PLC0415 - only when there is something to show

    click.echo(render_text(diagnostics, color=wants_colour(sys.stderr), width=width()), err=True, color=True)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """An aligned table.

    Args:
        header: names of the columns.
        rows: cells; may hold mlo's own styles.
        right: columns that are flush right (numbers).
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
    from wcwidth import wcswidth  # noqa: PLC0415 - 16 ms that a validation need not wait for

    return max(0, wcswidth(plain))
