"""Stops a deployment everywhere it may still be running, and deletes its record; what goes wrong is reported without stopping it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import DeployFailed, MloError
from orchestrator.events import Observer
from orchestrator.release.go_live import deployment_lock, recover
from orchestrator.store.state import Deployment, PlacementRecord
from orchestrator.store.store import Store
from orchestrator.targets.table import target_at
from orchestrator.targets.target import Site

__all__ = ["Removed", "remove"]


@dataclass(frozen=True, slots=True)
class Removed:
    """What was done.

    Attributes:
        done: a word or two: "stopped"; "already removed" if another command was faster.
        notes: what is left, or was damaged, a clause each.
    """

    done: str
    notes: tuple[str, ...]


def remove(store: Store, name: str, observer: Observer, lock_timeout: float) -> Removed:
    """Stop the deployment and delete its record; its artifacts stay in the store until garbage collection.

    Raises:
        Busy: another command is changing it.
        DeployFailed: its processes cannot be ended, or the place is not this deployment's; the record stays.
        StoreFailed: E701 the store cannot be written, E705 this version of mlo does not know its target.
    """
    with deployment_lock(store, name, lock_timeout, observer):
        known = store.state.read().deployments.get(name)
        if known is None:
            return Removed("already removed", ())
        notes: list[str] = []
        try:
            known = recover(name, store) or known
        except MloError as unsettled:
            # The remains of a run that died are stopped below; if it cannot be recovered, that must not keep the rest alive.
            notes.append(f"although its last run cannot be recovered: {_reason(unsettled)}")
        for placement in _other_places(known):
            try:
                notes += _stop(store, name, placement)[1]
            except DeployFailed as held:
                notes.append(f"except for what it began at another place: {_reason(held)}")
        done, left = _stop(store, name, known.placement)
        store.receipts.forget(name)
        store.state.update(lambda state: state.without_deployment(name))
        return Removed(done, (*notes, *left))


def _other_places(known: Deployment) -> list[PlacementRecord]:
    """Where it was before, and where it was about to go."""
    places = [known.leaving, None if known.intent is None else known.intent.placement]
    return [place for place in places if place is not None and place != known.placement]


def _stop(store: Store, name: str, placement: PlacementRecord) -> tuple[str, tuple[str, ...]]:
    """The target's word for what was done, and notes on what is left or was damaged."""
    target = target_at(placement, Site(store, name))
    with target.lock():
        left = target.stop()
    return target.describe().removed, left


def _reason(error: MloError) -> str:
    return error.diagnostics[0].sentence
