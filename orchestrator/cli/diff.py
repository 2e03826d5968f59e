"""`mlo diff`: what is not as it was deployed any more."""

from __future__ import annotations

import click

from orchestrator.cli import console
from orchestrator.cli.deployments import find_deployment
from orchestrator.cli.options import find_store, json_option
from orchestrator.errors import ExitCode
from orchestrator.release.go_live import target_of

__all__ = ["diff"]


@click.command(
    epilog="""\b
Examples:
  mlo diff digits
  mlo diff digits --json
"""
)
@click.argument("name")
@json_option
@click.pass_context
def diff(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show what of a deployment was changed by somebody else since it was deployed. Changes nothing.

    Only what mlo deployed is compared, not what others have added. Exits with 1 if there are differences; the next apply
    undoes them.
    """
    store = find_store()
    deployment = find_deployment(store, name)
    observed = target_of(deployment, store).observe()
    differences = list(observed.differences)
    if observed.revision != deployment.revision:
        serves = "nothing" if observed.revision is None else f"revision {observed.revision}"
        differences.insert(0, f"revision {deployment.revision} was deployed, and {serves} serves")
    if not differences and observed.health != "healthy":
        differences.append(observed.reason or f"it is {observed.health}")
    if as_json:
        console.print_json({"name": name, "revision": deployment.revision, "differences": differences})
    elif differences:
        for difference in differences:
            console.print_result(difference)
    else:
        console.print_result(f"{name}: as revision {deployment.revision} was deployed")
    if differences:
        ctx.exit(int(ExitCode.FAILED))
