"""`mlo status`, `mlo logs` and `mlo destroy`: manage what is deployed."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from typing import Any

import click

from orchestrator.cli import console
from orchestrator.cli.deployments import beside_text, find_deployment
from orchestrator.cli.image_text import deployed_image, image_line, measured_start
from orchestrator.cli.options import find_store, json_option, lock_timeout_option
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import ExitCode, MloError, UsageError
from orchestrator.events import Event, Waiting
from orchestrator.release.go_live import target_of
from orchestrator.release.removal import remove
from orchestrator.store.served import served_by_others
from orchestrator.store.state import Deployment
from orchestrator.store.store import Store

__all__ = ["destroy", "logs", "status"]

_COLOURS = {"healthy": "green", "degraded": "yellow", "stopped": "red", "unknown": "yellow"}


@click.command(
    epilog="""\b
Examples:
  mlo status
  mlo status digits
  mlo status --json
"""
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@json_option
@click.pass_context
def status(ctx: click.Context, names: tuple[str, ...], as_json: bool) -> None:
    """Show what is deployed and its health, as observed now.

    Exits with 1 if a deployment is not healthy.
    """
    store = find_store()
    known = store.state.read().deployments
    wanted = [find_deployment(store, name) for name in names] if names else [known[name] for name in sorted(known)]
    rows = [_row(deployment, store) for deployment in wanted]
    if as_json:
        console.print_json({"store": str(store.home.root), "deployments": rows})
    elif not rows:
        console.print_result(f"nothing is deployed from {store.home.root}; try: mlo apply SPEC")
    else:
        console.print_result(f"store: {store.home.root}\n")
        header = ("name", "target", "health", "revision", "backend", "variant", "endpoint")
        cells = [
            [
                click.style(_cell(row[c]), fg=_COLOURS.get(str(row[c]))) if c == "health" else _cell(row[c])
                for c in header
            ]
            for row in rows
        ]
        console.print_result(console.table(header, cells, right=frozenset({3})))
        for row in rows:
            if row["grpc"]:
                console.print_result(f"{row['name']} answers gRPC at {row['grpc']}")
            if row["image"] is not None:
                console.print_result(f"{row['name']} runs {_image(row['image'])}")
            if row["ready_seconds"] is not None:
                ready = f"{row['ready_seconds']:.2f} s after it was started, when it was measured"
                console.print_result(f"{row['name']}: its server was ready {ready}")
            if (beside := row["canary"]) is not None:
                console.print_result(f"{row['name']}: {beside_text(beside)}")
            if row["reason"]:
                what = "cannot be observed" if row["health"] == "unknown" else f"is {row['health']}"
                console.print_result(f"{row['name']} {what}: {row['reason']}")
    if not as_json and not names:
        for other in served_by_others(store.home.root):
            console.print_note(f"another store serves {other.name}: MLO_HOME={shlex.quote(other.store)} mlo status")
    if any(row["health"] != "healthy" for row in rows):
        ctx.exit(int(ExitCode.FAILED))


def _cell(value: object) -> str:
    """In the table; there is no revision yet while the first one is being deployed."""
    return "" if value is None else str(value)


def _image(image: dict[str, Any]) -> str:
    """The image that a deployment runs, with its size if it was built from here."""
    return str(image["reference"]) if image["bytes"] is None else image_line(image["reference"], image["bytes"])


def _row(deployment: Deployment, store: Store) -> dict[str, Any]:
    """One deployment; if its place cannot be looked at, the row says why, and the others are not affected."""
    revision, grpc, beside = deployment.revision, None, None
    try:
        observed = target_of(deployment, store).observe()
    except MloError as error:
        problem = error.diagnostics[0]
        health, reason = "unknown", "; ".join(filter(None, (problem.message, problem.cause, problem.remedy)))
    else:
        health, reason, grpc, beside = observed.health, observed.reason, observed.grpc, observed.beside
        revision = revision if observed.revision is None else observed.revision
    return {
        "name": deployment.name,
        "target": deployment.placement.target,
        "health": health,
        "reason": reason or None,
        "revision": revision or None,
        "endpoint": deployment.endpoint,
        "grpc": grpc,
        "canary": None if beside is None else asdict(beside),
        "backend": deployment.backend,
        "variant": deployment.variant,
        "image": deployed_image(deployment, revision, store),
        "ready_seconds": measured_start(deployment, revision, store),
    }


@click.command(
    epilog="""\b
Examples:
  mlo logs digits
  mlo logs digits --lines 500
  mlo logs digits --follow
"""
)
@click.argument("name")
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="How many lines to show, from the end.",
)
@click.option("--follow", "-f", is_flag=True, help="Keep printing new lines until Ctrl-C.")
def logs(name: str, lines: int, follow: bool) -> None:
    """Show the server log of a deployment."""
    store = find_store()
    deployment = find_deployment(store, name)
    for line in target_of(deployment, store).logs(lines, follow=follow):
        console.print_file(line)


def _tell_waiting(event: Event) -> None:
    if isinstance(event, Waiting):
        console.print_note(f"waiting for {event.on}")


@click.command(
    epilog="""\b
Examples:
  mlo destroy digits
  mlo destroy digits --yes
"""
)
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation. Required without a terminal.")
@lock_timeout_option
def destroy(name: str, yes: bool, lock_timeout: float) -> None:
    """Stop a deployment and delete its record; its artifacts stay in the store.

    For a folder, the files that mlo wrote are removed.
    """
    store = find_store()
    deployment = find_deployment(store, name)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                Diagnostic("E215", "destroy needs confirmation, but there is no terminal to ask on", remedy="add --yes")
            )
        console.confirm(f"{target_of(deployment, store).describe().removal}?")
    removed = remove(store, name, _tell_waiting, lock_timeout)
    notes = "".join(f", {clause}" for clause in removed.notes)
    console.print_result(f"{name}: {removed.done}{notes}; its artifacts stay in the store until `mlo gc`")
