"""`mlo apply`: convert, prove, measure, choose, render and deploy."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from orchestrator.cli import console
from orchestrator.cli.decision_text import decision_text
from orchestrator.cli.options import json_option, lock_timeout_option, open_store, spec_options
from orchestrator.cli.plan_text import plan_text
from orchestrator.cli.progress import lines, watch
from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.apply import apply_plan, plan_from_file
from orchestrator.engine.planning import Planned, make_plan
from orchestrator.engine.stop import Stop
from orchestrator.errors import MloError, UsageError
from orchestrator.plan.plan_file import read_plan_file
from orchestrator.release.release import Released
from orchestrator.store.store import Store

__all__ = ["apply"]


@click.command(
    epilog="""\b
Examples:
  mlo apply specs/digits/digits.yaml               shows the plan and asks
  mlo apply specs/digits/digits.yaml --yes --json  for pipelines
  mlo apply digits.plan.json                       exactly what was reviewed
  mlo apply spec.yaml --replace benchmark.runtime  measure again
"""
)
@click.argument("specs", nargs=-1, required=True, metavar="SPEC|PLAN...", type=click.Path(path_type=Path))
@click.option("--yes", "-y", is_flag=True, help="Do not ask. Needed where there is no terminal.")
@click.option("--replace", "-r", "replaced", multiple=True, metavar="STEP", help="Run this step although it is cached.")
@json_option
@lock_timeout_option
@spec_options
def apply(
    specs: tuple[Path, ...],
    yes: bool,
    replaced: tuple[str, ...],
    as_json: bool,
    lock_timeout: float,
    platform: Path | None,
    environment: str | None,
) -> None:
    """Convert, prove, measure, choose, render and deploy what the specs describe.

    What is cached is not computed again, and what already serves is not touched. A saved plan is applied exactly, or
    refused when what it was made from has moved.
    """
    store = open_store()
    released: list[Released] = []
    stop = Stop()
    # All are read before the first is touched: a mistake in the last is no reason to stop half-way.
    plans = [plan for path in specs for plan in _plans(path, store, replaced, platform, environment)]
    try:
        for planned, approved in plans:
            if planned.loaded.warnings:
                console.show_diagnostics(planned.loaded.warnings)
            if not (yes or approved):
                _ask(planned)
            began = time.monotonic()
            with watch(show_cached=planned.preview.changes) as observer:
                result = apply_plan(planned, store, observer, stop, lock_timeout)
            store.stat_cache.save()
            released.append(result)
            if not as_json:
                console.say(_told(result, time.monotonic() - began, decided=planned.preview.changes))
    except MloError as error:
        error.also["deployments"] = [result.as_json() for result in released]
        raise
    if as_json:
        console.print_json({"deployments": [result.as_json() for result in released]})


def _plans(
    path: Path,
    store: Store,
    replaced: tuple[str, ...],
    platform: Path | None,
    environment: str | None,
) -> list[tuple[Planned, bool]]:
    """The plans to apply, each with whether it was approved by being saved."""
    if path.suffix != ".json":
        planned = make_plan(
            path, store, platform=platform, environment=environment, replaced=replaced, observer=lines()
        )
        return [(planned, False)]
    if replaced or platform or environment:
        raise UsageError(
            Diagnostic(
                "E214",
                "a saved plan is applied as it is",
                cause="--replace, --platform and --environment were given when it was made",
                remedy=f"leave them out, or plan again: mlo plan SPEC --out {path}",
            )
        )
    return [(plan_from_file(path, document, store), True) for document in read_plan_file(path)]


def _ask(planned: Planned) -> None:
    """Show the plan and wait for a yes; nothing waits where nobody can answer."""
    if not planned.preview.changes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            Diagnostic(
                "E215",
                "apply needs a yes, and there is no terminal to ask on",
                remedy="add --yes, or apply a plan that was saved with `mlo plan --out FILE`",
            )
        )
    console.tell(plan_text(planned.document()))
    console.confirm("Apply this?")


def _told(result: Released, seconds: float, *, decided: bool) -> str:
    """What there is now, with the decision if something was measured or deployed anew."""
    deployment = result.deployment
    into_folder = deployment.target == "folder"
    does = "is in the folder" if into_folder else "serves"
    live = f"revision {deployment.revision} ({deployment.variant} on {deployment.backend}) {does}"
    said = f"{deployment.name}: {live}" if result.changed else f"{deployment.name}: nothing to deploy; {live}"
    lines = [
        f"{said}, after {seconds:.1f} s",
        f"{'folder' if into_folder else 'endpoint'}: {click.style(deployment.endpoint, bold=True)}",
        f"artifacts: {result.artifacts}",
        f"decision: {result.evidence} (decision.json, chart.svg)",
    ]
    if result.changed and not into_folder:
        lines.append(f"try: mlo predict {deployment.name} --input FILE.npz")
    return "\n".join(["", decision_text(result.decision), "", *lines] if decided or result.changed else lines)
