"""The signature that a deployment serves, read from the rendered folder of its server."""

from __future__ import annotations

from orchestrator.backends.table import serving_backend
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.spec.signature import Signature
from orchestrator.store.state import Deployment
from orchestrator.store.store import Store

__all__ = ["served_signature"]


def served_signature(store: Store, deployment: Deployment) -> Signature:
    """The inputs and outputs of the revision that serves, or that served last.

    Raises:
        DeployFailed: E619 no revision ever served, or its folder is gone from the store.
    """
    serving = store.trees.path(deployment.rendered_digest) / "serving"
    try:
        return serving_backend(deployment.backend).signature(serving, deployment.name)
    except FileNotFoundError as missing:
        raise DeployFailed(
            Diagnostic(
                "E619",
                f"{deployment.name} is not serving",
                cause=f"{missing.filename} is missing",
                remedy="run `mlo apply` with its spec",
            )
        ) from missing
