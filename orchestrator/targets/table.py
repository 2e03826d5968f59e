"""The targets by name: which object looks after a deployment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator.store.digest import StatCache
from orchestrator.targets.folder.target import FolderTarget
from orchestrator.targets.local.target import LocalTarget

if TYPE_CHECKING:
    from orchestrator.store.home import Home
    from orchestrator.targets.target import Target

__all__ = ["TARGETS", "target_at"]


def _local(home: Home, name: str, place: str, keep: int) -> Target:
    del place, keep
    return LocalTarget(home.deployments / name)


def _folder(home: Home, name: str, place: str, keep: int) -> Target:
    return FolderTarget(Path(place), name, keep, StatCache(home))


TARGETS: Mapping[str, Callable[[Home, str, str, int], Target]] = MappingProxyType({"local": _local, "folder": _folder})
"""Name, as in the spec's `deploy.target` → what makes it of a store, a deployment's name, its place, and how many to keep."""


def target_at(kind: str, home: Home, name: str, place: str, keep: int) -> Target:
    """What looks after a deployment.

    Args:
        kind: the target's name.
        home: the store.
        name: the deployment's.
        place: as `Target.place` gives it.
        keep: how many revisions stay there; 0 where the target keeps none.

    Raises:
        KeyError: there is no such target.
    """
    return TARGETS[kind](home, name, place, keep)
