"""Runs a plan: cached results are reused, steps run in parallel where they can, and steps that measure run alone."""

from __future__ import annotations

import os
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.executors.cause import ENDS_THE_RUN
from orchestrator.engine.executors.executor import Executor
from orchestrator.engine.executors.local import LocalExecutor
from orchestrator.engine.step_runner import StepRunner
from orchestrator.engine.stop import Stop, stop_on_signals
from orchestrator.errors import Busy, Interrupted, StepFailed
from orchestrator.events import Observer, StepEnded, StepsPlanned, Stopping
from orchestrator.plan.expand import expand, held_back
from orchestrator.plan.resolve import Outcome, Resolver
from orchestrator.plan.step import Plan, Step
from orchestrator.spec.load import LoadedSpec
from orchestrator.steps.context import Ending
from orchestrator.store.store import Store

__all__ = ["run_plan"]


def run_plan(
    loaded: LoadedSpec,
    plan: Plan,
    resolver: Resolver,
    store: Store,
    *,
    observer: Observer,
    stop: Stop,
    forced: frozenset[str] = frozenset(),
    jobs: int | None = None,
    executor: Executor | None = None,
) -> dict[str, Outcome]:
    """Run all steps of the plan that are not live.

    If a candidate's step fails, that is the candidate's fate; any other failure ends the run.

    Args:
        loaded: the spec, so that errors point at the right line.
        plan: what to run.
        resolver: finds keys and results.
        store: where results and receipts are kept.
        observer: gets the events, from several threads.
        stop: asked by Ctrl-C.
        forced: ids of steps to run even if they are cached.
        jobs: the maximum number of concurrent workers; by default the number of CPUs of this process.
        executor: where steps run; child processes on this machine by default.

    Raises:
        StepFailed: a step failed that is not a candidate's.
        Interrupted: Ctrl-C.
    """
    executor = executor or LocalExecutor(store, plan.project, plan.roots)
    runner = StepRunner(plan, resolver, store, observer, stop, executor)
    run = _Run(loaded, plan, resolver, runner, store, observer=observer, stop=stop)
    resolver.follow(plan)  # which a preview may have let grow
    run.forced = forced
    run.jobs = jobs or len(os.sched_getaffinity(0))
    with stop_on_signals(stop):
        return run.to_the_end()


