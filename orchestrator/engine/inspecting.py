"""Runs the step that reads a model's tensors, which must be known before there is a plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.artifacts.inspection import Inspection
from orchestrator.engine.executors.local import LocalExecutor
from orchestrator.engine.step_runner import StepRunner
from orchestrator.engine.stop import Stop, stop_on_signals
from orchestrator.errors import Interrupted, StepFailed
from orchestrator.events import Observer, StepEnded
from orchestrator.machine.here import Here
from orchestrator.plan.resolve import Resolver
from orchestrator.plan.step import Plan, Step
from orchestrator.plan.steps.source import inspect_step
from orchestrator.spec.load import LoadedSpec
from orchestrator.store.store import Store

__all__ = ["read_model", "run_single_step"]


class _AtOnce(Stop):
    """A stop that is immediate at the first Ctrl-C, because nothing is lost."""

    def ask(self) -> int:
        """See `Stop.ask`."""
        super().ask()
        self.announced = 2
        return super().ask()


def read_model(loaded: LoadedSpec, here: Here, store: Store, observer: Observer) -> Inspection | None:
    """The tensors of the spec's model; None for source kinds whose files do not describe them.

    It is cached like every step: for a model that was read before, only the file's digest is checked.

    Raises:
        SpecInvalid: a package is missing, or the file cannot be read; StepFailed: the model is not valid.
        Interrupted: Ctrl-C.
    """
    step = inspect_step(loaded, here)
    if step is None:
        return None
    folder = run_single_step(loaded, here, step, store, observer)
    return Inspection.read(folder)


def run_single_step(loaded: LoadedSpec, here: Here, step: Step, store: Store, observer: Observer) -> Path:
    """The output folder of a step whose inputs are all user files; cached like every step.

    Somebody waits for its result at a terminal, so it runs at once: beside a measurement of another run too, at a low priority.
    It takes seconds and happens once per model, while a measurement takes minutes, compares its candidates in interleaved rounds
    by their medians, and notes the spread that other load causes.

    Raises:
        SpecInvalid: an input cannot be read; StepFailed: the step failed; Interrupted: Ctrl-C.
    """
    step = replace(step, light=True)
    plan = Plan(loaded.spec.metadata.name, (step,), (), loaded.folder, here)
    resolver = Resolver(loaded, plan, store)
    resolved = resolver.resolve(step, {})
    assert resolved is not None, "its inputs are files of the user's"
    outcome, stop = resolved.outcome, _AtOnce()
    if outcome is None:
        with store.in_use(f"{step.id} of {plan.name}"), stop_on_signals(stop):
            executor = LocalExecutor(store, plan.project, plan.roots)
            outcome = StepRunner(plan, resolver, store, observer, stop, executor).compute(step, resolved, {})
        seconds = outcome.receipt.seconds if outcome.receipt is not None else 0.0
        observer(StepEnded(step.id, "done" if outcome.status == "done" else "failed", seconds, ""))
    if outcome.status != "done":
        assert outcome.error is not None, "a step that is not done says why"
        raised = Interrupted if stop.level else StepFailed
        raise raised(loaded.located(outcome.error))
    assert outcome.receipt is not None
    assert outcome.receipt.manifest is not None
    return store.trees.path(outcome.receipt.manifest.digest)
