"""The child process that runs one step: `python -m orchestrator.engine.worker job.json`.

A guard (orchestrator/process/guard.py) takes it along when its parent ends. It writes its result to a file (C++ libraries print on standard output, so the result does not go
there), and reports progress on a pipe whose descriptor MLO_PROGRESS_FD names.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import hashlib
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.executors.job import EXIT_DISK_FULL, WorkerJob, WorkerResult
from orchestrator.errors import StoreFailed
from orchestrator.machine.cuda_devices import cuda_devices
from orchestrator.process.apart import keep_apart
from orchestrator.steps.context import Ending, StepContext, StepError, silent
from orchestrator.steps.failures import causes_of, is_out_of_memory, unexpected

if TYPE_CHECKING:
    from collections.abc import Callable

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def give_up_network() -> bool:
    """Move into a network namespace of its own, where there is nothing but a loopback that is down (unshare(2)).

    A model's weights and code come from others, and loading them is not a sandbox: at least they cannot reach the network. Without
    the privilege to do so, a user namespace gives it where the system allows that.

    Returns:
        Whether it is done; some containers allow neither.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    # The same user inside: files are read and written with the same rights as before.
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1", encoding="ascii")
    return True


def _progress_sink() -> Callable[..., None]:
    descriptor = os.environ.get("MLO_PROGRESS_FD")
    if descriptor is None:
        return silent
    pipe = int(descriptor)

    def report(message: str, fraction: float | None = None) -> None:
        try:
            os.write(pipe, json.dumps({"message": message, "fraction": fraction}).encode() + b"\n")
        except BrokenPipeError:
            # The parent has stopped listening and will end this process; progress is not worth dying for.
            return

    return report


def _load(function: str) -> Callable[[StepContext], dict[str, Any]]:
    module, _, attribute = function.partition(":")
    loaded: Callable[[StepContext], dict[str, Any]] = getattr(importlib.import_module(module), attribute)
    return loaded


def _found_code(project: Path, since: float) -> tuple[dict[str, str], str | None]:
    """The files below the project that were imported, with their digests, and one that has changed since it may have been.

    Args:
        project: the spec's folder.
        since: when this process began, seconds since the epoch.
    """
    root = project.resolve()
    own = Path(__file__).resolve().parents[1]
    found: dict[str, str] = {}
    changed = None
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None)
        if not isinstance(name, str):
            continue
        path = Path(name).resolve()
        if path.is_relative_to(own) or not path.is_relative_to(root) or "site-packages" in path.parts:
            continue
        if path.suffix == ".py" and path.is_file():
            relative = path.relative_to(root).as_posix()
            found[relative] = hashlib.sha256(path.read_bytes()).hexdigest()
            if path.stat().st_ctime > since:
                changed = relative
    return found, changed


def _ending(error: BaseException, otherwise: Ending) -> Ending:
    """The cause behind an error: a full disk or too little memory, however deep libraries have wrapped it."""
    if any(isinstance(each, OSError) and each.errno in DISK_FULL for each in causes_of(error)):
        return Ending.DISK
    return Ending.MEMORY if is_out_of_memory(error) else otherwise


def _log_traceback() -> None:
    """To the log, unless its disk is full: the result says what happened all the same."""
    with contextlib.suppress(OSError):
        traceback.print_exc()


def run(job: WorkerJob) -> WorkerResult:
    """Run the step in this process."""
    began = time.time()
    context = StepContext(
        params=job.params,
        inputs={role: Path(path) for role, path in job.inputs.items()},
        output=Path(job.output),
        scratch=Path(job.scratch),
        project=Path(job.project),
        progress=_progress_sink(),
    )
    summary: dict[str, Any] = {}
    ending, error = Ending.DONE, None
    try:
        summary = _load(job.function)(context)
    except StepError as refusal:
        _log_traceback()
        ending, error = _ending(refusal, Ending.REFUSED), refusal.diagnostic
    except Exception as unforeseen:  # noqa: BLE001 - the parent gets it in the result; the log has the traceback
        _log_traceback()
        ending, error = _ending(unforeseen, Ending.EXCEPTION), unexpected(unforeseen)
    found, changed = _found_code(context.project, began)
    if changed is not None:
        ending = Ending.CHANGED
        error = Diagnostic(
            "E405",
            f"{changed} changed while {job.step} was running",
            cause="the step may have used the old code",
            remedy="run the same command again once the file is complete",
            at=("model", "source", "factory"),
        )
    return WorkerResult(ending=ending, summary=summary, error=error, found=found)


def main(argv: list[str]) -> int:
    """Run the job file that `argv` names; 0 when the step is done, 1 when it is not.

    `--again FILE` runs it in a new folder: what the reproduce script does.
    """
    faulthandler.enable()
    keep_apart()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends workers by SIGTERM
    again = argv[0] == "--again"
    job = WorkerJob.read(Path(argv[-1]))
    if again:
        job = _elsewhere(job)
    if not job.network and not give_up_network():
        sys.stderr.write("note: on this system mlo cannot cut this step off from the network\n")
    if job.accelerator == "cuda":
        # Set explicitly, for this process and its children: without it TensorFlow sees no GPU.
        os.environ["CUDA_VISIBLE_DEVICES"] = cuda_devices().choice
    result = run(job)
    try:
        result.write(Path(job.result))
    except StoreFailed as error:
        if _ending(error, Ending.EXCEPTION) is not Ending.DISK:
            raise
        os._exit(EXIT_DISK_FULL)  # at once: an orderly end would try to write to the log once more
    if again:
        sys.stdout.write(f"result: {job.result}\noutput: {job.output}\n")
    return 0 if result.error is None else 1


def _elsewhere(job: WorkerJob) -> WorkerJob:
    """The same job with its output in a new folder, which stays."""
    folder = Path(tempfile.mkdtemp(prefix=f"mlo-{job.step}-"))
    for name in ("output", "scratch"):
        (folder / name).mkdir()
    return replace(
        job, output=str(folder / "output"), scratch=str(folder / "scratch"), result=str(folder / "result.json")
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
