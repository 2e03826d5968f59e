"""Reads the log that a deployment's supervisor writes (`journal.py`): its last lines, and new ones."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

__all__ = ["LOG_FILE", "read"]

LOG_FILE = "serving.log"


def read(folder: Path, count: int, *, follow: bool = False, poll_seconds: float = 0.2) -> Iterator[str]:
    """The last `count` lines of the log, the older file included; then, if `follow`, what is appended, without end.

    Raises:
        FileNotFoundError: there is no log yet.
    """
    path = folder / LOG_FILE
    kept: deque[str] = deque(maxlen=count)
    file = _open(path)
    try:
        older = folder / f"{LOG_FILE}.1"
        if older.exists():
            with _open(older) as former:
                kept.extend(former.read().split("\n")[:-1])
        *complete, rest = file.read().split("\n")
        kept.extend(complete)
        yield from kept
        while follow:
            chunk = file.read()
            if chunk:
                *complete, rest = (rest + chunk).split("\n")
                yield from complete
            elif path.exists() and path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                file.close()
                file = _open(path)
            else:
                time.sleep(poll_seconds)
    finally:
        file.close()


def _open(path: Path) -> TextIOWrapper:
    # newline="\n": a lone carriage return of a progress bar does not end a line.
    return path.open(encoding="utf-8", errors="backslashreplace", newline="\n")
