"""Apply: run a plan's steps, then take the result live."""

from __future__ import annotations

from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.planning import Planned, make_plan
from orchestrator.engine.run import run_plan
from orchestrator.engine.stop import Stop
from orchestrator.errors import MloError
from orchestrator.events import Observer
from orchestrator.plan.expand import expand
from orchestrator.plan.plan_file import SavedPlan, changes, refuse_stale
from orchestrator.plan.resolve import Outcome
from orchestrator.release.live import observe, wanted_target
from orchestrator.release.release import PlanRelease, Released
from orchestrator.store.gc import sweep
from orchestrator.store.store import Store

__all__ = ["apply_plan", "plan_from_file", "run_steps"]


def run_steps(planned: Planned, store: Store, observer: Observer, stop: Stop) -> dict[str, Outcome]:
    """Everything up to the rendered artifacts.

    Raises:
        StepFailed: a step failed, or no candidate is left; Interrupted: Ctrl-C.
    """
    sweep(store)
    with store.in_use(f"applying {planned.plan.name}"):
        return run_plan(
            planned.loaded, planned.plan, planned.resolver, store, observer=observer, stop=stop, forced=planned.forced
        )


def apply_plan(planned: Planned, store: Store, observer: Observer, stop: Stop, lock_timeout: float) -> Released:
    """Everything.

    Raises:
        StepFailed, Interrupted: as `run_steps`.
        Busy: another command is deploying this name.
        DeployFailed: the release did not come up; the previous one keeps serving, and the error says so.
    """
    try:
        with store.in_use(f"applying {planned.plan.name}"):
            wanted_target(planned.loaded, store).check()
            outcomes = run_steps(planned, store, observer, stop)
            return PlanRelease(
                planned.loaded, expand(planned.plan, outcomes, store.trees), outcomes, store, observer
            ).deploy(lock_timeout)
    except MloError as error:
        live = observe(planned.loaded, store)
        if live.recorded is None or live.observed is None or live.observed.revision is None:
            raise
        still = f"revision {live.observed.revision} at {live.observed.endpoint}"
        kept = Diagnostic("W601", f"{live.recorded.name} is unchanged: {still}", severity="warning")
        raise type(error)(*error.diagnostics, kept) from error


def plan_from_file(file: Path, saved: SavedPlan, store: Store) -> Planned:
    """Make the plan that a saved one describes again.

    Raises:
        StalePlan: something that the plan was made from has changed; the error names it.
    """
    planned = make_plan(
        Path(saved.spec),
        store,
        platform=None if saved.platform is None else Path(saved.platform),
        environment=saved.environment,
        replaced=saved.forced,
    )
    refuse_stale(file, changes(saved, planned.document()))
    return planned
