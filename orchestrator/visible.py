"""Escapes control characters in text from elsewhere (names in a model, messages of a library)."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["shown", "shown_line", "visible"]

_OWN_STYLES = re.compile(r"(\x1b\[(?:0|1|2|22|3[1-6])m)")
"""What `click.style` adds for mlo: bold, faint, reset and six colours. Other sequences could hide text, move the cursor or create links."""


def shown(text: str) -> str:
    """Text for a terminal: line ends, tabs and mlo's own styles are kept, other control characters are escaped."""
    return "\n".join("\t".join(map(shown_line, line.split("\t"))) for line in text.split("\n"))


def shown_line(text: str) -> str:
    """As `shown`, for text on one line: a table cell, a note."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(part if _OWN_STYLES.fullmatch(part) else visible(part) for part in _OWN_STYLES.split(text))


def visible(text: str) -> str:
    """Text with control characters and directional marks replaced by their codes."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    # Zero-width joiners are needed for letters and emoji; other format characters can only mislead.
    if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} and character not in "\u200c\u200d":
        return f"\\u{ord(character):04x}"
    return character
