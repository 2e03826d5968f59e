"""`mlo apply`: convert, verify, measure, select, render and deploy."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from orchestrator.cli import console
from orchestrator.cli.decision_text import decision_text
from orchestrator.cli.options import json_option, lock_timeout_option, open_store, reason_option, spec_options
from orchestrator.cli.plan_text import plan_text
from orchestrator.cli.progress import lines, watch
from orchestrator.cli.refused import refused_decisions
from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.apply import apply_plan, plan_from_file
from orchestrator.engine.planning import Planned, make_plan
from orchestrator.engine.stop import Stop
from orchestrator.errors import ExitCode, MloError, UsageError
from orchestrator.plan.plan_file import read_plan_file
from orchestrator.release.go_live import target_of
from orchestrator.release.prune import left_over
from orchestrator.release.prune import prune as remove_left_over
from orchestrator.release.release import Released
from orchestrator.store.store import Store

__all__ = ["apply"]


@click.command(
    epilog="""\b
Examples:
  mlo apply specs/digits/digits.yaml               show the plan and ask for confirmation
  mlo apply specs/digits/digits.yaml --yes --json  in a pipeline
  mlo apply digits.plan.json                       apply a reviewed plan
  mlo apply specs/*.yaml --yes --prune             also remove what is in Git of specs that are gone
  mlo apply spec.yaml --replace benchmark.runtime  measure again
"""
)
@click.argument("specs", nargs=-1, required=True, metavar="SPEC|PLAN...", type=click.Path(path_type=Path))
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation. Required without a terminal.")
@click.option(
    "--replace", "-r", "replaced", multiple=True, metavar="STEP", help="Run this step even if its result is cached."
)
@click.option(
    "--detailed-exitcode", is_flag=True, help="Exit with 2 if something was deployed or removed, with 0 if nothing."
)
@click.option(
    "--prune",
    is_flag=True,
    help="Also remove what lies in Git beside these deployments and is of no given spec.",
)
@json_option
@lock_timeout_option
@reason_option
@spec_options
@click.pass_context
def apply(
    ctx: click.Context,
    specs: tuple[Path, ...],
    yes: bool,
    replaced: tuple[str, ...],
    detailed_exitcode: bool,
    prune: bool,
    as_json: bool,
    lock_timeout: float,
    why: str,
    platform: Path | None,
    environment: str | None,
) -> None:
    """Convert, verify, measure, select, render and deploy the models that the specs describe.

    Cached steps are not run again, and deployments that are up to date are not touched. A saved plan is applied exactly,
    or refused if anything that it was made from has changed. If no candidate wins, the decision is shown and kept all the
    same, and nothing is deployed.
    """
    released: list[Released] = []
    removed: list[dict[str, str]] = []
    stop = Stop()
    # Read all before applying the first, so that a mistake in the last one does not stop the run half-way.
    plans = [plan for path in specs for plan in _plans(path, replaced, platform, environment)]
    _refuse_the_same_twice(plans)
    try:
        for planned, store, approved in plans:
            if planned.loaded.warnings:
                console.show_diagnostics(planned.loaded.warnings)
            if not (yes or approved):
                _ask(planned)
            began = time.monotonic()
            watching = watch(show_cached=planned.preview.changes, deploys=True)
            with refused_decisions(as_json=as_json), watching as observer:
                result = apply_plan(planned, store, observer, stop, lock_timeout, why)
            store.stat_cache.save()
            released.append(result)
            if not as_json:
                console.print_result(
                    _result_text(result, store, time.monotonic() - began, decided=planned.preview.changes)
                )
        if prune:
            removed = _pruned(plans, released, lock_timeout, ask=not yes, as_json=as_json)
    except MloError as error:
        error.also["deployments"] = [result.as_json() for result in released]
        raise
    if as_json:
        console.print_json({"deployments": [result.as_json() for result in released], "removed": removed})
    if detailed_exitcode and (removed or any(result.changed for result in released)):
        ctx.exit(int(ExitCode.CHANGES_PENDING))


def _pruned(
    plans: list[tuple[Planned, Store, bool]], released: list[Released], lock_timeout: float, *, ask: bool, as_json: bool
) -> list[dict[str, str]]:
    """Remove what lies beside the deployments and is of no given spec; returns what that was, as JSON."""
    names = {planned.plan.name for planned, _, _ in plans}
    removed = []
    for (_, store, _), result in zip(plans, released, strict=True):
        for name, placement in left_over([result.deployment], names).items():
            if ask:
                console.confirm(f"Remove {name}, which is of no given spec?")
            where = remove_left_over(store, name, placement, lines(), lock_timeout)
            removed.append({"name": name, "endpoint": where})
            if not as_json:
                console.print_result(f"{name}: removed from {where}, because no given spec is of this name")
    return removed


def _plans(
    path: Path,
    replaced: tuple[str, ...],
    platform: Path | None,
    environment: str | None,
) -> list[tuple[Planned, Store, bool]]:
    """The plans to apply, each with the store of its spec, and whether it is a saved plan and thereby approved."""
    if path.suffix != ".json":
        store = open_store(path.parent)
        planned = make_plan(
            path, store, platform=platform, environment=environment, replaced=replaced, observer=lines()
        )
        return [(planned, store, False)]
    if replaced or platform or environment:
        raise UsageError(
            Diagnostic(
                "E214",
                "a saved plan cannot be changed",
                cause="--replace, --platform and --environment only apply when planning",
                remedy=f"omit them, or plan again: mlo plan SPEC --out {path}",
            )
        )
    saved = [(document, open_store(Path(document.spec).parent)) for document in read_plan_file(path)]
    return [(plan_from_file(path, document, store), store, True) for document, store in saved]


def _refuse_the_same_twice(plans: list[tuple[Planned, Store, bool]]) -> None:
    """Two specs of one deployment would take turns in replacing each other, at every run; of one place, the second would be refused."""
    files: dict[tuple[Path | None, str], str] = {}
    for planned, store, _ in plans:
        name, loaded = planned.plan.name, planned.loaded
        named = f"are named `{name}`", "the release of each would replace the other's"
        own: tuple[Path | None, str] = (store.home.root, name)
        claims = [(own, ("metadata", "name"), named)]
        for key, place in loaded.spec.deploy.claims(loaded.folder).items():
            there = f"deploy to {place}", "the second one would be refused once the first one is deployed"
            claims.append(((None, place), ("deploy", key), there))
        for claim, at, (what, why) in claims:
            before = files.get(claim)
            if before is not None:
                twice = Diagnostic(
                    "E206",
                    f"two of the given specs {what}",
                    cause=f"the other one is {before}, and {why}",
                    remedy=f"give one of them another `{'.'.join(at)}`, or leave it out",
                    at=at,
                )
                raise UsageError(loaded.located(twice))
            files[claim] = str(loaded.document.file)


def _ask(planned: Planned) -> None:
    """Show the plan and ask for confirmation; an error without a terminal."""
    if not planned.preview.changes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            Diagnostic(
                "E215",
                "apply needs confirmation, but there is no terminal to ask on",
                remedy="add --yes, or apply a plan saved with `mlo plan --out FILE`",
            )
        )
    console.print_note(plan_text(planned.document()))
    console.confirm("Apply this?")


def _result_text(result: Released, store: Store, seconds: float, *, decided: bool) -> str:
    """The deployment, with the decision if something was measured or deployed."""
    deployment = result.deployment
    target = target_of(deployment, store)
    words, grpc = target.describe(), target.observe().grpc
    live = f"revision {deployment.revision} ({deployment.variant} on {deployment.backend}) {words.in_use}"
    headline = f"{deployment.name}: {live}" if result.changed else f"{deployment.name}: nothing to deploy; {live}"
    lines = [
        f"{headline}, after {seconds:.1f} s",
        f"{words.label}: {click.style(deployment.endpoint, bold=True)}",
        *([f"gRPC: {click.style(grpc, bold=True)}"] if grpc else []),
        f"artifacts: {result.artifacts}",
        f"decision: {result.evidence} (decision.json, chart.svg)",
    ]
    if result.changed and words.try_it:
        lines.append(f"try: {words.try_it}")
    if result.changed and words.then:
        lines.append(f"then: {words.then}")
    return "\n".join(["", decision_text(result.decision), "", *lines] if decided or result.changed else lines)
