"""Writes a table where a page has it: between two marks, such as `<!-- bench -->` and `<!-- /bench -->`."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["write_marked"]


def write_marked(page: Path, mark: str, table: str) -> None:
    """Replace what is between the marks.

    Raises:
        ValueError: the page does not have them once.
    """
    between = re.compile(rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)", re.DOTALL)
    text, count = between.subn(lambda found: f"{found[1]}{table}\n{found[2]}", page.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{page} has {count} places for a table between the marks {mark}, not one")
    page.write_text(text, encoding="utf-8")
