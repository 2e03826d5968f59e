"""`mlo history` and `mlo rollback`: list the revisions, and return to one of them."""

from __future__ import annotations

import sys
from dataclasses import asdict

import click

from orchestrator.cli import console
from orchestrator.cli.deployments import beside_text, find_deployment
from orchestrator.cli.options import find_store, json_option, lock_timeout_option, reason_option
from orchestrator.cli.progress import watch
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import UsageError
from orchestrator.release.go_live import target_of
from orchestrator.release.rollback import revision_to_return_to, revisions, roll_back
from orchestrator.store.state import Change

__all__ = ["history", "rollback"]


@click.command(
    epilog="""\b
Examples:
  mlo history digits
  mlo history digits --json
"""
)
@click.argument("name")
@json_option
def history(name: str, as_json: bool) -> None:
    """Show the revisions of a deployment, newest first: who let each of them serve, when, from which commit and why.

    Revisions marked `kept` are still at the target, so returning to one neither copies nor starts anything new.
    """
    store = find_store()
    deployment = find_deployment(store, name)
    target = target_of(deployment, store)
    there, beside = target.history(), target.observe().beside
    canary = None if beside is None else asdict(beside)
    entries = revisions(deployment)
    rows = [
        {
            "revision": entry.revision,
            "serves": entry.revision == deployment.revision,
            "kept": entry.revision in there,
            "backend": entry.backend,
            "variant": entry.variant,
            "deployed": entry.deployed,
            "spec_digest": entry.spec_digest,
            "changes": [change.model_dump(mode="json") for change in entry.changes],
        }
        for entry in entries
    ]
    if as_json:
        console.print_json({"name": name, "revisions": rows, "canary": canary})
        return
    header = ("revision", "", "backend", "variant", "when", "who", "commit", "why")
    cells: list[tuple[str, ...]] = []
    for row, entry in zip(rows, entries, strict=True):
        serves = click.style("serves", fg="green") if row["serves"] else "kept" if row["kept"] else ""
        about = (str(entry.revision), serves, entry.backend, entry.variant)
        for change in entry.changes:
            cells.append((*about, change.at, change.user, _commit(change), change.why))
            about = ("", "", "", "")  # the further times that it came to serve
        if not entry.changes:
            cells.append((*about, entry.deployed, "", "", ""))
    console.print_result(console.table(header, cells, right=frozenset({0})))
    if canary is not None:
        console.print_result(f"{name}: {beside_text(canary)}")


def _commit(change: Change) -> str:
    if change.commit is None:
        return ""
    return change.commit[:12] + (" (spec modified)" if change.modified else "")


@click.command(
    epilog="""\b
Examples:
  mlo rollback digits             to the previous revision
  mlo rollback digits 3 --yes     to revision 3
  mlo rollback digits --reason "answers too slowly"
"""
)
@click.argument("name")
@click.argument("revision", required=False, type=click.IntRange(min=1))
@click.option("--yes", "-y", is_flag=True, help="Do not ask for confirmation. Required without a terminal.")
@json_option
@lock_timeout_option
@reason_option
def rollback(name: str, revision: int | None, yes: bool, as_json: bool, lock_timeout: float, why: str) -> None:
    """Return a deployment to an earlier revision, which is verified like a new one before traffic is switched.

    The current revision serves until then. TensorFlow Serving keeps both versions loaded and only moves its label.
    """
    store = find_store()
    deployment = find_deployment(store, name)
    # Before it is asked about, so that nobody confirms what cannot be done. Where a command has died that may have switched, what
    # serves is known once that is settled, and it is only looked up then.
    unsettled = deployment.intent is not None and deployment.intent.wanted is not None
    to = None if unsettled else revision_to_return_to(deployment, revision).revision
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                Diagnostic(
                    "E215", "rollback needs confirmation, but there is no terminal to ask on", remedy="add --yes"
                )
            )
        revision = to or revision  # what is confirmed is done, whatever another command does meanwhile
        whence = "" if to is None else f" from revision {deployment.revision}"
        where = "the one before what serves" if revision is None else f"revision {revision}"
        console.confirm(f"Roll {name} back{whence} to {where}?")
    with watch(show_cached=False) as observer:
        after = roll_back(store, name, revision, observer, lock_timeout, why)
    if as_json:
        document = {"name": name, "revision": after.revision, "backend": after.backend, "variant": after.variant}
        console.print_json({**document, "endpoint": after.endpoint})
        return
    words = target_of(after, store).describe()
    live = f"revision {after.revision} ({after.variant} on {after.backend})"
    console.print_result(f"{name}: {live} {words.in_use} again")
    console.print_result(f"{words.label}: {after.endpoint}")
    if words.then:
        console.print_result(f"then: {words.then}")
