"""Checks of a spec what `apply` checks first, without applying it: that it can be planned, and its model imported."""

from __future__ import annotations

from pathlib import Path

from orchestrator.engine.inspecting import read_model, run_single_step
from orchestrator.engine.observing import observe_here
from orchestrator.events import Observer
from orchestrator.plan.compile import compile_plan
from orchestrator.plan.found import planned_model
from orchestrator.spec.load import load_spec
from orchestrator.store.store import Store

__all__ = ["check_import"]


def check_import(spec: Path, store: Store, observer: Observer) -> None:
    """Run the step `import` of a spec's plan; `apply` then finds it cached.

    Raises:
        SpecInvalid: the spec is not valid, or needs something that this machine lacks.
        StepFailed: the model cannot be read or imported as the spec says.
        Interrupted: Ctrl-C.
    """
    loaded = load_spec(spec)
    here = observe_here(loaded)
    plan = compile_plan(loaded, planned_model(loaded, read_model(loaded, here, store, observer)), here)
    step = next(step for step in plan.steps if step.kind == "import")
    run_single_step(loaded, here, step, store, observer)
