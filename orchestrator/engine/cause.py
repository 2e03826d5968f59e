"""The cause of a step's death in words: a Python error, a signal, a time-out, too little memory."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from orchestrator.engine.worker import EXIT_DISK_FULL
from orchestrator.engine.worker_process import WorkerEnd
from orchestrator.plan.step import Step

__all__ = ["NOBODYS_FATE", "STOPPED_CODE", "describe_failure", "is_remembered"]

_GIB = 2**30
DISK_FULL_CODE = "E409"
STOPPED_CODE = "E406"
NOBODYS_FATE = frozenset({"E405", DISK_FULL_CODE})
"""What ends a run although a candidate's step failed: with the file at rest, or with room, it may be the best one."""
_SIGNALS = {int(number): number.name for number in signal.Signals}


def is_remembered(end: WorkerEnd) -> bool:
    """Whether the failure will come again with the same key: a step's own refusal, and nothing that chance can cause."""
    return end.result is not None and end.result.error is not None and end.result.error["kind"] == "step"


def describe_failure(step: Step, end: WorkerEnd, *, disk_full: bool = False) -> Mapping[str, Any]:
    """The failure as {"code", "message", "cause", "remedy", "at", "notes"}.

    Args:
        step: which failed.
        end: how its worker ended.
        disk_full: there is no room left where it wrote.
    """
    error = end.result.error if end.result is not None else None
    if error is not None and error["kind"] == "memory":
        return _out_of_memory(step, end, "Python could not allocate memory")
    said = error is not None and error["kind"] == "disk"
    if disk_full or said or (error is None and end.returncode == EXIT_DISK_FULL):
        return _failure(
            step,
            DISK_FULL_CODE,
            f"the disk filled up while {step.id} was running",
            cause="No space left on device",
            remedy="make room (`mlo gc` frees what no deployment needs), or set MLO_HOME to a folder on another disk",
        )
    if error is not None:
        return {**error, "at": error["at"] or list(step.at)}
    match end.how:
        case "time-out":
            return _failure(
                step, "E402", f"{step.id} took longer than {step.timeout:g} s",
                cause="it was ended with SIGTERM, then SIGKILL",
                remedy="raise `optimize.time_budget`, or ask for fewer formats and precisions",
            )  # fmt: skip
        case "memory":
            return _out_of_memory(step, end, "it was ended before the machine ran out")
        case "stopped":
            return _failure(
                step, STOPPED_CODE, f"{step.id} was stopped", cause="Ctrl-C", remedy="run the same command again"
            )
        case _:
            return _died(step, end)


def _died(step: Step, end: WorkerEnd) -> Mapping[str, Any]:
    if end.returncode >= 0:
        return _failure(
            step, "E404", f"{step.id} ended with exit code {end.returncode} and left no result",
            cause="the process was ended from within, by a library or by the model's code",
            remedy="read the end of its log",
        )  # fmt: skip
    number = -end.returncode
    name = _SIGNALS.get(number, f"signal {number}")
    if number == signal.SIGKILL and (end.oom_killed or end.available < max(_GIB // 4, end.peak // 10)):
        return _out_of_memory(step, end, "the kernel killed it (SIGKILL)")
    if number == signal.SIGKILL:
        return _failure(
            step, "E404", f"{step.id} was killed (SIGKILL)",
            cause=f"somebody killed it; its peak was {_size(end.peak)} with {_size(end.available)} left, so it was not "
            "for want of memory on this machine",
            remedy="look for a memory limit of the container or the session, then run the same command again",
        )  # fmt: skip
    crash = "a crash in native code; the log ends with the Python line it came from"
    return _failure(
        step, "E404", f"{step.id} died of {name}",
        cause=crash if number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
        else "it was ended by a signal from outside",
        remedy="run the reproduce script; if it dies again, try another version of the framework",
    )  # fmt: skip


def _out_of_memory(step: Step, end: WorkerEnd, how: str) -> Mapping[str, Any]:
    return _failure(
        step, "E403", f"{step.id} ran out of memory",
        cause=f"{how}; its peak was {_size(end.peak)}, with {_size(end.available)} left on the machine",
        remedy="lower the largest sizes under `model.dims`, or run it where there is more memory",
    )  # fmt: skip


def _failure(step: Step, code: str, message: str, *, cause: str, remedy: str) -> Mapping[str, Any]:
    return {"code": code, "message": message, "cause": cause, "remedy": remedy, "at": list(step.at), "notes": []}


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / 2**20:.0f} MiB"
