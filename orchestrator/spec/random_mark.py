"""The mark of a file of samples that mlo made at random: the comment of its zip archive.

Whoever saves real arrays over it (numpy.savez) leaves no comment, so the mark goes with the random ones.
"""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RANDOM", "is_random"]

RANDOM = b"random inputs, made by mlo init"


def is_random(file: Path) -> bool:
    """Whether the file has the mark; False for what is no zip archive."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.comment == RANDOM
    except (OSError, zipfile.BadZipFile):
        return False
