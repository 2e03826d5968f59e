"""The log of a deployment: its servers' output and the supervisor's actions, in order, in files of limited size."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from orchestrator.targets.local.logs import LOG_FILE

__all__ = ["Journal", "LineSplitter"]

_SIZE = 8 * 2**20
_LONGEST_LINE = 8192


class Journal:
    """Appends lines; when the file has 8 MiB, it becomes `serving.log.1` and a new one begins."""

    def __init__(self, folder: Path) -> None:
        self._file = RotatingFileHandler(
            folder / LOG_FILE, maxBytes=_SIZE, backupCount=1, encoding="utf-8", errors="backslashreplace"
        )

    def event(self, text: str) -> None:
        """Note something that the supervisor did."""
        self.write("mlo", f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {text}")

    def write(self, source: str, line: str) -> None:
        """Append one line of a source ("mlo", "r3")."""
        self._file.handle(logging.makeLogRecord({"msg": f"{source} | {line}"}))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LineSplitter:
    """Cuts a stream of bytes into lines, and a line that does not end into pieces."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """The lines that are complete with `data`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "backslashreplace").rstrip("\r")
        while len(self._rest) >= _LONGEST_LINE:
            piece, self._rest = self._rest[:_LONGEST_LINE], self._rest[_LONGEST_LINE:]
            yield piece.decode("utf-8", "backslashreplace")

    def end(self) -> Iterator[str]:
        """What is left when the stream has ended."""
        if self._rest:
            yield self._rest.decode("utf-8", "backslashreplace")
            self._rest = b""
