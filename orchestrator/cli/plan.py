"""`mlo plan` and `mlo show`: what apply would do, and why."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.cli import console
from orchestrator.cli.options import json_option, open_store, spec_options
from orchestrator.cli.plan_text import plan_text
from orchestrator.cli.progress import lines
from orchestrator.engine.apply import what_would_refuse
from orchestrator.engine.planning import make_plan
from orchestrator.errors import ExitCode
from orchestrator.plan.plan_file import SavedPlan, read_plan_file, write_plan_file
from orchestrator.store.store import Store

__all__ = ["plan", "show"]


@click.command(
    epilog="""\b
Examples:
  mlo plan specs/digits/digits.yaml
  mlo plan specs/digits/digits.yaml --out digits.plan.json
  mlo plan spec.yaml --detailed-exitcode; test $? -eq 2 && echo changes
"""
)
@click.argument("specs", nargs=-1, required=True, metavar="SPEC...", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Save the plan for `mlo apply FILE`.")
@click.option(
    "--replace", "-r", "replaced", multiple=True, metavar="STEP", help="Run this step even if its result is cached."
)
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 if apply would change something.")
@json_option
@spec_options
@click.pass_context
def plan(
    ctx: click.Context,
    specs: tuple[Path, ...],
    out: Path | None,
    replaced: tuple[str, ...],
    detailed_exitcode: bool,
    as_json: bool,
    platform: Path | None,
    environment: str | None,
) -> None:
    """Show what apply would do, step by step, with the reason for each.

    Changes nothing. If inputs and outputs are not in the spec, the model is read once to find them. What the target would refuse
    on this machine, such as a port that is in use, is shown as a warning.
    """
    plans: list[SavedPlan] = []
    changes = False
    stores: dict[Path, Store] = {}
    for path in specs:
        store = stores.get(path.parent) or stores.setdefault(path.parent, open_store(path.parent))
        planned = make_plan(
            path, store, platform=platform, environment=environment, replaced=replaced, observer=lines()
        )
        plans.append(planned.document())
        changes = changes or planned.preview.changes
        if warnings := (*planned.loaded.warnings, *what_would_refuse(planned, store)):
            console.show_diagnostics(warnings)
        if not as_json:
            console.print_result(plan_text(plans[-1]))
        store.stat_cache.save()
    if out is not None:
        write_plan_file(out, plans)
        console.print_note(f"saved; apply exactly this plan with: mlo apply {out}")
    if as_json:
        console.print_json(json_form(plans))
    if detailed_exitcode and changes:
        ctx.exit(int(ExitCode.CHANGES_PENDING))


@click.command(
    epilog="""\b
Examples:
  mlo show digits.plan.json
  mlo show digits.plan.json --json
"""
)
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def show(file: Path, as_json: bool) -> None:
    """Show a saved plan as it was when it was saved."""
    plans = read_plan_file(file)
    if as_json:
        console.print_json(json_form(plans))
        return
    for plan in plans:
        console.print_result(plan_text(plan))


def json_form(plans: Sequence[SavedPlan]) -> dict[str, Any]:
    """The document of `mlo plan --json`: all steps at the top level, and every plan separately."""
    shown = {"name", "spec", "environment", "steps", "refused", "notes", "deployed", "signature"}
    documents = [plan.model_dump(mode="json", include=shown) for plan in plans]
    return {"steps": [step for document in documents for step in document["steps"]], "plans": documents}
