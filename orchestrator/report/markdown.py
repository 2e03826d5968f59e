"""The report as Markdown for a pull request: what was decided first, every table behind a fold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from orchestrator.report.model import Fact, Report
from orchestrator.report.tables import (
    Cell,
    Table,
    batch_table,
    distribution_table,
    fate_table,
    gate_table,
    search_table,
    size_table,
)
from orchestrator.visible import visible

__all__ = ["MARK", "markdown"]

MARK = "<!-- mlo report"
"""How a report of this form begins, so that it is found among comments, and another file is not replaced."""

_SPECIAL = re.compile(r"([\\`*_\[\]|~#])")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_MENTION = re.compile(r"(?<!\w)@(?=\w)")


def markdown(report: Report) -> str:
    """The text, in GitHub's Markdown. Names and reasons are escaped: they come from others."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"{MARK}: {re.sub('[^a-z0-9-]', '', report.name)} -->"
    yield f"### {'✅' if report.won else '❌'} {escaped(report.name)}"
    yield ""
    yield f"**{escaped(report.decision)}.**"
    for sentence in (report.remedy, report.closest, report.level, report.serving):
        if sentence:
            yield ""
            yield f"{escaped(sentence[0].upper() + sentence[1:])}."
    if report.facts:
        yield ""
        yield from _facts(report.facts)
    yield from _folded("Every candidate's fate", fate_table(report))
    yield from _folded("Rounds of the search", search_table(report))
    yield from _folded("Accuracy gates", gate_table(report))
    yield from _folded("Distribution over the wire", distribution_table(report, "server"))
    yield from _folded("Latency over batch size", batch_table(report))
    yield from _folded("Size and cold start", size_table(report))
    if report.notes:
        yield ""
        yield from (f"- {escaped(note)}" for note in report.notes)
    yield from _fold("Environment", list(_facts((*report.environment, *report.sizing))))


def _facts(facts: Sequence[Fact]) -> Iterator[str]:
    yield "| | | |"
    yield "|---|---|---|"
    yield from (f"| {escaped(fact.name)} | {escaped(fact.value)} | {escaped(fact.note)} |" for fact in facts)


def _folded(title: str, table: Table | None) -> Iterator[str]:
    if table is None:
        return
    lines = [
        f"| {' | '.join(escaped(column.title) for column in table.columns)} |",
        f"|{'|'.join('--:' if column.numeric else '---' for column in table.columns)}|",
        *(
            f"| {' | '.join(_cell(cell, name=not place) for place, cell in enumerate(line.cells))} |"
            for line in table.lines
        ),
    ]
    yield from _fold(title, lines)


def _fold(title: str, lines: Sequence[str]) -> Iterator[str]:
    yield ""
    yield f"<details><summary>{title}</summary>"
    yield ""
    yield from lines
    yield ""
    yield "</details>"


def _cell(cell: Cell, *, name: bool) -> str:
    text = escaped(cell.text)
    if name:
        return f"**{text}**"
    return f"{text} ({escaped(cell.note)})" if cell.note else text


def escaped(text: str) -> str:
    """Text on one line that Markdown and HTML leave as it is, and that notifies nobody; what is between backticks is code."""
    line = visible(" ".join(text.split()))
    parts = re.split("`([^`]+)`", line)  # every second one was between backticks, and has none
    return "".join(
        f"`{part.replace('|', chr(92) + '|')}`" if place % 2 else _plain(part) for place, part in enumerate(parts)
    )


def _plain(text: str) -> str:
    return _MENTION.sub("@<!-- -->", _SPECIAL.sub(r"\\\1", text).translate(_ENTITIES))
