"""The targets by name: which object looks after a deployment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator.targets.folder.target import FolderTarget
from orchestrator.targets.local.target import LocalTarget

if TYPE_CHECKING:
    from orchestrator.store.store import Store
    from orchestrator.targets.target import Target

__all__ = ["TARGETS", "target_at"]


def _local(store: Store, name: str, place: str, keep: int) -> Target:
    del place, keep
    return LocalTarget(store.home.deployments / name)


def _folder(store: Store, name: str, place: str, keep: int) -> Target:
    return FolderTarget(Path(place), name, keep, store.stat_cache)


TARGETS: Mapping[str, Callable[[Store, str, str, int], Target]] = MappingProxyType({"local": _local, "folder": _folder})
"""Name, as in the spec's `deploy.target` → what makes it of a store, a deployment's name, its place, and how many to keep."""


def target_at(kind: str, store: Store, name: str, place: str, keep: int) -> Target:
    """What looks after a deployment.

    Args:
        kind: the target's name.
        store: where results and receipts are kept.
        name: the deployment's.
        place: as `Target.place` gives it.
        keep: how many revisions stay there; 0 where the target keeps none.

    Raises:
        KeyError: there is no such target.
    """
    return TARGETS[kind](store, name, place, keep)
