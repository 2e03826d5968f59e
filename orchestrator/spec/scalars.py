"""Resolves plain YAML scalars: `true`, `false`, null, decimal numbers; everything else is text as written."""

from __future__ import annotations

import math
import re

__all__ = ["LOOKS_BOOLEAN", "AmbiguousScalarError", "resolve"]

LOOKS_BOOLEAN = frozenset({"yes", "no", "on", "off", "y", "n"})
"""Lower-case words that are booleans in YAML 1.1 and plain text here."""

_NULL = frozenset({"", "~", "null"})
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_REFUSED = {
    **dict.fromkeys(("True", "TRUE"), "write `true`, or put quotes around the text"),
    **dict.fromkeys(("False", "FALSE"), "write `false`, or put quotes around the text"),
    **dict.fromkeys(("Null", "NULL"), "write `null`, or put quotes around the text"),
    **dict.fromkeys(
        (f"{sign}.{word}" for sign in ("", "-", "+") for word in ("inf", "Inf", "INF", "nan", "NaN", "NAN")),
        "use a finite number; put quotes around it if it is text",
    ),
}


class AmbiguousScalarError(ValueError):
    """A scalar that YAML parsers interpret differently, or a number that cannot be represented.

    Args:
        problem: the part of the message after the scalar ("is ambiguous in YAML").
        remedy: what to write instead.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}: {remedy}")
        self.problem = problem
        self.remedy = remedy


def resolve(text: str) -> str | int | float | bool | None:
    """The value of the plain scalar `text`.

    Follows the JSON-like core of YAML 1.2 (section 10.3) without its octal and hexadecimal integers: `no`, `0777`,
    `0x1f`, `12:30`, `1_000` and `2024-01-01` are text, `1e-4` is a number.

    Raises:
        AmbiguousScalarError: other spellings of true, false and null; infinite, NaN or unrepresentable numbers.
    """
    if text in _NULL:
        return None
    if text == "true":
        return True
    if text == "false":
        return False
    if text in _REFUSED:
        raise AmbiguousScalarError("is ambiguous in YAML", _REFUSED[text])
    if text[0] not in "-+.0123456789":
        return text
    if _INT.fullmatch(text):
        if len(text) > 19 or abs(int(text)) >= 2**63:
            raise AmbiguousScalarError(
                "has more than 64 bits", "write a smaller number; put quotes around it if it is text"
            )
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if math.isinf(number):
            raise AmbiguousScalarError("is too large", "write a smaller number; put quotes around it if it is text")
        return number
    return text
