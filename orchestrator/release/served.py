"""What a client must know of a deployment, read from the rendered folder of its server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.backends.table import serving_backend
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.spec.signature import Signature
from orchestrator.store.state import Deployment
from orchestrator.store.store import Store

__all__ = ["Served", "served_by"]


@dataclass(frozen=True, slots=True)
class Served:
    """What a revision serves.

    Attributes:
        max_body: bytes of the largest request; None if nothing has to be smaller for it.
        token_file: with the tokens that requests need; None if they need none.
        certificate: the file with the server's; None if it takes plain HTTP.
    """

    signature: Signature
    max_body: int | None
    token_file: Path | None
    certificate: Path | None


def served_by(store: Store, deployment: Deployment) -> Served:
    """Of the revision that serves, or that served last.

    Raises:
        DeployFailed: E619 no revision ever served, or its folder is gone from the store.
    """
    serving = store.trees.path(deployment.rendered_digest) / "serving"
    backend = serving_backend(deployment.backend)
    try:
        signature = backend.signature(serving, deployment.name)
        return Served(signature, backend.max_body(serving), backend.token_file(serving), backend.certificate(serving))
    except FileNotFoundError as missing:
        raise DeployFailed(
            Diagnostic(
                "E619",
                f"{deployment.name} is not serving",
                cause=f"{missing.filename} is missing",
                remedy="run `mlo apply` with its spec",
            )
        ) from missing
