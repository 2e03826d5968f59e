"""Explains why a step failed: a Python error, a signal, a time-out, too little memory."""

from __future__ import annotations

import signal
from dataclasses import replace

from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.executors.child import WorkerEnd
from orchestrator.engine.executors.executor import StepRequest
from orchestrator.process.children import ended_by
from orchestrator.process.memory import format_bytes
from orchestrator.steps.context import Ending

__all__ = ["ENDS_THE_RUN", "describe_failure"]

ENDS_THE_RUN = frozenset({Ending.CHANGED, Ending.DISK})
"""Failures of a candidate's step that end the run: after the file or the disk has been fixed, the candidate may win."""


def describe_failure(step: StepRequest, end: WorkerEnd, *, disk_full: bool = False) -> tuple[Ending, Diagnostic]:
    """How the step ended, as far as that can be determined, and a diagnostic with the cause and the remedy.

    Args:
        step: the failed step.
        end: the end of its worker.
        disk_full: whether the disk that it wrote to is full.
    """
    error = end.result.error if end.result is not None else None
    if disk_full and end.ending is not Ending.MEMORY:
        return Ending.DISK, _disk_full(step)
    match end.ending:
        case Ending.DISK:
            return Ending.DISK, _disk_full(step)
        case Ending.MEMORY:
            how = (
                "mlo killed it before the machine ran out of memory"
                if error is None
                else "Python could not allocate memory"
            )
            return Ending.MEMORY, _out_of_memory(step, end, how)
        case Ending.TIMEOUT:
            return Ending.TIMEOUT, _failure(
                step, "E402", f"{step.step} took longer than {step.timeout:g} s",
                cause="it was ended with SIGTERM, then SIGKILL",
                remedy=_more_time(step),
            )  # fmt: skip
        case Ending.STOPPED:
            return Ending.STOPPED, _failure(
                step,
                "E406",
                f"{step.step} was stopped",
                cause="the command was interrupted",
                remedy="run the same command again",
            )
        case _ if error is not None:
            return end.ending, error if error.at else replace(error, at=step.at)
        case _:
            return _died(step, end)


def _more_time(step: StepRequest) -> str:
    """What helps a step that took too long: candidates have the time that the spec gives them, the model's own steps a fixed one."""
    if step.step.partition(".")[0] in ("convert", "optimize", "verify", "benchmark"):
        return "raise `optimize.time_budget`, or list fewer formats and precisions under `optimize:`"
    return "give fewer rows in `samples:` or lower the largest sizes under `model.dims`, so that calls of the model take less time"


def _disk_full(step: StepRequest) -> Diagnostic:
    return _failure(
        step,
        "E409",
        f"the disk filled up while {step.step} was running",
        cause="No space left on device",
        remedy="free disk space (`mlo gc` removes what no deployment needs), or set MLO_HOME to a folder on another disk",
    )


def _died(step: StepRequest, end: WorkerEnd) -> tuple[Ending, Diagnostic]:
    name = ended_by(end.returncode)
    if name is None:
        return Ending.DIED, _failure(
            step, "E404", f"{step.step} ended with exit code {end.returncode} without writing a result",
            cause="a library or the model's code ended the process",
            remedy="read the end of its log; if the model's code calls `sys.exit` or `os._exit`, remove the call",
        )  # fmt: skip
    number = -end.returncode
    if number == signal.SIGKILL and (end.oom_killed or end.available < max(2**30 // 4, end.peak // 10)):
        return Ending.MEMORY, _out_of_memory(step, end, "the kernel killed it (SIGKILL)")
    if number == signal.SIGKILL:
        return Ending.DIED, _failure(
            step, "E404", f"{step.step} was killed (SIGKILL)",
            cause=f"another process killed it; its peak was {format_bytes(end.peak)} with {format_bytes(end.available)} left, so this "
            "machine did not run out of memory",
            remedy="look for a memory limit of the container or the session, then run the same command again",
        )  # fmt: skip
    crashed = number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)
    return Ending.DIED, _failure(
        step, "E404", f"{step.step} was killed by {name}",
        cause="a crash in native code; the log ends with the line of Python that led to it"
        if crashed else "another process sent the signal",
        remedy="run its `reproduce.sh`; if it crashes again, install another version of the library that the log names"
        if crashed else "find what sends it, such as a scheduler's time limit, then run the same command again",
    )  # fmt: skip


def _out_of_memory(step: StepRequest, end: WorkerEnd, how: str) -> Diagnostic:
    return _failure(
        step, "E403", f"{step.step} ran out of memory",
        cause=f"{how}; its peak was {format_bytes(end.peak)}, with {format_bytes(end.available)} left on the machine",
        remedy="lower the largest sizes under `model.dims`, or run it on a machine with more memory",
    )  # fmt: skip


def _failure(step: StepRequest, code: str, message: str, *, cause: str, remedy: str) -> Diagnostic:
    return Diagnostic(code, message, cause=cause, remedy=remedy, at=step.at)
