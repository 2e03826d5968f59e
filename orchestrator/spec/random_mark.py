"""Marks sample files that mlo generated at random, with a comment in the zip archive.

Saving real arrays over the file (numpy.savez) writes no comment, so the mark disappears with the random arrays.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RANDOM", "is_random"]

RANDOM = b"random inputs, made by mlo init"


def is_random(file: Path) -> bool:
    """Whether the file has the mark; False if it is not a zip archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.comment == RANDOM
    except (OSError, zipfile.BadZipFile):
        return False
