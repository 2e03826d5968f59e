"""Rolls back to an earlier revision: the same tree, verified again with the same golden requests."""

from __future__ import annotations

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed, UsageError
from orchestrator.events import Observer
from orchestrator.release.go_live import GoLive, RenderedRelease, deployment_lock, recover
from orchestrator.release.live import add_what_serves
from orchestrator.release.origin import Reason
from orchestrator.store.digest import digest_tree
from orchestrator.store.state import Deployment, Revision
from orchestrator.store.store import Store
from orchestrator.targets.table import target_at
from orchestrator.targets.target import Site

__all__ = ["revision_to_return_to", "revisions", "roll_back"]


def revisions(deployment: Deployment) -> list[Revision]:
    """The revisions that the state records, the newest first."""
    return sorted(deployment.history, key=lambda entry: entry.revision, reverse=True)


def roll_back(
    store: Store, name: str, revision: int | None, observer: Observer, lock_timeout: float, why: str = ""
) -> Deployment:
    """Let an earlier revision serve again; if the target still has it, only the traffic or the label is switched.

    Args:
        store: where results and receipts are kept.
        name: the deployment's.
        revision: its number; None for the one that served before this one.
        observer: gets the events.
        lock_timeout: seconds.
        why: what the user says about it, for the record.

    Raises:
        UsageError: E602 there is no such deployment, E622 no such revision, or its artifacts are gone or damaged.
        Busy: another command is deploying this name.
        DeployFailed: it did not start or gave other answers than verified; the error says what serves now.
    """
    recorded = store.state.read().deployments.get(name)
    try:
        return _roll_back(store, name, revision, observer, lock_timeout, why)
    except DeployFailed as error:
        add_what_serves(error, name, recorded, store)
        raise


def _roll_back(
    store: Store, name: str, revision: int | None, observer: Observer, lock_timeout: float, why: str
) -> Deployment:
    with deployment_lock(store, name, lock_timeout, observer):
        before = recover(name, store, observer)
        if before is None:
            raise UsageError(Diagnostic("E602", f"no deployment is called `{name}`", remedy="`mlo status` lists them"))
        entry = revision_to_return_to(before, revision)
        _check_stored(store, before.name, entry)
        release = RenderedRelease(
            name=before.name,
            spec_file=before.spec_file,
            spec_digest=entry.spec_digest,
            decision_digest=entry.decision_digest,
            rendered=entry.rendered_digest,
            imported=entry.imported_digest,
            gates=entry.gates,
            threads=entry.threads,
            image=entry.image,
        )
        # The place where it served: a deployment that has moved since then moves back.
        target = target_at(entry.placement, Site(store, name))
        reason = Reason("rollback", f"rollback from revision {before.revision}", why)
        return GoLive(release, target, store, observer).replace(before, entry.revision, reason)


def _check_stored(store: Store, name: str, entry: Revision) -> None:
    """Read all files of the revision, which have not been checked since it served."""
    trees = store.trees
    for digest in (entry.rendered_digest, entry.imported_digest):
        cause = ""
        if not trees.holds(digest):
            cause = "its rendered files or its golden requests are no longer in the store"
        elif digest_tree(trees.path(digest)).digest != digest:
            cause = f"{trees.path(digest)} has been modified since"
        if cause:
            raise UsageError(
                Diagnostic(
                    "E622",
                    f"revision {entry.revision} of {name} cannot serve again",
                    cause=cause,
                    remedy="run `mlo apply` with the spec that it was made from",
                )
            )


def revision_to_return_to(deployment: Deployment, revision: int | None) -> Revision:
    """What a rollback lets serve again.

    Args:
        deployment: as the state records it.
        revision: its number; None for the one that served before this one.

    Raises:
        UsageError: E622 there is no such revision, or it serves already.
    """
    others = [entry for entry in deployment.history if entry.revision != deployment.revision]
    if not others:
        raise UsageError(
            Diagnostic(
                "E622",
                f"{deployment.name} has no revision to go back to",
                cause=f"revision {deployment.revision} is the only one that ever served"
                if deployment.history
                else "its first revision is still being deployed, or that was interrupted",
                remedy="to change what serves, change its spec and run `mlo apply`",
            )
        )
    if revision is None:
        return others[-1]
    for entry in others:
        if entry.revision == revision:
            return entry
    listed = ", ".join(str(entry.revision) for entry in sorted(others, key=lambda e: -e.revision))
    raise UsageError(
        Diagnostic(
            "E622",
            f"{deployment.name} already serves revision {revision}"
            if revision == deployment.revision
            else f"{deployment.name} has no revision {revision}",
            remedy=f"name one of {listed}; `mlo history {deployment.name}` describes them",
        )
    )
