"""Apply: run a plan's steps, then take the result live."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.planning import Planned, make_plan
from orchestrator.engine.run import run_plan
from orchestrator.engine.stop import Stop
from orchestrator.errors import DeployFailed, MloError
from orchestrator.events import Observer
from orchestrator.plan.expand import expand
from orchestrator.plan.plan_file import SavedPlan, changes, refuse_stale
from orchestrator.plan.resolve import Outcome
from orchestrator.plan.steps.release import server_auth, server_tls
from orchestrator.release.live import add_what_serves, wanted_target
from orchestrator.release.release import PlanRelease, Released
from orchestrator.store.gc import sweep
from orchestrator.store.store import Store
from orchestrator.targets.target import Offers

__all__ = ["apply_plan", "plan_from_file", "run_steps", "what_would_refuse"]


def run_steps(planned: Planned, store: Store, observer: Observer, stop: Stop) -> dict[str, Outcome]:
    """Everything up to the rendered artifacts.

    Raises:
        StepFailed: a step failed, or no candidate is left; Interrupted: Ctrl-C.
    """
    sweep(store)
    with store.in_use(f"applying {planned.plan.name}"):
        outcomes = run_plan(
            planned.loaded, planned.plan, planned.resolver, store, observer=observer, stop=stop, forced=planned.forced
        )
        store.receipts.forget(planned.plan.name, but=outcomes.keys())
        return outcomes


def apply_plan(
    planned: Planned, store: Store, observer: Observer, stop: Stop, lock_timeout: float, why: str = ""
) -> Released:
    """Everything; `why` is what the user says about it, for the record.

    Raises:
        StepFailed, Interrupted: as `run_steps`.
        Busy: another command is deploying this name.
        DeployFailed: the release did not come up. Every error says what serves after it.
    """
    try:
        with store.in_use(f"applying {planned.plan.name}"):
            _check_target(planned, store)
            outcomes = run_steps(planned, store, observer, stop)
            return PlanRelease(
                planned.loaded, expand(planned.plan, outcomes, store.trees), outcomes, store, observer
            ).deploy(lock_timeout, why)
    except MloError as error:
        add_what_serves(error, planned.plan.name, planned.live.recorded, store)
        raise


def _check_target(planned: Planned, store: Store) -> None:
    """Check that the target can take the deployment, before anything is computed for it.

    Raises:
        DeployFailed: it cannot; with the line of the spec.
    """
    loaded = planned.loaded
    try:
        spec = loaded.spec
        offers = Offers(grpc=spec.serving.offers_grpc, tls=server_tls(spec), auth=server_auth(spec))
        wanted_target(loaded, store).check(offers)
    except DeployFailed as error:
        raise DeployFailed(*(loaded.located(each) if each.at else each for each in error.diagnostics)) from error


def what_would_refuse(planned: Planned, store: Store) -> tuple[Diagnostic, ...]:
    """Warnings of what an apply would be refused for now, as far as this machine alone shows it: a taken port, an unwritable folder."""
    if not planned.loaded.spec.deploy.checks_here:
        return ()
    try:
        _check_target(planned, store)
    except MloError as error:
        return tuple(replace(each, severity="warning") for each in error.diagnostics)
    return ()


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
