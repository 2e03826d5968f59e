"""Starts the child process of a step, watches it, kills it if necessary, and reports how it ended."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil

from orchestrator.engine.executors.job import EXIT_DISK_FULL, WorkerJob, WorkerResult
from orchestrator.engine.stop import Stop
from orchestrator.process.children import guarded, start_logged
from orchestrator.process.environment import engine_environment, inherited_environment
from orchestrator.process.memory import tree_memory
from orchestrator.steps.context import Ending

__all__ = ["WorkerEnd", "run_worker", "worker_environment"]

_TICK = 0.05
"""Seconds between looks at the child: short enough to catch a memory peak of a step that lasts a second."""

_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True, slots=True)
class WorkerEnd:
    """How a worker ended.

    Attributes:
        ending: how it ended; what the worker wrote takes precedence over a signal from the engine.
        result: what it wrote; None if it died before.
        returncode: as subprocess has it: negative is the signal.
        peak: largest resident memory of its process tree, bytes.
        available: the machine's available memory at the peak, bytes.
        oom_killed: whether the kernel's OOM killer killed a process of this control group meanwhile.
    """

    ending: Ending
    result: WorkerResult | None
    returncode: int
    seconds: float
    peak: int
    available: int
    oom_killed: bool


def worker_environment(variables: Iterable[str] = (), *, containers: bool = False) -> dict[str, str]:
    """The environment of a worker: what is passed on, and what keeps it quiet and repeatable.

    Args:
        variables: names of variables that it sees besides those that every worker sees.
        containers: whether it starts containers, and so has to find the engine.
    """
    return (
        inherited_environment()
        | {name: os.environ[name] for name in variables if name in os.environ}
        | (engine_environment() if containers else {})
        | {
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
            "PYTHONUNBUFFERED": "1",
            # A model is loaded from files that are there; nothing is fetched behind the user's back.
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            # ONNX Runtime sends no telemetry.
            "ORT_DISABLE_TELEMETRY": "1",
        }
    )


def run_worker(
    job: WorkerJob,
    job_file: Path,
    log: Path,
    *,
    timeout: float,
    stop: Stop,
    exclusive: bool,
    progress: Callable[[str, float | None], None],
) -> WorkerEnd:
    """Run one step to its end.

    Args:
        job: what to run.
        job_file: the file with the job.
        log: the file for the child's output.
        timeout: seconds until it is killed.
        stop: level 2 kills it; level 1 ends an exclusive step, because half a measurement is useless, and lets any other
            step finish.
        exclusive: whether the step measures time.
        progress: is called with the step's progress.
    """
    command = [sys.executable, "-P", "-m", "orchestrator.engine.worker", str(job_file)]
    reader, writer = os.pipe()
    began, kills = time.monotonic(), _oom_kills()
    child = start_logged(
        guarded(command),
        log,
        env={**worker_environment(job.variables, containers=job.containers), "MLO_PROGRESS_FD": str(writer)},
        cwd=job.scratch,
        pass_fds=(writer,),
        new_session=True,  # so that Ctrl-C reaches only the parent, and the whole tree can be killed
    )
    os.close(writer)
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        killed, peak, available = _watch(child, pipe, began + timeout, stop, exclusive=exclusive, progress=progress)
    result = WorkerResult.read(Path(job.result))
    return WorkerEnd(
        _ending(result, killed, child.returncode),
        result,
        child.returncode,
        time.monotonic() - began,
        peak,
        available,
        _oom_kills() > kills,
    )


def _ending(result: WorkerResult | None, killed: Ending | None, returncode: int) -> Ending:
    if result is not None and (killed is None or result.ending is not Ending.DONE):
        return result.ending
    return killed or (Ending.DISK if returncode == EXIT_DISK_FULL else Ending.DIED)


def _watch(
    child: subprocess.Popen[bytes],
    pipe: IO[bytes],
    deadline: float,
    stop: Stop,
    *,
    exclusive: bool,
    progress: Callable[[str, float | None], None],
) -> tuple[Ending | None, int, int]:
    """Wait for the child; returns why it was killed, if it was, its memory peak, and the available memory at that time."""
    peak, left = 0, psutil.virtual_memory().available
    # A child must not exhaust the machine's memory: its limit is the available memory at its start, minus a reserve.
    limit = int(left * 0.95)
    buffered = b""
    os.set_blocking(pipe.fileno(), False)
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while child.poll() is None:
            if selector.select(_TICK):
                chunk = pipe.read(65536)
                if chunk:
                    buffered = _report_progress(buffered + chunk, progress)
                elif chunk == b"":  # the child closed it, so do not poll it any more
                    selector.unregister(pipe)
            resident = tree_memory(child.pid)
            if resident > peak:
                peak, left = resident, psutil.virtual_memory().available
            if peak > limit:
                _end(child)
                return Ending.MEMORY, peak, left
            if time.monotonic() > deadline:
                _end(child)
                return Ending.TIMEOUT, peak, left
            if stop.announced >= 2 or (stop.announced == 1 and exclusive):
                _end(child)
                return Ending.STOPPED, peak, left
    _report_progress(buffered + (pipe.read(65536) or b""), progress)
    return None, peak, left


def _report_progress(buffered: bytes, progress: Callable[[str, float | None], None]) -> bytes:
    *lines, rest = buffered.split(b"\n")
    for line in lines:
        event = json.loads(line)
        progress(event["message"], event["fraction"])
    return rest


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask the step to end; after the grace period, its guard kills it with all its descendants."""
    _signal(child, signal.SIGTERM)
    try:
        child.wait(_GRACE)
    except subprocess.TimeoutExpired:
        _signal(child, signal.SIGUSR1)
        child.wait()


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.kill(child.pid, number)
    except ProcessLookupError:
        return  # it has ended, and its guard has killed its descendants


def _oom_kills() -> int:
    """The number of processes of this control group that the kernel's OOM killer has killed so far; 0 if unknown."""
    for file in (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control")):
        try:
            lines = file.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
