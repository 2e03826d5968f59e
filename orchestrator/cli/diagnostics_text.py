"""Diagnostics as text, as pull-request annotations and as JSON. Pure: it returns text, `console` prints it."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.diagnostics import Diagnostic, Span
from orchestrator.visible import visible

__all__ = ["as_json", "render_github", "render_text", "summary"]

_TAB = "    "  # tab stops have no meaning in YAML; four cells keep lines readable
_COLORS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "place": "\x1b[1;34m", "bold": "\x1b[1m"}
_RESET = "\x1b[0m"
_LEAST_WIDTH = 40

_Paint = Callable[[str, str], str]


def render_text(diagnostics: Sequence[Diagnostic], *, color: bool, width: int) -> str:
    """The format of compilers: headline, position, the line with carets under the error, what to do.

    Args:
        diagnostics: in display order.
        color: whether to use ANSI colours.
        width: columns of the terminal; longer text is wrapped, a longer source line is truncated around the caret.
    """

    def paint(style: str, text: str) -> str:
        return f"{_COLORS[style]}{text}{_RESET}" if color and text else text

    return "\n\n".join(_block(each, paint, max(width, _LEAST_WIDTH)) for each in diagnostics)


def summary(diagnostics: Sequence[Diagnostic]) -> str:
    """The counts, such as `2 errors, 1 warning`; empty if there are none."""
    parts = []
    for severity in ("error", "warning"):
        count = sum(each.severity == severity for each in diagnostics)
        if count:
            parts.append(f"{count} {severity}{'' if count == 1 else 's'}")
    return ", ".join(parts)


def as_json(diagnostics: Sequence[Diagnostic]) -> list[dict[str, Any]]:
    """Plain JSON, one object each, with the fields of `Diagnostic`."""
    return [each.as_json() for each in diagnostics]


def _block(diagnostic: Diagnostic, paint: _Paint, width: int) -> str:
    head = f"{diagnostic.severity}[{diagnostic.code}]"
    lines = _wrapped(f"{head}: {visible(diagnostic.message)}", width, hang=2)
    lines[0] = paint(diagnostic.severity, head) + paint("bold", lines[0][len(head) :])
    gutter = "  "
    span = diagnostic.span
    if span is not None:
        gutter = " " * (len(str(span.line)) + 1)
        lines.append(f"{gutter[:-1]}{paint('place', '-->')} {visible(span.file)}:{span.line}:{span.column}")
        lines += _snippet(span, diagnostic, paint, width)
    elif diagnostic.label:
        lines += _note("note", diagnostic.label, gutter, paint, width)
    if diagnostic.cause:
        lines += _note("cause", diagnostic.cause, gutter, paint, width)
    if diagnostic.remedy:
        lines += _note("help", diagnostic.remedy, gutter, paint, width)
    for note in diagnostic.notes:
        name, colon, text = note.partition(": ")
        lines += _note(name if colon else "note", text if colon else note, gutter, paint, width)
    return "\n".join(lines)


def _note(name: str, text: str, gutter: str, paint: _Paint, width: int) -> list[str]:
    start = f"{gutter}= "
    lines: list[str] = []
    for paragraph in f"{name}: {text}".splitlines() or [""]:
        lines += _wrapped(visible(paragraph), width - len(start), hang=2)
    return [
        f"{gutter}{paint('place', '=')} {paint('bold', f'{name}:')}{lines[0][len(name) + 1 :]}",
        *(f"{' ' * len(start)}{line}" for line in lines[1:]),
    ]


def _wrapped(text: str, width: int, hang: int) -> list[str]:
    """Wrapped at spaces only: long paths and commands stay whole, so that they can be copied."""
    return textwrap.wrap(
        text, max(width, 20), subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False
    ) or [""]


def _snippet(span: Span, diagnostic: Diagnostic, paint: _Paint, width: int) -> list[str]:
    number = str(span.line)
    pad = " " * len(number)
    bar = paint("place", "|")
    start, stop = _marked(span)
    text = span.text
    if start > len(text):  # the line was truncated before this position
        return []
    before, marked, after = _shown(text[:start]), _shown(text[start:stop]), _shown(text[stop:])
    before, marked, after = _fitted(before, marked, after, width - len(pad) - 3)
    indent = " " * _cells(before)
    carets = paint(diagnostic.severity, "^" * max(1, _cells(marked)))
    lines = [f"{pad} {bar}", f"{paint('place', number)} {bar} {before}{marked}{after}".rstrip()]
    label = _wrapped(visible(diagnostic.label), 10_000, hang=0)[0]
    used = len(pad) + 3 + len(indent) + max(1, _cells(marked)) + 1
    if label and used + _cells(label) > width:
        # No room beside the caret: the label goes below, as far left as needed.
        room = max(width - len(pad) - 3, 20)
        below = _wrapped(label, room, hang=0)
        left = max(0, min(len(indent), room - max(map(_cells, below))))
        lines.append(f"{pad} {bar} {indent}{carets}")
        lines += [f"{pad} {bar} {' ' * left}{paint(diagnostic.severity, line)}" for line in below]
    else:
        lines.append(f"{pad} {bar} {indent}{carets} {paint(diagnostic.severity, label)}".rstrip())
    return lines


def _marked(span: Span) -> tuple[int, int]:
    """The part of the line to mark with carets: offsets into the text, the end exclusive."""
    start = span.column - 1
    stop = span.end_column - 1 if span.end_line == span.line else len(span.text)
    return start, max(start, min(stop, len(span.text)))


def _fitted(before: str, marked: str, after: str, room: int) -> tuple[str, str, str]:
    """Truncate a line that is longer than the terminal, keeping the marked part visible."""
    if _cells(before + marked + after) <= room:
        return before, marked, after
    most = max(8, room * 2 // 3)
    if _cells(marked) > most:
        marked, after = _head(marked, most - 1) + "…", ""
    left = max(0, room - _cells(marked) - min(_cells(after), room // 4))
    if _cells(before) > left:
        before = "…" + _tail(before, left - 1)
    right = room - _cells(before) - _cells(marked)
    if _cells(after) > right:
        after = _head(after, right - 1) + "…"
    return before, marked, after


def _head(text: str, cells: int) -> str:
    while text and _cells(text) > cells:
        text = text[: min(len(text) - 1, max(cells, 0))]
    return text


def _tail(text: str, cells: int) -> str:
    while text and _cells(text) > cells:
        text = text[max(1, len(text) - max(cells, 0)) :]
    return text


def _shown(text: str) -> str:
    return visible(text.replace("\t", _TAB))


def _cells(text: str) -> int:
    """The width of the text in terminal columns."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth  # noqa: PLC0415 - its tables take 10 ms to load, and most specs are ASCII

    cells = wcswidth(text)
    return cells if cells >= 0 else len(text)


def render_github(diagnostics: Sequence[Diagnostic]) -> str:
    """Workflow commands that GitHub shows as annotations in a pull request."""
    return "\n".join(_command(each) for each in diagnostics)


def _command(diagnostic: Diagnostic) -> str:
    properties: dict[str, object] = {}
    span = diagnostic.span
    if span is not None:
        properties = {"file": span.file, "line": span.line, "endLine": span.end_line, "col": span.column}
        if span.end_line == span.line:  # GitHub takes columns within one line only
            properties["endColumn"] = max(span.column, span.end_column - 1)
        else:
            del properties["col"]
    properties["title"] = f"{diagnostic.code}: {diagnostic.message}"
    body = [diagnostic.message + (f" ({diagnostic.label})" if diagnostic.label else "")]
    body += [f"cause: {diagnostic.cause}"] if diagnostic.cause else []
    body += [f"help: {diagnostic.remedy}"] if diagnostic.remedy else []
    body += diagnostic.notes
    listed = ",".join(f"{key}={_property(str(value))}" for key, value in properties.items())
    return f"::{diagnostic.severity} {listed}::{_data(chr(10).join(body))}"


def _data(text: str) -> str:
    return "%0A".join(visible(line).replace("%", "%25") for line in text.split("\n"))


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
