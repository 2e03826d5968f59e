"""Lines of YAML with their comments aligned in one column."""

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
"""A longer line has its comment above, so that one long name does not shift all comments."""

_PLAIN = re.compile(r"[A-Za-z_./~][A-Za-z0-9_./@+~-]*")


@dataclass(frozen=True, slots=True)
class Line:
    """An indented line and its comment. Without text, the comment is on a line of its own."""

    text: str
    comment: str = ""


def aligned(lines: Sequence[Line]) -> str:
    """The lines as text, each with a line end, with comments in one column where they fit."""
    column = max((len(line.text) for line in lines if line.comment and len(line.text) <= _LONGEST), default=0) + 3
    text = []
    for line in lines:
        comment = _printable(line.comment)
        if not comment:
            text.append(line.text)
        elif line.text.strip() and len(line.text) <= _LONGEST and column + 2 + len(comment) <= _WIDTH:
            text.append(f"{line.text:<{column}}# {comment}")
        else:
            indent = " " * (len(line.text) - len(line.text.lstrip(" "))) + "# "
            text += textwrap.wrap(
                comment[:1].upper() + comment[1:],
                _WIDTH,
                initial_indent=indent,
                subsequent_indent=indent,
                break_long_words=False,
            )
            text += [line.text] if line.text.strip() else []
    return "".join(f"{line}\n" for line in text)


def scalar(text: str) -> str:
    """The text as YAML: plain if every parser reads it as the same text, else in double quotes."""
    if _PLAIN.fullmatch(text):
        try:
            if resolve(text) == text and text.lower() not in {"y", "n", "yes", "no", "on", "off"}:
                return text
        except AmbiguousScalarError:
            pass
    return _printable(json.dumps(text, ensure_ascii=False))


def _printable(text: str) -> str:
    """The text with YAML escapes for characters that are not printable: U+2028, U+2029 and U+0085 end a line, and thus a comment."""
    return text if text.isprintable() else "".join(each if each.isprintable() else _escape(each) for each in text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
