"""Named places where a test can kill this process, to show that nothing is lost there."""

from __future__ import annotations

import os
import signal

__all__ = ["CRASH_POINTS", "crash_point"]

CRASH_POINTS = frozenset(
    {
        # one file, written atomically
        "atomic.before-create",
        "atomic.before-fsync",
        "atomic.after-fsync",
        "atomic.after-rename",
        "atomic.after-folder-fsync",
        # a step's folder on its way into the store
        "tree.before-hash",
        "tree.before-fsync",
        "tree.after-fsync",
        "tree.after-rename",
        "tree.after-folder-fsync",
        "tree.before-discard",
        "tree.after-discard",
        # the commit point of a step
        "receipt.before-latest",
        "receipt.before-write",
        "receipt.after-write",
        # what is deployed
        "state.before-write",
        "state.after-write",
        # garbage collection
        "gc.before-receipts",
        "gc.after-receipts",
        "gc.after-trees",
        # the engine, around its effects outside the store
        "engine.before-worker",
        "engine.after-worker",
        "engine.before-receipt",
        "engine.after-receipt",
        "release.intent-written",
        "release.started",
        "release.step-passed",
        "release.switched",
        "release.recorded",
        # a folder that is deployed into
        "folder.copied",
        "folder.placed",
        "folder.started",
        "folder.switched",
        "folder.recorded",
        # a folder for Git
        "gitops.started",
        "gitops.staged",
        "gitops.exchanged",
        "gitops.between-renames",
        "gitops.switched",
        "gitops.rest-staged",
        "gitops.cleared",
        "gitops.recorded",
        # a release on a cluster
        "kubernetes.installed",
        "kubernetes.split",
        "kubernetes.proven",
        "kubernetes.upgraded",
        # containers of a Docker Engine
        "docker.front-created",
        "docker.front-replacing",
        "docker.front-stopped",
        "docker.created",
        "docker.started",
        "docker.switched",
        "docker.former-removed",
    }
)

_visits: dict[str, int] = {}


def crash_point(name: str) -> None:
    """Kill this process with SIGKILL if the environment's MLO_CRASH_AT is `name`, or `name#N` at the Nth visit.

    Otherwise this costs one look-up in a dict.
    """
    wanted = os.environ.get("MLO_CRASH_AT")
    if wanted is None:
        return
    chosen, _, visit = wanted.partition("#")
    if chosen == name:
        _visits[name] = _visits.get(name, 0) + 1
        if _visits[name] == int(visit or 1):
            os.kill(os.getpid(), signal.SIGKILL)
