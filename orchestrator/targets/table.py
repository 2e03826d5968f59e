"""The targets by name: which object looks after a deployment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.targets.folder import FolderTarget
from orchestrator.targets.local import LocalTarget

if TYPE_CHECKING:
    from orchestrator.store.home import Home
    from orchestrator.store.state import Deployment
    from orchestrator.targets.target import Target

__all__ = ["target_of"]


def target_of(deployment: Deployment, home: Home) -> Target:
    """What looks after this deployment.

    Raises:
        KeyError: the state names a target that there is none of.
    """
    if deployment.target == "local":
        return LocalTarget(home.deployments / deployment.name)
    if deployment.target == "folder":
        return FolderTarget(Path(deployment.endpoint), deployment.name, deployment.keep)
    raise KeyError(deployment.target)
