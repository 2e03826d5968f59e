"""What is deployed now, as the state remembers it and as the target shows it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.spec.models import ModelDeployment
from orchestrator.store.home import Home
from orchestrator.store.state import Deployment, StateFile
from orchestrator.targets.local import LocalTarget, Observed

__all__ = ["Live", "observe"]


@dataclass(frozen=True, slots=True)
class Live:
    """A deployment as remembered and as observed.

    Attributes:
        wanted_port: the port that the spec asks for; None leaves it as it is.
        remembered: None when the name was never deployed, or is destroyed.
        observed: None likewise.
    """

    wanted_port: int | None
    remembered: Deployment | None
    observed: Observed | None

    def compare(self, rendered: str | None) -> tuple[str, str]:
        """The deploy step's status and its reason, given the digest of what is rendered if it is known."""
        if self.remembered is None or self.observed is None:
            return ("+", "not deployed yet") if rendered is not None else ("known after run", "not deployed yet")
        if self.remembered.revision == 0:
            return ("+" if rendered is not None else "known after run"), "an earlier deploy was broken off"
        if rendered is None:
            return "known after run", f"revision {self.remembered.revision} serves; depends on render"
        if self.observed.revision is None:
            return "+", f"drift: the state says revision {self.remembered.revision}, but no server is running"
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


def observe(spec: ModelDeployment, home: Home) -> Live:
    """Look at the deployment that this spec names."""
    remembered = StateFile(home).read().deployments.get(spec.metadata.name)
    if remembered is None:
        return Live(spec.deploy.port, None, None)
    return Live(spec.deploy.port, remembered, LocalTarget(home.deployments / spec.metadata.name).observe())
