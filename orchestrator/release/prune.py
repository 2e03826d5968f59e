"""Removes what lies beside deployments and is of no spec any more, where the place itself says whose it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from orchestrator.events import Observer
from orchestrator.release.go_live import deployment_lock
from orchestrator.release.removal import remove
from orchestrator.store.state import Deployment, PlacementRecord
from orchestrator.store.store import Store
from orchestrator.targets.table import placements_beside, target_at
from orchestrator.targets.target import Site

__all__ = ["left_over", "prune"]


def left_over(deployments: Sequence[Deployment], names: Collection[str]) -> Mapping[str, PlacementRecord]:
    """Name → place of the deployments beside these whose name is not one of `names`."""
    found: dict[str, PlacementRecord] = {}
    for deployment in deployments:
        found |= placements_beside(deployment.placement)
    return {name: found[name] for name in sorted(found) if name not in names}


def prune(store: Store, name: str, placement: PlacementRecord, observer: Observer, lock_timeout: float) -> str:
    """Remove one of them, and its record if this store has one; returns where it was.

    Raises:
        Busy: another command is changing it.
        DeployFailed: the place is not this deployment's.
        StoreFailed: it cannot be written.
    """
    target = target_at(placement, Site(store, name))
    recorded = store.state.read().deployments.get(name)
    if recorded is not None and target.is_at(recorded.placement):
        remove(store, name, observer, lock_timeout)
    else:
        with deployment_lock(store, name, lock_timeout, observer), target.lock():
            target.stop()
    return target.describe().where
