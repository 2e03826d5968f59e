"""The signature of what a deployment serves, read from the folder that its server was started from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from orchestrator.backends.table import serving_backend
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.local.control import SERVING_FILE, Recipe

if TYPE_CHECKING:
    from orchestrator.spec.signature import Signature
    from orchestrator.store.state import Deployment
    from orchestrator.store.store import Store

__all__ = ["served_signature"]


def served_signature(store: Store, deployment: Deployment) -> Signature:
    """What goes in and comes out of the revision that serves, or that served last.

    Raises:
        DeployFailed: E619 nothing was ever served, or its folder is gone.
    """
    folder = store.home.deployments / deployment.name
    try:
        recipe = Recipe.from_json(json.loads((folder / SERVING_FILE).read_text(encoding="utf-8")))
        return serving_backend(recipe.backend).signature(folder / recipe.serving, recipe.name)
    except FileNotFoundError as missing:
        raise DeployFailed(
            Diagnostic(
                "E619",
                f"{deployment.name} does not serve",
                cause=f"{missing.filename} is not there",
                remedy="run `mlo apply` with its spec",
            )
        ) from missing
