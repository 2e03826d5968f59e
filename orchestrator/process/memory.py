"""Watches the resident memory of a process and all its descendants: records the peak, and kills them above a limit."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

import psutil

__all__ = ["MemoryWatch", "end_tree", "format_bytes", "process_tree", "tree_cpu_seconds", "tree_memory"]

_TICK = 0.02
"""Seconds between two samples of the known processes; shorter peaks are missed."""

_FAMILY_TICK = 0.5
"""Seconds between two searches for new descendants, which reads the whole process table."""


class MemoryWatch:
    """Samples the resident memory of a process tree from a thread, and kills the tree above a limit.

    The memory is the sum of the resident sizes. Pages that several processes share are counted for each of them, so the sum is
    an upper bound of the memory that a container's limit counts; for a single process it is exact.

    Args:
        pid: the root of the process tree.
        limit: bytes; None to only record the peak.
    """

    def __init__(self, pid: int, limit: int | None) -> None:
        self._pid = pid
        self._limit = limit
        self._peak = 0
        self._exceeded = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name=f"memory of {pid}", daemon=True)
        self._thread.start()

    @property
    def peak(self) -> int:
        """The largest sum so far, bytes."""
        return self._peak

    @property
    def exceeded(self) -> bool:
        """Whether the tree was killed because it exceeded the limit."""
        return self._exceeded

    def close(self) -> None:
        """Stop watching."""
        self._end.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _watch(self) -> None:
        known: list[psutil.Process] = []
        searched = 0.0
        while not self._end.wait(_TICK):
            if time.monotonic() - searched > _FAMILY_TICK:
                known, searched = process_tree(self._pid), time.monotonic()
            resident = sum(_resident(process) for process in known)
            self._peak = max(self._peak, resident)
            if self._limit is not None and resident > self._limit:
                self._exceeded = True
                end_tree(self._pid)
                return


def process_tree(pid: int) -> list[psutil.Process]:
    """A process and its living descendants; empty when it has ended."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0  # it has ended


def tree_memory(pid: int) -> int:
    """Resident memory of a process and its living descendants, bytes; shared pages count for each."""
    return sum(map(_resident, process_tree(pid)))


def tree_cpu_seconds(pid: int) -> float:
    """CPU time, user and system, of a process and its living descendants so far, seconds."""
    total = 0.0
    for process in process_tree(pid):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue  # it has ended
        total += times.user + times.system
    return total


def end_tree(pid: int) -> None:
    """Kill a process and all its descendants (SIGKILL); processes that have already ended are ignored."""
    for process in process_tree(pid):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def format_bytes(count: int) -> str:
    """The size in words, such as `512 MiB` or `1.9 GiB`."""
    if count < 2**30:
        return f"{count / 2**20:.0f} MiB"
    return f"{count / 2**30:.1f} GiB"
