"""Computes one step: lock on its key, a worker in a scratch folder, the result into the store, the receipt last."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from orchestrator import __version__
from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.cause import describe_failure
from orchestrator.engine.request import WorkerRequest
from orchestrator.engine.stop import Stop
from orchestrator.engine.worker_process import WorkerEnd, run_worker
from orchestrator.errors import Busy, StoreFailed
from orchestrator.events import Observer, StepProgress, StepStarted, Waiting
from orchestrator.plan.resolve import Outcome, Resolved, Resolver, fates_document
from orchestrator.plan.step import FileInput, Plan, Step
from orchestrator.steps import Ending
from orchestrator.store.crash_points import crash_point
from orchestrator.store.digest import Manifest, digest_path
from orchestrator.store.failures import store_errors
from orchestrator.store.home import Home
from orchestrator.store.locks import lock, share
from orchestrator.store.receipts import Receipt
from orchestrator.store.store import Store

__all__ = ["Executor"]

_TRIFLES = ("select", "render")
"""Kinds of steps that take a moment of one CPU: they neither wait for a measurement nor hold one up."""

_NO_ROOM = 2**20
"""Bytes left on the store's disk below which a failure is put down to it: libraries die of it in many ways."""


class Executor:
    """Computes steps of one plan as child processes on this machine.

    Args:
        plan: the plan.
        resolver: finds keys, inputs and results.
        store: where results and receipts are kept.
        observer: hears what happens; called from several threads.
        stop: whether to stop.
    """

    def __init__(self, plan: Plan, resolver: Resolver, store: Store, observer: Observer, stop: Stop) -> None:
        self._plan = plan
        self._resolver = resolver
        self._store = store
        self._observer = observer
        self._stop = stop
        self._trees = store.trees
        self._receipts = store.receipts

    def compute(self, step: Step, resolved: Resolved, outcomes: Mapping[str, Outcome]) -> Outcome:
        """Run the step, unless somebody else has computed its key meanwhile.

        Raises:
            StoreFailed: the result cannot be kept.
            Busy: it was waiting for somebody else when it was asked to stop.
        """
        with self._locked(step, self._store.home.lock_file(f"key-{resolved.key}"), lock):
            if resolved.status != "forced":
                again = self._resolver.resolve(step, outcomes)
                if again is not None and again.outcome is not None:
                    return again.outcome
            # Whatever runs beside a measurement is measured too: a step that measures holds this lock alone, any other
            # shares it, in all stores of this user.
            if step.kind in _TRIFLES:
                return self._run(step, resolved, outcomes)
            with self._locked(step, _measuring_lock(self._store.home), lock if step.exclusive else share):
                return self._run(step, resolved, outcomes)

    @contextmanager
    def _locked(self, step: Step, path: Path, kind: Callable[..., AbstractContextManager[None]]) -> Iterator[None]:
        """Hold a lock. Its holder lives, or the kernel would have freed it, so there is no time-out but Ctrl-C."""
        told = ""

        def waiting(holder: str) -> None:
            nonlocal told
            if holder != told:
                told = holder
                self._observer(Waiting(step.id, holder))

        with ExitStack() as held:
            while True:
                try:
                    held.enter_context(kind(path, timeout=0.5, info={"what": step.id}, on_wait=waiting))
                    break
                except Busy:
                    if self._stop.level:
                        raise
            yield

    def _run(self, step: Step, resolved: Resolved, outcomes: Mapping[str, Outcome]) -> Outcome:
        self._observer(StepStarted(step.id, resolved.reason))
        record = self._store.home.logs / f"{step.id}-{resolved.key[:12]}"
        with self._store.scratch_folder() as scratch:
            crash_point("engine.before-worker")
            with store_errors("write", record):
                record.mkdir(parents=True, exist_ok=True)
                request = self._request(step, outcomes, scratch, record)
                request.write(record / "request.json")
                _write_reproduce_script(record)
                (record / "log.txt").write_bytes(b"")
            started = datetime.now(UTC)
            end = run_worker(
                request,
                record / "request.json",
                record / "log.txt",
                timeout=step.timeout,
                stop=self._stop,
                exclusive=step.exclusive,
                progress=lambda message, fraction: self._observer(StepProgress(step.id, message, fraction)),
            )
            crash_point("engine.after-worker")
            changed = self._changed_input(step, resolved)
            if end.ending is Ending.DONE and changed is None:
                return self._keep(step, resolved, end, Path(request.output), started)
            if changed is not None:
                ending, error = Ending.CHANGED, changed
            else:
                full = shutil.disk_usage(scratch).free < _NO_ROOM
                ending, error = describe_failure(step, end, disk_full=full)
            notes = (*error.notes, f"log: {record / 'log.txt'}", f"reproduce: {record / 'reproduce.sh'}")
            error = replace(error, notes=notes)
            receipt = None
            # Only a refusal will come again with the same key; anything else may have been chance.
            if step.candidate is not None and ending is Ending.REFUSED:
                receipt = self._receipt(step, resolved, end, started, error=error)
                self._receipts.write(receipt)
            return Outcome("failed", receipt, error, ending)

    def _request(self, step: Step, outcomes: Mapping[str, Outcome], scratch: Path, record: Path) -> WorkerRequest:
        for name in ("output", "scratch"):
            (scratch / name).mkdir()
        inputs = self._resolver.input_paths(step, outcomes)
        if step.gathers_fates:
            inputs["fates"] = record / "fates.json"
            inputs["fates"].write_bytes(fates_document(self._plan, outcomes).as_bytes())
        return WorkerRequest(
            step=step.id,
            function=step.function,
            params=step.params,
            inputs={role: str(path) for role, path in inputs.items()},
            output=str(scratch / "output"),
            scratch=str(scratch / "scratch"),
            project=str(self._plan.project),
            result=str(scratch / "result.json"),
            network=step.network,
        )

    def _keep(self, step: Step, resolved: Resolved, end: WorkerEnd, output: Path, started: datetime) -> Outcome:
        manifest = self._trees.commit(output)
        crash_point("engine.before-receipt")
        receipt = self._receipt(step, resolved, end, started, manifest=manifest)
        self._receipts.write(receipt)
        crash_point("engine.after-receipt")
        return Outcome("done", receipt, ending=Ending.DONE)

    def _receipt(
        self,
        step: Step,
        resolved: Resolved,
        end: WorkerEnd,
        started: datetime,
        *,
        manifest: Manifest | None = None,
        error: Diagnostic | None = None,
    ) -> Receipt:
        result = end.result
        return Receipt(
            key=resolved.key,
            step=step.id,
            kind=step.kind,
            deployment=self._plan.name,
            outcome="failed" if error is not None else "done",
            parts=dict(resolved.parts),
            manifest=manifest,
            summary=dict(result.summary) if result is not None else {},
            error=error,
            found=dict(result.found) if result is not None else {},
            seconds=round(end.seconds, 3),
            peak_bytes=end.peak,
            started=started.isoformat(timespec="seconds"),
            version=__version__,
        )

    def _changed_input(self, step: Step, resolved: Resolved) -> Diagnostic | None:
        """A file of the user's that is no longer what the key says: the result would be kept under a false key."""
        inputs = resolved.parts["inputs"]
        watched = [(s, inputs[role]) for role, s in step.inputs.items() if isinstance(s, FileInput)]
        watched += [(s, resolved.parts["code"][self._resolver.relative(s.path)]) for s in step.code]
        for source, recorded in watched:
            if _digest_or_none(source.path) != recorded:
                return Diagnostic(
                    "E405",
                    f"{source.path.name} changed while {step.id} was reading it",
                    cause="its content is not what it was when the step was started",
                    remedy="run the same command again once the file is complete",
                    at=source.at,
                )
        return None


def _digest_or_none(path: Path) -> str | None:
    try:
        return digest_path(path)
    except (OSError, StoreFailed):
        return None  # it is gone, or has become what cannot be read


def _measuring_lock(home: Home) -> Path:
    """One lock for all stores of a user, or this store's own where the user has no cache folder to write to."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return home.lock_file("measuring")
    return folder / "measuring.lock" if os.access(folder, os.W_OK) else home.lock_file("measuring")


def _write_reproduce_script(record: Path) -> None:
    """A script beside the request that runs the step alone, as mlo ran it."""
    script = record / "reproduce.sh"
    path = os.environ.get("PYTHONPATH")
    script.write_text(
        "#!/bin/sh\n"
        "# Runs this step alone, as mlo ran it. Its output stays in a new folder, which is printed.\n"
        "set -eu\n"
        + (f"export PYTHONPATH={shlex.quote(path)}\n" if path else "")
        + "export PYTHONHASHSEED=0 PYTHONDONTWRITEBYTECODE=1\n"
        'here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)\n'
        f'exec {shlex.quote(sys.executable)} -P -m orchestrator.engine.worker --again "$here/request.json"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
