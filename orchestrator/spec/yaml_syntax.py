"""Translates libyaml's syntax errors into messages that name the mistake."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml

from orchestrator.diagnostics import Diagnostic

if TYPE_CHECKING:
    from orchestrator.spec.source_text import SourceText

__all__ = ["syntax_error"]

_CONFLICT = re.compile(r"^(<{7}|={7}|>{7})( |$)", re.MULTILINE)
_TAB_INDENT = re.compile(r"^[ ]*\t")

# (what libyaml's message contains, what is wrong, what to do); the first that matches is used.
_WORDS = (
    ("mapping values are not allowed", "a `:` is not allowed here",
     "put quotes around text that contains `: `, or check the indentation"),
    ("could not find expected ':'", "this line is neither `key: value` nor `- item`",
     "add the `:` after the key, or the missing quote or bracket before it"),
    ("did not find expected ',' or ']'", "a list in brackets is not closed", "add the `,` or the `]`"),
    ("did not find expected ',' or '}'", "a mapping in braces is not closed", "add the `,` or the `}`"),
    ("did not find expected '-' indicator", "this line does not belong to the surrounding list",
     "indent it like the other `- ` lines"),
    ("did not find expected key", "this line does not belong to the surrounding mapping",
     "indent it like the keys around it, or close the quote or bracket before it"),
    ("found unexpected end of stream", "a quote is not closed", "add the closing quote"),
    ("found unexpected document indicator", "a quote is not closed", "add the closing quote"),
    ("unknown escape character", "an unknown escape in double quotes", "double the backslash, or use single quotes"),
    ("block sequence entries are not allowed", "a `- ` is not allowed here", "put the list on the lines below its key"),
    ("found character that cannot start any token", "a value cannot start with this character",
     "put quotes around the text"),
    ("incompatible YAML document", "an unknown YAML version", "remove the `%YAML` line"),
)  # fmt: skip


def syntax_error(source: SourceText, error: yaml.YAMLError) -> Diagnostic:
    """The diagnostic for an error that the parser raised on `source`."""
    if (conflict := _CONFLICT.search(source.text)) is not None:
        return Diagnostic(
            "E109",
            "an unresolved merge conflict",
            source.span(conflict.start(), conflict.start() + 7),
            remedy="keep one side and remove the `<<<<<<<`, `=======` and `>>>>>>>` lines",
        )
    mark = getattr(error, "problem_mark", None)
    offset = min(mark.index, len(source.text)) if mark is not None else 0
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable YAML")
    # For an error at the end of the text, point at the last line that is not empty.
    if not source.text[offset:].strip():
        offset = max(0, len(source.text.rstrip()) - 1)
    span = source.span(offset, offset + 1)
    if _TAB_INDENT.match(span.text):
        return Diagnostic(
            "E109", "a tab in the indentation", span, remedy="indent with spaces; YAML does not allow tabs"
        )
    for fragment, message, remedy in _WORDS:
        if fragment in problem:
            return Diagnostic("E109", message, span, remedy=remedy, notes=_opened(source, error))
    return Diagnostic("E109", f"invalid YAML: {problem}", span, remedy="correct the line", notes=_opened(source, error))


def _opened(source: SourceText, error: yaml.YAMLError) -> tuple[str, ...]:
    """Where the bracket, quote or block started that the parser was in."""
    mark, context = getattr(error, "context_mark", None), getattr(error, "context", None)
    if mark is None or not context:
        return ()
    return (f"started: line {source.line_of(min(mark.index, len(source.text)))}, {context}",)
