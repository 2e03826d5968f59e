"""Goes back to a revision that served before: the same tree, proven again with the same golden requests."""

from __future__ import annotations

import json

from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.events import Observer
from orchestrator.engine.go_live import GoLive, Ready, adopt, deployment_lock
from orchestrator.errors import UsageError
from orchestrator.store.home import Home
from orchestrator.store.state import Deployment, Revision, StateFile
from orchestrator.store.trees import TreeStore
from orchestrator.targets.table import target_of

__all__ = ["distinct_revisions", "roll_back"]


def distinct_revisions(deployment: Deployment) -> list[Revision]:
    """The revisions that the state remembers, newest first, each once, as it served last."""
    found: dict[int, Revision] = {}
    for entry in deployment.history:
        found[entry.revision] = entry
    return sorted(found.values(), key=lambda entry: entry.revision, reverse=True)


def roll_back(
    home: Home, deployment: Deployment, revision: int | None, observer: Observer, lock_timeout: float
) -> Deployment:
    """Let a former revision serve again; where the target still holds it, only the traffic, or the label, moves.

    Args:
        home: the store.
        deployment: as it is now.
        revision: its number; None for the one that served before this one.
        observer: hears what happens.
        lock_timeout: seconds.

    Raises:
        UsageError: E622 there is no such revision, or its artifacts are gone.
        Busy: somebody else deploys this name.
        DeployFailed: it did not come up or did not answer as proven; what served serves on.
    """
    with deployment_lock(home, deployment.name, lock_timeout, observer):
        target = target_of(deployment, home)
        adopt(deployment.name, target, home)
        before = StateFile(home).read().deployments.get(deployment.name, deployment)
        entry = _wanted(before, revision)
        if not TreeStore(home).holds(entry.rendered_digest):
            raise UsageError(
                Diagnostic(
                    "E622",
                    f"revision {entry.revision} of {before.name} cannot serve again",
                    cause="what was rendered for it is no longer in the store",
                    remedy="apply the spec that it was made from",
                )
            )
        ready = Ready(
            name=before.name,
            target=before.target,
            keep=before.keep,
            port=None,
            spec_file=before.spec_file,
            spec_digest=entry.spec_digest,
            decision_digest=entry.decision_digest,
            rendered=entry.rendered_digest,
            imported=entry.imported_digest,
            gates=json.loads(entry.gates),
            threads=entry.threads,
        )
        return GoLive(ready, target, home, observer).replace(before.without_intent(), entry.revision, "rollback")


def _wanted(deployment: Deployment, revision: int | None) -> Revision:
    known = distinct_revisions(deployment)
    others = [entry for entry in known if entry.revision != deployment.revision]
    if revision is None:
        served = [entry for entry in reversed(deployment.history) if entry.revision != deployment.revision]
        if served:
            return served[0]
        raise UsageError(
            Diagnostic(
                "E622",
                f"{deployment.name} has no revision to go back to",
                cause=f"revision {deployment.revision} is the only one that ever served",
                remedy="apply another spec first",
            )
        )
    for entry in known:
        if entry.revision == revision:
            if revision == deployment.revision:
                break
            return entry
    raise UsageError(
        Diagnostic(
            "E622",
            f"{deployment.name} serves revision {revision} already"
            if revision == deployment.revision
            else f"{deployment.name} has no revision {revision}",
            remedy=f"it can go back to {', '.join(str(entry.revision) for entry in others)}"
            if others
            else "there is no other revision",
        )
    )
