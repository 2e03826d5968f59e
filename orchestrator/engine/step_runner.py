"""Runs one step: takes the lock on its key, has an executor run it, and writes the receipt last."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from orchestrator import __version__
from orchestrator.artifacts.fates import Fates
from orchestrator.engine.executors.executor import (
    Executor,
    InlineInput,
    RequestInput,
    StepEnd,
    StepRequest,
    StoredInput,
    UserInput,
)
from orchestrator.engine.stop import Stop
from orchestrator.errors import Busy
from orchestrator.events import Observer, Queued, StepProgress, StepStarted, Waiting
from orchestrator.plan.resolve import Outcome, Resolved, Resolver, fates_document
from orchestrator.plan.step import FileInput, Plan, Step, Took
from orchestrator.steps.context import Ending
from orchestrator.store.crash_points import crash_point
from orchestrator.store.locks import lock
from orchestrator.store.receipts import Receipt
from orchestrator.store.store import Store
from orchestrator.store.turns import in_turn, measuring_lock

__all__ = ["StepRunner"]


class StepRunner:
    """Runs the steps of one plan, each only once, even if several commands need it.

    Args:
        plan: the plan.
        resolver: finds keys, inputs and results.
        store: where results and receipts are kept.
        observer: gets the events, from several threads.
        stop: whether to stop.
        executor: where steps run.
    """

    def __init__(
        self, plan: Plan, resolver: Resolver, store: Store, observer: Observer, stop: Stop, executor: Executor
    ) -> None:
        self._plan = plan
        self._resolver = resolver
        self._store = store
        self._observer = observer
        self._stop = stop
        self._executor = executor

    def follow(self, plan: Plan) -> None:
        """Use the expanded plan from now on."""
        self._plan = plan

    def compute(self, step: Step, resolved: Resolved, outcomes: Mapping[str, Outcome]) -> Outcome:
        """Run the step, unless another command has computed its key meanwhile.

        Raises:
            StoreFailed: the result cannot be kept.
            Busy: it was waiting for another command when it was asked to stop.
        """
        # Anything that runs at the same time affects a measurement: steps that measure hold the lock of measurements exclusively,
        # all others share it, across all stores of this user. It is taken first: whoever holds the lock of a key runs the step,
        # and a light step with the same key waits no longer than that takes.
        with (
            nullcontext() if step.light else self._in_turn(step),
            self._locked(step, self._store.home.lock_file(f"key-{resolved.key}")),
        ):
            if resolved.status != "forced":
                again = self._resolver.resolve(step, outcomes)
                if again is not None and again.outcome is not None:
                    self._store.receipts.remember(self._plan.name, step.id, again.key)
                    return again.outcome
            return self._run(step, resolved, outcomes)

    @contextmanager
    def _locked(self, step: Step, path: Path) -> Iterator[None]:
        """Hold a lock. Its holder is alive, or the kernel would have released it, so only Ctrl-C ends the wait."""
        shown = ""

        def waiting(holder: str) -> None:
            nonlocal shown
            if holder != shown:
                shown = holder
                self._observer(Waiting(step.id, holder))

        with ExitStack() as held:
            while True:
                try:
                    held.enter_context(lock(path, timeout=0.5, info={"what": step.id}, on_wait=waiting))
                    break
                except Busy:
                    if self._stop.level:
                        raise
            yield

    def _in_turn(self, step: Step) -> AbstractContextManager[None]:
        """Hold the lock of measurements, first come, first served; only Ctrl-C ends the wait."""
        return in_turn(
            measuring_lock(self._store.home),
            shared=not step.exclusive,
            info={"what": step.id},
            on_wait=lambda place: self._observer(Queued(step.id, place.number, place.behind_exclusive, place.holder)),
            given_up=lambda: self._stop.level > 0,
        )

    def _run(self, step: Step, resolved: Resolved, outcomes: Mapping[str, Outcome]) -> Outcome:
        before = self._store.receipts.latest(step.id, self._plan.name)
        usual = before.seconds if before is not None and before.outcome == "done" else None
        self._observer(StepStarted(step.id, resolved.reason, usual))
        request = self._request(step, resolved, outcomes)
        # No garbage collection until the receipt of the output is written.
        with self._store.in_use(f"running {step.id}"):
            started = datetime.now(UTC)
            end = self._executor.run(
                request,
                self._stop,
                lambda message, fraction: self._observer(StepProgress(step.id, message, fraction)),
            )
            receipt = None
            # Only a refusal is certain to recur with the same key; any other failure may have been chance. One that is not
            # a candidate's fate ends the run, and is only kept with what explains it.
            kept = step.candidate is not None or end.output is not None
            if end.ending is Ending.DONE or (kept and end.ending is Ending.REFUSED):
                crash_point("engine.before-receipt")
                receipt = self._receipt(step, resolved, end, started)
                self._store.receipts.write(receipt)
                crash_point("engine.after-receipt")
        took = Took(started.timestamp(), end.seconds) if receipt is None else None
        return Outcome("done" if end.ending is Ending.DONE else "failed", receipt, end.error, end.ending, took)

    def _request(self, step: Step, resolved: Resolved, outcomes: Mapping[str, Outcome]) -> StepRequest:
        digests, code = resolved.parts["inputs"], resolved.parts.get("code", {})
        inputs: dict[str, RequestInput] = {}
        for role, source in self._resolver.present_inputs(step, outcomes).items():
            if isinstance(source, FileInput):
                inputs[role] = self._user_file(source, digests[role])
            else:
                inputs[role] = StoredInput(digest=self._resolver.tree_of(source, outcomes), file=source.file)
        if step.gathers_fates:
            fates = fates_document(self._plan, outcomes).as_bytes().decode()
            inputs["fates"] = InlineInput(name=Fates.FILE, content=fates)
        return StepRequest(
            key=resolved.key,
            step=step.id,
            function=step.function,
            params=dict(step.params),
            inputs=inputs,
            code=tuple(self._user_file(file, code[file.name(self._plan.project)]) for file in step.code),
            user_code=step.user_code,
            imported_code=self._resolver.code_of_import(step, outcomes),
            network=step.network,
            containers=step.containers,
            accelerator=step.accelerator,
            exclusive=step.exclusive,
            light=step.light,
            timeout=step.timeout,
            at=step.at,
        )

    def _user_file(self, source: FileInput, sha256: str) -> UserInput:
        root = "" if source.root is None else source.root.name
        return UserInput(root=root, path=source.name(self._plan.project), sha256=sha256, at=source.at)

    def _receipt(self, step: Step, resolved: Resolved, end: StepEnd, started: datetime) -> Receipt:
        return Receipt(
            key=resolved.key,
            step=step.id,
            kind=step.kind,
            deployment=self._plan.name,
            outcome="done" if end.ending is Ending.DONE else "failed",
            parts=dict(resolved.parts),
            manifest=end.output,
            summary=dict(end.summary),
            error=end.error,
            found=end.found,
            seconds=round(end.seconds, 3),
            peak_bytes=end.peak_bytes,
            started=started.isoformat(timespec="seconds"),
            version=__version__,
        )