class _Run:
    forced: frozenset[str] = frozenset()
    jobs: int = 1

    def __init__(
        self,
        loaded: LoadedSpec,
        plan: Plan,
        resolver: Resolver,
        runner: StepRunner,
        store: Store,
        *,
        observer: Observer,
        stop: Stop,
    ) -> None:
        self._loaded = loaded
        self._plan = plan
        self._resolver = resolver
        self._runner = runner
        self._receipts = store.receipts
        self._trees = store.trees
        self._observer = observer
        self._stop = stop
        self._waiting = [step for step in plan.steps if not step.live]
        self._running: dict[Future[Outcome], Step] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._announced = 0
        self._announce_plan()
        self._expand()

    def to_the_end(self) -> dict[str, Outcome]:
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while self._waiting or self._running:
                    self._announce_stop()
                    if self._stop.level == 0:
                        self._advance(pool)
                    if not self._running:
                        break
                    done, _ = wait(self._running, timeout=0.2, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._ended(self._running.pop(future), future)
            except BaseException:
                # Workers must not outlive the run: end them before the pool waits for its threads.
                self._stop.end_now()
                raise
        self._announce_stop()
        if self._stop.level:
            raise Interrupted(
                Diagnostic(
                    code="E407",
                    message="interrupted",
                    cause=self._stop.cause,
                    remedy="run the same command again: finished steps are kept",
                )
            )
        return self._outcomes

    def _expand(self) -> None:
        """Replace the plan by its expansion, unless nothing is started any more."""
        if self._stop.level:
            return
        grown = expand(self._plan, self._outcomes, self._trees)
        if grown is self._plan:
            return
        begun = {*self._outcomes, *(step.id for step in self._running.values())}
        self._plan = grown
        self._waiting = [step for step in grown.steps if not step.live and step.id not in begun]
        self._resolver.follow(grown)
        self._runner.follow(grown)
        self._announce_plan()

    def _announce_plan(self) -> None:
        live = frozenset(step.id for step in self._plan.steps if step.live)
        self._observer(StepsPlanned(frozenset(step.id for step in self._plan.steps) - live, live))

    def _announce_stop(self) -> None:
        """Announce the effect of Ctrl-C or SIGTERM, once for each level that was reached."""
        if self._announced < self._stop.level:
            self._announced = self._stop.level
            self._observer(Stopping(self._announced, tuple(step.id for step in self._running.values())))
            self._stop.announced = self._announced

    def _advance(self, pool: ThreadPoolExecutor) -> None:
        """Finish steps that need no work, and start those that can run now."""
        progressed = True
        while progressed:
            progressed = False
            for step in list(self._waiting):
                if step not in self._waiting or not self._is_ready(step):  # the plan may have grown meanwhile
                    continue
                if reason := self._resolver.skipped_because(step, self._outcomes):
                    self._waiting.remove(step)
                    self._skip(step, reason)
                    progressed = True
                    continue
                resolved = self._resolver.resolve(step, self._outcomes, forced=step.id in self.forced)
                if resolved is None:
                    continue
                if resolved.outcome is not None:
                    self._waiting.remove(step)
                    self._receipts.remember(self._plan.name, step.id, resolved.key)
                    self._settle(step, resolved.outcome, "cached", 0.0, resolved.reason)
                    progressed = True
                elif self._has_room_for(step):
                    self._waiting.remove(step)
                    self._running[pool.submit(self._runner.compute, step, resolved, dict(self._outcomes))] = step

    def _is_ready(self, step: Step) -> bool:
        gathered = {s.id for s in self._plan.steps if s.candidate is not None} if step.gathers_fates else set()
        if step.id in held_back(self._plan):
            return False
        return all(producer in self._outcomes for producer in {*step.producers, *gathered})

    def _has_room_for(self, step: Step) -> bool:
        if any(running.exclusive for running in self._running.values()):
            return False
        return not self._running if step.exclusive else len(self._running) < self.jobs

    def _skip(self, step: Step, message: str) -> None:
        self._outcomes[step.id] = Outcome("skipped", None, Diagnostic("E408", message, at=step.at))
        self._expand()
        self._observer(StepEnded(step.id, "skipped", 0.0, message))

    def _ended(self, step: Step, future: Future[Outcome]) -> None:
        try:
            outcome = future.result()
        except Busy:
            if self._stop.level:
                return  # it stopped waiting for a lock because of Ctrl-C
            raise
        receipt = outcome.receipt
        seconds, line = (0.0, "") if receipt is None else (receipt.seconds, str(receipt.summary.get("line", "")))
        self._settle(step, outcome, "done", seconds, line)

    def _settle(self, step: Step, outcome: Outcome, how: Any, seconds: float, detail: str) -> None:
        self._outcomes[step.id] = outcome
        if outcome.status == "done":
            self._expand()
            self._observer(StepEnded(step.id, how, seconds, detail))
            return
        assert outcome.error is not None, "a step that is not done says why"
        stopped = outcome.ending is Ending.STOPPED
        reason = self._stop.cause if stopped else outcome.error.message
        self._observer(StepEnded(step.id, "stopped" if stopped else "failed", seconds, reason))
        if self._stop.level:
            return  # nothing is started any more, and a step that was stopped says nothing about its candidate
        if step.candidate is None or outcome.ending in ENDS_THE_RUN:
            manifest = None if outcome.receipt is None else outcome.receipt.manifest
            explained_in = None if manifest is None else self._trees.path(manifest.digest)
            raise StepFailed(self._loaded.located(outcome.error), explained_in=explained_in)
        self._expand()
