"""Lines of YAML with their comments in one column, as a person would align them."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.spec.scalars import AmbiguousScalarError, resolve

__all__ = ["Line", "aligned", "scalar"]

_WIDTH = 120
_LONGEST = 56
"""A line that is longer has its comment above, so that one long name does not push all comments away."""

_PLAIN = re.compile(r"[A-Za-z_./~][A-Za-z0-9_./@+~-]*")


@dataclass(frozen=True, slots=True)
class Line:
    """A line, indented, and what a person should know of it. Without text it is a comment on a line of its own."""

    text: str
    comment: str = ""


def aligned(lines: Sequence[Line]) -> str:
    """The lines as text, each with a line end, comments of one column where they fit."""
    column = max((len(line.text) for line in lines if line.comment and len(line.text) <= _LONGEST), default=0) + 3
    told = []
    for line in lines:
        comment = _printable(line.comment)
        if not comment:
            told.append(line.text)
        elif line.text.strip() and len(line.text) <= _LONGEST and column + 2 + len(comment) <= _WIDTH:
            told.append(f"{line.text:<{column}}# {comment}")
        else:
            indent = " " * (len(line.text) - len(line.text.lstrip(" "))) + "# "
            told += textwrap.wrap(
                comment[:1].upper() + comment[1:],
                _WIDTH,
                initial_indent=indent,
                subsequent_indent=indent,
                break_long_words=False,
            )
            told += [line.text] if line.text.strip() else []
    return "".join(f"{line}\n" for line in told)


def scalar(text: str) -> str:
    """The text as YAML: plain where every reader takes it for the same text, else in double quotes."""
    if _PLAIN.fullmatch(text):
        try:
            if resolve(text) == text and text.lower() not in {"y", "n", "yes", "no", "on", "off"}:
                return text
        except AmbiguousScalarError:
            pass
    return _printable(json.dumps(text, ensure_ascii=False))


def _printable(text: str) -> str:
    """The text with YAML's escapes for what is not printed: U+2028, U+2029 and U+0085 end a line, and so a comment, too."""
    return text if text.isprintable() else "".join(each if each.isprintable() else _escape(each) for each in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
