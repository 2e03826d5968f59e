"""What is deployed now, as the state remembers it and as the target shows it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.release.go_live import target_of
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.models import FolderDeploy, LocalDeploy
from orchestrator.store.state import Deployment
from orchestrator.store.store import Store
from orchestrator.targets.table import target_at
from orchestrator.targets.target import Observed, Target

__all__ = ["Live", "observe", "wanted_target"]


@dataclass(frozen=True, slots=True)
class Live:
    """A deployment as remembered and as observed.

    Attributes:
        wanted_port: the port that the spec asks for; None leaves it as it is.
        moves_to: where the spec wants it, if it is deployed elsewhere.
        remembered: None when the name was never deployed, or is destroyed.
        observed: None likewise.
    """

    wanted_port: int | None
    moves_to: str | None
    remembered: Deployment | None
    observed: Observed | None

    def compare(self, rendered: str | None) -> tuple[str, str]:
        """The deploy step's status and its reason, given the digest of what is rendered if it is known."""
        if self.remembered is None or self.observed is None:
            return ("+", "not deployed yet") if rendered is not None else ("known after run", "not deployed yet")
        if self.remembered.revision == 0:
            return ("+" if rendered is not None else "known after run"), "an earlier deploy was broken off"
        if self.moves_to is not None:
            return "~", f"moves from {self.remembered.endpoint} to {self.moves_to}"
        if rendered is None:
            return "known after run", f"revision {self.remembered.revision} serves; depends on render"
        if self.observed.revision is None:
            return "+", f"drift: the state says revision {self.remembered.revision}, but nothing serves"
        if self.observed.revision != self.remembered.revision:
            return "~", (
                f"drift: the state says revision {self.remembered.revision}, but {self.observed.revision} is serving"
            )
        if rendered != self.remembered.rendered_digest:
            return "~", f"replaces revision {self.remembered.revision}"
        if self.wanted_port is not None and not self.remembered.endpoint.endswith(f":{self.wanted_port}"):
            return "~", f"moves from {self.remembered.endpoint} to port {self.wanted_port}"
        if self.observed.health != "healthy":
            return "~", f"drift: revision {self.remembered.revision} is {self.observed.health}"
        return "=", f"revision {self.remembered.revision} serves and is healthy"


def wanted_target(loaded: LoadedSpec, store: Store) -> Target:
    """The target that the spec names."""
    deploy, name = loaded.spec.deploy, loaded.spec.metadata.name
    if isinstance(deploy, FolderDeploy):
        return target_at("folder", store, name, str(loaded.spec.path(deploy.path, loaded.folder)), deploy.versions)
    return target_at("local", store, name, "", 0)


def observe(loaded: LoadedSpec, store: Store) -> Live:
    """Look at the deployment that this spec names."""
    deploy = loaded.spec.deploy
    port = deploy.port if isinstance(deploy, LocalDeploy) else None
    remembered = store.state.read().deployments.get(loaded.spec.metadata.name)
    if remembered is None:
        return Live(port, None, None, None)
    place = wanted_target(loaded, store).place
    elsewhere = (remembered.target, remembered.place) != (deploy.target, place)
    moves_to = (place or f"a server on this machine (`target: {deploy.target}`)") if elsewhere else None
    return Live(port, moves_to, remembered, target_of(remembered, store).observe())
