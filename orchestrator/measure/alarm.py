"""A file that becomes readable at a given time, precise to some ten microseconds: the kernel's timerfd.

What waits for sockets can so wait for a schedule too. `epoll` itself knows milliseconds only, and a thread that sleeps costs two
switches for each request. Python has `os.timerfd_create` from version 3.13 on.
"""

from __future__ import annotations

import ctypes
import os
import time

__all__ = ["Alarm"]

_ABSOLUTE = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """One time at which its file becomes readable.

    Attributes:
        file: its file descriptor.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        create = self._libc.timerfd_create
        self.file = _checked(create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC), "timerfd_create")
        self._setting = _Setting()

    def set(self, at: float) -> None:
        """Set the time, seconds of `time.perf_counter`; a time that has passed is now. It replaces the former one."""
        value = self._setting.value
        value.seconds = int(at)
        value.nanoseconds = max(1, int((at - int(at)) * 1e9))  # zero would turn it off
        settime = self._libc.timerfd_settime
        _checked(settime(self.file, _ABSOLUTE, ctypes.byref(self._setting), None), "timerfd_settime")

    def close(self) -> None:
        """Give it up."""
        os.close(self.file)


def _checked(result: int, call: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{call}: {os.strerror(code)}")
    return result
