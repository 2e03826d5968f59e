"""What is deployed now, as the state records it and as the target observes it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.release.go_live import target_of
from orchestrator.spec.load import LoadedSpec
from orchestrator.store.state import Deployment
from orchestrator.store.store import Store
from orchestrator.targets.table import target_for
from orchestrator.targets.target import Observed, Site, Target

__all__ = ["Live", "observe", "wanted_target"]


@dataclass(frozen=True, slots=True)
class Live:
    """A deployment as recorded and as observed.

    Attributes:
        remembered: None when the name was never deployed, or is destroyed.
        observed: None likewise.
        change: how the deployment differs from what the spec asks for, such as another place; None if it does not.
        moves: whether that change is a move to another place.
    """

    remembered: Deployment | None
    observed: Observed | None
    change: str | None = None
    moves: bool = False

    def compare(self, rendered: str | None) -> tuple[str, str]:
        """The deploy step's status and its reason, given the digest of what is rendered if it is known."""
        if self.remembered is None or self.observed is None:
            return ("+", "not deployed yet") if rendered is not None else ("known after run", "not deployed yet")
        if self.remembered.revision == 0:
            return ("+" if rendered is not None else "known after run"), "an earlier deploy was interrupted"
        if self.moves and self.change is not None:
            return "~", self.change
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
        if self.change is not None:
            return "~", self.change
        if self.observed.health != "healthy":
            why = f" ({self.observed.reason})" if self.observed.reason else ""
            return "~", f"drift: revision {self.remembered.revision} is {self.observed.health}{why}"
        return "=", f"revision {self.remembered.revision} serves and is healthy"


def wanted_target(loaded: LoadedSpec, store: Store) -> Target:
    """The target that the spec names."""
    return target_for(loaded.spec.deploy, loaded.folder, Site(store, loaded.spec.metadata.name))


def observe(loaded: LoadedSpec, store: Store) -> Live:
    """Look at the deployment that this spec names."""
    remembered = store.state.read().deployments.get(loaded.spec.metadata.name)
    if remembered is None:
        return Live(None, None)
    wanted = wanted_target(loaded, store)
    observed = target_of(remembered, store).observe()
    if wanted.is_at(remembered.placement):
        return Live(remembered, observed, change=wanted.difference(remembered.endpoint))
    change = f"moves from {remembered.endpoint} to {wanted.describe().where}"
    return Live(remembered, observed, change=change, moves=True)
