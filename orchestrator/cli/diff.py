"""`mlo diff`: what is not as it was deployed any more."""

from __future__ import annotations

import click

from orchestrator.cli import console
from orchestrator.cli.deployments import find_deployment
from orchestrator.cli.options import find_store, json_option
from orchestrator.errors import ExitCode
from orchestrator.release.go_live import target_of
from orchestrator.targets.target import Observed

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
    undoes them. What is under way by another command is told, and is no difference.
    """
    store = find_store()
    deployment = find_deployment(store, name)
    observed = target_of(deployment, store).observe()
    differences = list(observed.differences)
    if not observed.progress:
        unhealthy = not differences and observed.revision is not None and observed.health != "healthy"
        if observed.revision != deployment.revision:
            differences.insert(0, f"revision {deployment.revision} was deployed, and {_what_serves(observed)}")
        if unhealthy:
            differences.append(observed.reason or f"it is {observed.health}")
    if as_json:
        console.print_json(
            {
                "name": name,
                "revision": deployment.revision,
                "differences": differences,
                "progress": observed.progress or None,
            }
        )
    elif differences:
        for difference in differences:
            console.print_result(difference)
    elif not observed.progress:
        console.print_result(f"{name}: as revision {deployment.revision} was deployed")
    if observed.progress and not as_json:
        console.print_result(f"{name}: {observed.progress}")
    if differences:
        ctx.exit(int(ExitCode.FAILED))


def _what_serves(observed: Observed) -> str:
    """What serves in place of what was deployed, a clause."""
    if observed.revision is not None:
        return f"revision {observed.revision} serves"
    # What is stopped was looked at; of anything else it is only known that it is not as it was, such as where nothing answers.
    serves = "nothing serves" if observed.health == "stopped" else "what serves cannot be told"
    return f"{serves}: {observed.reason}" if observed.reason else serves
