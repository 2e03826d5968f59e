"""Runs steps as child processes on this machine: a scratch folder, a log, a script that runs the step again."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.executors.cause import describe_failure
from orchestrator.engine.executors.child import run_worker
from orchestrator.engine.executors.executor import RequestInput, StepEnd, StepRequest, StoredInput, UserInput
from orchestrator.engine.executors.job import WorkerJob
from orchestrator.engine.stop import Stop
from orchestrator.errors import StepFailed, StoreFailed
from orchestrator.machine.user_code import ImportPath, changed_code
from orchestrator.steps.context import Ending
from orchestrator.store.crash_points import crash_point
from orchestrator.store.digest import digest_path
from orchestrator.store.failures import store_errors
from orchestrator.store.store import Store
from orchestrator.store.user_code import NO_USER_CODE

__all__ = ["LocalExecutor"]

_NO_ROOM = 2**20
"""With fewer bytes left on the store's disk, a failure is attributed to the full disk: libraries fail in many ways then."""


class LocalExecutor:
    """Child processes on this machine.

    Args:
        store: where inputs are and outputs go.
        project: the folder that the user's files are relative to.
        roots: the further folders that they may be relative to, by name.
    """

    def __init__(self, store: Store, project: Path, roots: Mapping[str, Path]) -> None:
        self._store = store
        self._project = project
        self._roots = roots

    def run(self, request: StepRequest, stop: Stop, progress: Callable[[str, float | None], None]) -> StepEnd:
        """See `Executor.run`."""
        record = self._store.home.logs / f"{request.step}-{request.key[:12]}"
        with self._store.scratch_folder() as scratch:
            crash_point("engine.before-worker")
            with store_errors("write", record):
                record.mkdir(parents=True, exist_ok=True)
                job = self._job(request, scratch, record)
                job.write(record / "job.json")
                _write_reproduce_script(record, request)
                (record / "log.txt").write_bytes(b"")
            end = run_worker(
                job,
                record / "job.json",
                record / "log.txt",
                timeout=request.timeout,
                stop=stop,
                exclusive=request.exclusive,
                progress=progress,
            )
            crash_point("engine.after-worker")
            ending, error, output = Ending.DONE, None, None
            if (changed := self._changed_input(request)) is not None:
                ending, error = Ending.CHANGED, changed
            elif end.ending is not Ending.DONE:
                full = shutil.disk_usage(scratch).free < _NO_ROOM
                ending, error = describe_failure(request, end, disk_full=full)
            explained = ending is Ending.REFUSED and end.result is not None and end.result.keeps_output
            if error is None or explained:
                output = self._store.trees.commit(Path(job.output))
            if error is not None:
                notes = (*error.notes, f"log: {record / 'log.txt'}", f"reproduce: {record / 'reproduce.sh'}")
                error = replace(error, notes=notes)
            result = end.result
            return StepEnd(
                ending=ending,
                error=error,
                output=output,
                summary={} if result is None else result.summary,
                found=NO_USER_CODE if result is None else result.found,
                seconds=end.seconds,
                peak_bytes=end.peak,
            )

    def _job(self, request: StepRequest, scratch: Path, record: Path) -> WorkerJob:
        for name in ("output", "scratch"):
            (scratch / name).mkdir()
        return WorkerJob(
            format=1,
            step=request.step,
            function=request.function,
            params=request.params,
            inputs={role: str(self._path(source, record)) for role, source in request.inputs.items()},
            output=str(scratch / "output"),
            scratch=str(scratch / "scratch"),
            project=str(self._project),
            result=str(scratch / "result.json"),
            network=request.network,
            import_roots=None if request.user_code is None else request.user_code.path,
            variables=() if request.user_code is None else request.user_code.env,
            containers=request.containers,
            accelerator=request.accelerator,
            light=request.light,
        )

    def _path(self, source: RequestInput, record: Path) -> Path:
        if isinstance(source, StoredInput):
            folder = self._store.trees.path(source.digest)
            return folder / source.file if source.file else folder
        if isinstance(source, UserInput):
            return self._user_file(source)
        file = record / source.name
        file.write_text(source.content, encoding="utf-8")
        return file

    def _user_file(self, source: UserInput) -> Path:
        folder = self._roots.get(source.root) if source.root else self._project
        if folder is None:
            raise StepFailed(
                Diagnostic(
                    "E203",
                    f"{source.path} cannot be found where the step should run",
                    cause=f"it lies outside of the spec's folder, and no folder is known there for `{source.root}`",
                    remedy="move it into the spec's folder",
                    at=source.at,
                )
            )
        return folder / source.path

    def _changed_input(self, request: StepRequest) -> Diagnostic | None:
        """A user file whose content has changed since the request, so that the result would be stored under a wrong key."""
        for source in (*request.inputs.values(), *request.code):
            if not isinstance(source, UserInput):
                continue
            path = self._user_file(source)
            if _digest_or_none(path) != source.sha256:
                return Diagnostic(
                    "E405",
                    f"{path.name} changed while {request.step} was reading it",
                    cause="its content has changed since the step was started",
                    remedy="run the same command again once the file is complete",
                    at=source.at,
                )
        if request.user_code is None:
            return None
        path_of_modules = ImportPath(self._project, request.user_code.path)
        if (changed := changed_code(request.imported_code, path_of_modules)) is not None:
            return Diagnostic(
                "E405",
                f"the model's code changed while {request.step} was running: {changed}",
                cause="the step may have used other code than `import`",
                remedy="run the same command again once the code is complete",
                at=("model", "source", "factory"),
            )
        return None


def _digest_or_none(path: Path) -> str | None:
    try:
        return digest_path(path)
    except (OSError, StoreFailed):
        return None  # it was removed, or can no longer be read


def _write_reproduce_script(record: Path, request: StepRequest) -> None:
    """A script beside the job that runs the step alone, as mlo ran it."""
    script = record / "reproduce.sh"
    path = os.environ.get("PYTHONPATH")
    variables = () if request.user_code is None else request.user_code.env
    script.write_text(
        "#!/bin/sh\n"
        "# Runs this step alone, as mlo ran it. Its output stays in a new folder, which is printed.\n"
        "set -eu\n"
        + (f"export PYTHONPATH={shlex.quote(path)}\n" if path else "")
        + (f"# It reads these variables, whose values are not kept: {', '.join(variables)}\n" if variables else "")
        + "export PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1\n"
        'here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)\n'
        f'exec {shlex.quote(sys.executable)} -P -m orchestrator.engine.worker --again "$here/job.json"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
