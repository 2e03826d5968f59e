"""What is deployed now, as recorded in the state and as observed by the target."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import MloError
from orchestrator.plan.plan_file import LiveStatus
from orchestrator.release.go_live import target_of
from orchestrator.spec.load import LoadedSpec
from orchestrator.store.digest import digest_tree
from orchestrator.store.state import Deployment
from orchestrator.store.store import Store
from orchestrator.targets.table import target_at, target_for
from orchestrator.targets.target import Observed, Site, Target

__all__ = ["Live", "add_what_serves", "observe", "same_release", "unrecorded", "wanted_target"]


@dataclass(frozen=True, slots=True)
class Live:
    """A deployment as recorded and as observed.

    Attributes:
        recorded: None if the name was never deployed, or was destroyed.
        observed: None likewise.
        change: how the deployment differs from what the spec asks for, such as another place; None if it does not.
        moves: whether that change is a move to another place.
        alike: whether two rendered trees, by their digests, are the same release at this place.
    """

    recorded: Deployment | None
    observed: Observed | None
    change: str | None = None
    moves: bool = False
    alike: Callable[[str, str], bool] = operator.eq

    def compare(self, rendered: str | None) -> tuple[LiveStatus, str]:
        """The deploy step's status and its reason, given the rendered digest if it is known."""
        if self.recorded is None or self.observed is None:
            return ("+", "not deployed yet") if rendered is not None else ("known after run", "not deployed yet")
        if self.recorded.revision == 0:
            return ("+" if rendered is not None else "known after run"), "an earlier deploy was interrupted"
        if self.moves and self.change is not None:
            return "~", self.change
        undone = _rolled_back(self.recorded, rendered)
        if rendered is None:
            return "known after run", f"revision {self.recorded.revision} serves{undone}; depends on render"
        if self.observed.revision is None:
            return "+", f"drift: the state says revision {self.recorded.revision}, but nothing serves"
        if self.observed.revision != self.recorded.revision:
            return "~", (
                f"drift: the state says revision {self.recorded.revision}, but {self.observed.revision} is serving"
            )
        if not self.alike(rendered, self.recorded.rendered_digest):
            return "~", f"replaces revision {self.recorded.revision}{undone}"
        if self.change is not None:
            return "~", self.change
        if self.observed.health != "healthy":
            why = f" ({self.observed.reason})" if self.observed.reason else ""
            return "~", f"drift: revision {self.recorded.revision} is {self.observed.health}{why}"
        return "=", f"revision {self.recorded.revision} serves and is healthy"


def _rolled_back(recorded: Deployment, rendered: str | None) -> str:
    """What an apply would undo, if the live revision serves because of a rollback; empty otherwise."""
    entry = next((each for each in recorded.history if each.revision == recorded.revision), None)
    if entry is None or not entry.changes or entry.changes[-1].op != "rollback":
        return ""
    last = entry.changes[-1]
    rollback = f"the rollback of {last.at} by {last.user} ({last.why})"
    if rendered is None:
        return f" after {rollback}, which an apply would undo unless it renders that revision"
    same = next((each.revision for each in recorded.history if each.rendered_digest == rendered), None)
    return f" and undoes {rollback}" + ("" if same is None else f": it brings back what revision {same} was")


def wanted_target(loaded: LoadedSpec, store: Store) -> Target:
    """The target that the spec names."""
    section = loaded.spec.deploy.among(loaded.spec, loaded.environments)
    return target_for(section, loaded.folder, Site(store, loaded.spec.metadata.name))


def observe(loaded: LoadedSpec, store: Store) -> Live:
    """Look at the deployment that this spec names."""
    recorded = store.state.read().deployments.get(loaded.spec.metadata.name)
    if recorded is None:
        return Live(None, None)
    wanted = wanted_target(loaded, store)
    observed = target_of(recorded, store).observe()
    if wanted.is_at(recorded.placement):
        alike = partial(same_release, store, loaded.spec.deploy.ignores)
        return Live(recorded, observed, change=wanted.difference(recorded.endpoint), alike=alike)
    change = f"moves from {recorded.endpoint} to {wanted.describe().where}"
    return Live(recorded, observed, change=change, moves=True)


def same_release(store: Store, ignores: frozenset[str], one: str, other: str) -> bool:
    """Whether two rendered trees are the same but for files that the target ignores; a tree that is lost is like no other.

    Args:
        store: has the trees.
        ignores: names of files and folders.
        one: digest of a tree.
        other: of the other.
    """
    if one == other or not ignores:
        return one == other
    trees = [store.trees.path(digest) for digest in (one, other)]
    if not all(tree.is_dir() for tree in trees):
        return False
    first, second = (
        {name: entry for name, entry in digest_tree(tree).files.items() if not {name, name.partition("/")[0]} & ignores}
        for tree in trees
    )
    return first == second


def unrecorded(recorded: Deployment, store: Store) -> Observed | None:
    """The revision of a change that has begun, if it has the traffic already; the next run records it."""
    if (begun := recorded.intent) is None:
        return None
    observed = target_at(begun.placement, Site(store, recorded.name)).observe()
    return observed if observed.revision == begun.revision != recorded.revision else None


def add_what_serves(error: MloError, name: str, before: Deployment | None, store: Store) -> None:
    """Add what serves now to the error of a failed change; if that cannot be found out, a note says so.

    Args:
        error: gets a further diagnostic: W601 if nothing has changed, W602 otherwise; none if nothing serves.
        name: the deployment's.
        before: what was recorded when the change began.
        store: the state.
    """
    try:
        recorded = store.state.read().deployments.get(name)
        if recorded is None:
            return
        switched = unrecorded(recorded, store)
        serving = switched or target_of(recorded, store).observe()
    except MloError as second:
        error.add_note(f"what serves now cannot be found out: {second}")
        return
    if serving.revision is None:
        return
    there = f"revision {serving.revision} at {serving.endpoint}"
    code = "W602"
    if switched is not None:
        message = f"{name} was switched to {there}, which is not recorded yet: the next `mlo apply` does that"
    elif serving.revision != recorded.revision:
        message = f"{name} is served by {there}, but the state says revision {recorded.revision}"
    elif before is None or before.revision != recorded.revision:
        message = f"{name} was changed meanwhile: {there}"
    else:
        code, message = "W601", f"{name} is unchanged: {there}"
    error.diagnostics = (*error.diagnostics, Diagnostic(code, message, severity="warning"))
