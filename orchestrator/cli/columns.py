"""Text within the columns of a terminal: long lines are wrapped at words, wide tables are narrowed."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

__all__ = ["cells", "table_lines", "wrapped", "wrapped_line"]

_HANG = 4
"""Further indentation of wrapped lines."""
_NARROWEST = 16
"""Columns that a column of texts is never narrower than."""
_LEAST_WIDTH = 40


def cells(text: str) -> int:
    """The columns that a text takes, without its styles."""
    plain = click.unstyle(text)
    if plain.isascii():
        return len(plain)
    from wcwidth import wcswidth  # noqa: PLC0415 - takes 16 ms, and validation does not need it

    return max(0, wcswidth(plain))


def wrapped(text: str, width: int) -> str:
    """The text with its long lines wrapped, further lines indented."""
    return "\n".join(part for line in text.split("\n") for part in _hanging(line, max(width, _LEAST_WIDTH)))


def _hanging(line: str, width: int) -> list[str]:
    if cells(line) <= width:
        return [line]
    indent = re.match(" *", line)[0]  # type: ignore[index]  # it matches every text
    first, *rest = wrapped_line(line[len(indent) :], width - len(indent) - _HANG)
    return [indent + first, *(f"{indent}{' ' * _HANG}{part}" for part in rest)]


def wrapped_line(line: str, width: int) -> list[str]:
    """The line in parts of at most `width` columns, divided at spaces only: paths and commands stay whole, to be copied."""
    parts, length = [""], 0
    for word in re.findall(r" *[^ ]+", line):
        needed = cells(word)
        if length and length + needed > width:
            parts.append(word.lstrip(" "))
            length = cells(parts[-1])
        else:
            parts[-1] += word
            length += needed
    return parts


def table_lines(rows: Sequence[Sequence[str]], *, right: frozenset[int], width: int | None) -> list[str]:
    """The lines of an aligned table, the header first.

    Args:
        rows: cells, which may contain styles; the header is the first row.
        right: right-aligned columns.
        width: the columns of the terminal; None for no limit. The widest column of texts is then narrowed, and its cells are
            wrapped; a table that is too wide even so becomes a block of `name  value` lines for each row, in whose first line
            stand the cells without a heading.
    """
    widths = [max(cells(row[i]) for row in rows) for i in range(len(rows[0]))]
    gaps = 2 * (len(widths) - 1)
    if width is not None and sum(widths) + gaps > width:
        widest = max((i for i in range(len(widths)) if i not in right), key=lambda i: widths[i], default=0)
        room = width - gaps - (sum(widths) - widths[widest])
        if room < min(_NARROWEST, widths[widest]) or widest in right:
            return _blocks(rows, width)
        widths[widest] = room
        return [line for row in rows for line in _row(row, widths, right, widest)]
    return [_aligned(row, widths, right) for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int], right: frozenset[int]) -> str:
    padded = []
    for i, cell in enumerate(row):
        gap = " " * (widths[i] - cells(cell))
        padded.append(gap + cell if i in right else cell + gap)
    return "  ".join(padded).rstrip()


def _row(row: Sequence[str], widths: Sequence[int], right: frozenset[int], wraps: int) -> list[str]:
    first, *rest = wrapped_line(row[wraps], widths[wraps])
    below = (["" if i != wraps else part for i in range(len(row))] for part in rest)
    return [_aligned(each, widths, right) for each in ([*row[:wraps], first, *row[wraps + 1 :]], *below)]


def _blocks(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    header, *body = rows
    names = max(map(cells, header[1:]), default=0)
    lines = [header[0]]
    for row in body:
        unnamed = (cell for name, cell in zip(header[1:], row[1:], strict=True) if cell and not name)
        lines.append("  ".join([row[0], *unnamed]))
        for name, cell in zip(header[1:], row[1:], strict=True):
            if cell and name:
                first, *rest = wrapped_line(cell, max(width - names - 4, _NARROWEST))
                lines.append(f"  {name}{' ' * (names - cells(name))}  {first}")
                lines += [f"{' ' * (names + 4)}{part}" for part in rest]
    return lines
