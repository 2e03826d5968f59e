"""Computes one step: lock on its key, a worker in a scratch folder, the result into the store, the receipt last."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator import __version__
from orchestrator.engine.cause import describe_failure, is_remembered
from orchestrator.engine.events import Observer, StepProgress, StepStarted, Waiting
from orchestrator.engine.request import WorkerRequest
from orchestrator.engine.stop import Stop
from orchestrator.engine.worker_process import WorkerEnd, run_worker
from orchestrator.errors import Busy
from orchestrator.plan.resolve import Outcome, Resolved, Resolver, fates_document
from orchestrator.plan.step import FileInput, Plan, Step
from orchestrator.store.crash_points import crash_point
from orchestrator.store.digest import digest_file
from orchestrator.store.home import Home
from orchestrator.store.locks import lock
from orchestrator.store.receipts import Receipt, Receipts
from orchestrator.store.trees import TreeStore

__all__ = ["Executor"]


class Executor:
    """Computes steps of one plan as child processes on this machine.

    Args:
        plan: the plan.
        resolver: finds keys, inputs and results.
        home: the store.
        observer: hears what happens; called from several threads.
        stop: whether to stop.
    """

    def __init__(self, plan: Plan, resolver: Resolver, home: Home, observer: Observer, stop: Stop) -> None:
        self._plan = plan
        self._resolver = resolver
        self._home = home
        self._observer = observer
        self._stop = stop
        self._trees = TreeStore(home)
        self._receipts = Receipts(home)

    def compute(self, step: Step, resolved: Resolved, outcomes: Mapping[str, Outcome]) -> Outcome:
        """Run the step, unless somebody else has computed its key meanwhile.

        Raises:
            StoreFailed: the result cannot be kept.
            Busy: whoever computes the same key does not come to an end.
        """
        with self._locked(step, self._home.locks / f"key-{resolved.key}.lock", step.timeout * 2):
            if resolved.status != "forced":
                again = self._resolver.resolve(step, outcomes)
                if again is not None and again.outcome is not None:
                    return again.outcome
            if not step.exclusive:
                return self._run(step, resolved, outcomes)
            # Two measurements at once would measure each other: one at a time for each user of the machine.
            with self._locked(step, _measuring_lock(self._home), 4 * 3600.0):
                return self._run(step, resolved, outcomes)

    @contextmanager
    def _locked(self, step: Step, path: Path, timeout: float) -> Iterator[None]:
        """Hold a lock; waiting for it ends when somebody asks to stop."""
        told = ""

        def waiting(holder: str) -> None:
            nonlocal told
            if holder != told:
                told = holder
                self._observer(Waiting(step.id, holder))

        until = time.monotonic() + timeout
        with ExitStack() as held:
            while True:
                try:
                    held.enter_context(lock(path, timeout=0.5, info={"what": step.id}, on_wait=waiting))
                    break
                except Busy:
                    if self._stop.level or time.monotonic() > until:
                        raise
            yield

    def _run(self, step: Step, resolved: Resolved, outcomes: Mapping[str, Outcome]) -> Outcome:
        self._observer(StepStarted(step.id, resolved.reason))
        record = self._home.logs / f"{step.id}-{resolved.key[:12]}"
        record.mkdir(parents=True, exist_ok=True)
        with self._home.scratch_folder() as scratch:
            crash_point("engine.before-worker")
            request = self._request(step, outcomes, scratch, record)
            _write_reproduce_script(record)
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
            if end.how == "done":
                error = self._moved_inputs(step, resolved)
                if error is None:
                    return self._keep(step, resolved, end, Path(request.output), started)
            else:
                error = describe_failure(step, end)
            notes = (*error["notes"], f"log: {record / 'log.txt'}", f"reproduce: {record / 'reproduce.sh'}")
            error = {**error, "notes": list(notes)}
            receipt = None
            if step.candidate is not None and is_remembered(end):
                receipt = self._receipt(step, resolved, end, started, error=error)
                self._receipts.write(receipt)
            return Outcome("failed", receipt, error)

    def _request(self, step: Step, outcomes: Mapping[str, Outcome], scratch: Path, record: Path) -> WorkerRequest:
        for name in ("output", "scratch"):
            (scratch / name).mkdir()
        inputs = self._resolver.input_paths(step, outcomes)
        if step.gathers_fates:
            inputs["fates"] = record / "fates.json"
            inputs["fates"].write_bytes(fates_document(self._plan, outcomes))
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
        return Outcome("done", receipt)

    def _receipt(
        self,
        step: Step,
        resolved: Resolved,
        end: WorkerEnd,
        started: datetime,
        *,
        manifest: Any = None,
        error: Any = None,
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

    def _moved_inputs(self, step: Step, resolved: Resolved) -> Mapping[str, Any] | None:
        """A file of the user's that is no longer what the key says: the result would be kept under a false key."""
        named = {role: source for role, source in step.inputs.items() if isinstance(source, FileInput)}
        for role, source in named.items():
            if digest_file(source.path) != resolved.parts["inputs"][role]:
                return {
                    "code": "E405",
                    "message": f"{source.path.name} changed while {step.id} was reading it",
                    "cause": "its content is not what it was when the step was started",
                    "remedy": "run the same command again once the file is complete",
                    "at": list(source.at),
                    "notes": [],
                }
        return None


def _measuring_lock(home: Home) -> Path:
    """One lock for all stores of a user, or this store's own where the user has no cache folder to write to."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return home.locks / "measuring.lock"
    return folder / "measuring.lock" if os.access(folder, os.W_OK) else home.locks / "measuring.lock"


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
