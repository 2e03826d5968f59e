"""The child process that runs one step: `python -m orchestrator.engine.worker job.json`.

A guard (orchestrator/process/guard.py) kills it when its parent ends. It writes its result to a file, because C++ libraries
print to standard output, and reports progress on the pipe with the descriptor MLO_PROGRESS_FD.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import gc
import importlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.executors.job import EXIT_DISK_FULL, WorkerJob, WorkerResult
from orchestrator.errors import StoreFailed, causes_of
from orchestrator.machine.cuda_devices import cuda_devices
from orchestrator.machine.user_code import ImportPath, used_code
from orchestrator.process.apart import keep_apart
from orchestrator.steps.context import Ending, StepContext, StepError, silent
from orchestrator.steps.failures import is_out_of_memory, is_transient, unexpected
from orchestrator.store.user_code import NO_USER_CODE, UserCode

if TYPE_CHECKING:
    from collections.abc import Callable

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

_NEW_OBJECTS = 50_000
"""The number of new objects after which the garbage collector looks at them."""

_LOW_PRIORITY = 10
"""The nice value of a step that may run beside a measurement: a tenth of the CPU time that the measured process has on the same CPU."""

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def drop_network() -> bool:
    """Move this process into its own network namespace, which only has a loopback interface that is down (unshare(2)).

    A model's weights and code are untrusted, and loading them is not sandboxed, but at least they cannot access the
    network. An unprivileged process needs a user namespace for this, if the system allows that.

    Returns:
        Whether it succeeded; some containers allow neither.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    # The same user inside, so files are accessed with the same permissions as before.
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


def _used_code(job: WorkerJob, began: float) -> tuple[UserCode, str | None]:
    if job.import_roots is None:
        return NO_USER_CODE, None
    own = [Path(path) for path in (job.output, job.scratch, *job.inputs.values())]
    return used_code(ImportPath(Path(job.project), job.import_roots), own, began)


def _ending(error: BaseException, otherwise: Ending) -> Ending:
    """How a step ends if the machine is behind an error, however deep libraries have wrapped it; otherwise `otherwise`."""
    if any(isinstance(each, OSError) and each.errno in DISK_FULL for each in causes_of(error)):
        return Ending.DISK
    if is_out_of_memory(error):
        return Ending.MEMORY
    return Ending.EXCEPTION if is_transient(error) else otherwise


def _log_traceback() -> None:
    """Write to the log, unless its disk is full; the result contains the error in any case."""
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
    ending, error, keeps_output = Ending.DONE, None, False
    try:
        summary = _load(job.function)(context)
    except StepError as refusal:
        _log_traceback()
        ending, error = _ending(refusal, Ending.REFUSED), refusal.diagnostic
        keeps_output = refusal.keeps_output
    except StoreFailed as told:  # such as a document of another version of mlo: it says what to do about it
        _log_traceback()
        ending, error = _ending(told, Ending.EXCEPTION), told.diagnostics[0]
    except Exception as unforeseen:  # noqa: BLE001 - the parent gets it in the result; the log has the traceback
        _log_traceback()
        ending, error = _ending(unforeseen, Ending.EXCEPTION), unexpected(unforeseen)
    found, changed = _used_code(job, began)
    if changed is not None:
        ending = Ending.CHANGED
        error = Diagnostic(
            "E405",
            f"{changed} changed while {job.step} was running",
            cause="the step may have used the old code",
            remedy="run the same command again once the file is complete",
            at=("model", "source", "factory"),
        )
    return WorkerResult(ending=ending, summary=summary, error=error, found=found, keeps_output=keeps_output)


def main(argv: list[str]) -> int:
    """Run the job file in `argv`; returns 0 if the step is done, otherwise 1.

    With `--again FILE` it runs in a new folder, as in the reproduce script.
    """
    faulthandler.enable()
    # A framework is hundreds of thousands of objects that stay: looking through them while they are imported, every 700 new
    # ones, and again at the end takes a third of the time of `import torch`.
    gc.set_threshold(_NEW_OBJECTS)
    keep_apart()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and ends workers with SIGTERM
    again = argv[0] == "--again"
    try:
        job = WorkerJob.read(Path(argv[-1]))
    except StoreFailed as error:
        sys.exit(f"error[{error.diagnostics[0].code}]: {error.diagnostics[0].sentence}")
    if again:
        job = _elsewhere(job)
    if job.light:
        os.nice(_LOW_PRIORITY)
    if not job.network and not drop_network():
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
        os._exit(EXIT_DISK_FULL)  # exit at once: an orderly exit would try to write to the log again
    if again:
        sys.stdout.write(f"result: {job.result}\noutput: {job.output}\n")
    gc.freeze()
    return 0 if result.error is None else 1


def _elsewhere(job: WorkerJob) -> WorkerJob:
    """The same job, with its output in a new folder that is kept."""
    folder = Path(tempfile.mkdtemp(prefix=f"mlo-{job.step}-"))
    for name in ("output", "scratch"):
        (folder / name).mkdir()
    places = {name: str(folder / name) for name in ("output", "scratch")}
    return job.model_copy(update={**places, "result": str(folder / "result.json")})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
