"""The targets by name. To add one: write its folder, add its row; `tests/targets/test_table.py` says what else it needs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StoreFailed
from orchestrator.targets.docker.section import DockerDeploy
from orchestrator.targets.folder.section import FolderDeploy
from orchestrator.targets.gitops.section import GitopsDeploy
from orchestrator.targets.kubernetes.section import KubernetesDeploy
from orchestrator.targets.local.section import LocalDeploy

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.store.state import PlacementRecord
    from orchestrator.targets.section import DeploySection
    from orchestrator.targets.target import Site, Target

__all__ = ["TARGETS", "TargetRow", "placements_beside", "target_at", "target_for"]


@dataclass(frozen=True, slots=True)
class TargetRow:
    """One target.

    Attributes:
        section: the model of its keys under `deploy:`; the spec's schema is made of these.
        implementation: `module:Class` of what follows `orchestrator.targets.target.Target`, imported when it is needed.
        beside: `module:function` that finds other deployments beside a placement, by their name, for a target whose places say
            whose they are; empty for others.
    """

    section: type[DeploySection]
    implementation: str
    beside: str = ""

    def load(self) -> Any:
        """The class; its `wanted` and `placed` make the target of one deployment."""
        return _imported(self.implementation)


def _imported(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


TARGETS: Mapping[str, TargetRow] = MappingProxyType(
    {
        "local": TargetRow(LocalDeploy, "orchestrator.targets.local.target:LocalTarget"),
        "folder": TargetRow(FolderDeploy, "orchestrator.targets.folder.target:FolderTarget"),
        "gitops": TargetRow(
            GitopsDeploy, "orchestrator.targets.gitops.target:GitopsTarget", "orchestrator.targets.gitops.beside:beside"
        ),
        "kubernetes": TargetRow(KubernetesDeploy, "orchestrator.targets.kubernetes.target:KubernetesTarget"),
        "docker": TargetRow(DockerDeploy, "orchestrator.targets.docker.target:DockerTarget"),
    }
)
"""Name, as in the spec's `deploy.target` → the target. The first one is the default."""


def target_for(section: DeploySection, base: Path, site: Site) -> Target:
    """The target that a spec asks for.

    Args:
        section: the spec's `deploy:`.
        base: the spec's folder.
        site: the deployment.
    """
    target: Target = TARGETS[section.target].load().wanted(section, base, site)
    return target


def target_at(placement: PlacementRecord, site: Site) -> Target:
    """The target of a deployment at the place that the state records.

    Raises:
        StoreFailed: E705 this version of mlo does not know the target, or cannot read the placement.
    """
    row = TARGETS.get(placement.target)
    if row is None:
        raise StoreFailed(
            Diagnostic(
                "E705",
                f"{site.name} is deployed to the target `{placement.target}`, which this version of mlo does not have",
                remedy="use the version of mlo that deployed it",
            )
        )
    target: Target = row.load().placed(placement, site)
    return target


def placements_beside(placement: PlacementRecord) -> Mapping[str, PlacementRecord]:
    """Name → place of other deployments beside this one, as far as its target can tell."""
    row = TARGETS.get(placement.target)
    if row is None or not row.beside:
        return {}
    found: Mapping[str, PlacementRecord] = _imported(row.beside)(placement)
    return found
