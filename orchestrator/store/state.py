"""What is deployed: one small file, replaced as a whole under a lock, and never overwritten when it cannot be read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from orchestrator import __version__
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StoreFailed
from orchestrator.store.atomic import pretty_json, write_atomic
from orchestrator.store.crash_points import crash_point
from orchestrator.store.failures import store_failed
from orchestrator.store.home import Home
from orchestrator.store.locks import lock

__all__ = ["Deployment", "Intent", "Revision", "State", "StateFile"]

FORMAT = 2
_MOST_REVISIONS = 10
_LOCK_TIMEOUT = 60.0  # seconds; whoever holds the lock writes one small file


@dataclass(frozen=True, slots=True)
class Intent:
    """A change that was begun. It is written before the change and cleared after it.

    Attributes:
        op: what, such as "deploy".
        revision: of the deployment.
        pid: of the process that began it.
        host: its host.
        started: ISO time, UTC.
        target: where it goes, such as "local".
        place: of a target that has one, such as a folder's path.
        keep: how many revisions are kept there.
        wanted: the deployment that it is to become, as `Deployment.as_json` writes it; empty until it is proven.
    """

    op: str
    revision: int
    pid: int
    host: str
    started: str
    target: str
    place: str
    keep: int
    wanted: str = ""

    @classmethod
    def now(cls, op: str, revision: int, target: str = "local", place: str = "", keep: int = 0) -> Intent:
        """An intent of this process, begun now."""
        return cls(op, revision, os.getpid(), os.uname().nodename, datetime.now(UTC).isoformat(), target, place, keep)


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision that was live.

    Attributes:
        revision: its number, from 1.
        backend: what served it.
        variant: which variant of the model.
        rendered_digest: the tree that it was started from.
        deployed: ISO time, UTC.
        spec_digest: of the spec as it was applied.
        decision_digest: of what was decided.
        imported_digest: the tree with the golden requests that prove it.
        gates: what the spec sets for its precision, as JSON.
        threads: of one model instance.
        target, place, keep: where it served, as in `Deployment`.
    """

    revision: int
    backend: str
    variant: str
    rendered_digest: str
    deployed: str
    spec_digest: str
    decision_digest: str
    imported_digest: str
    gates: str
    threads: int
    target: str
    place: str
    keep: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One deployment as mlo left it; what really serves is asked of the target.

    Attributes:
        name: from the spec's metadata.
        target: where, such as "local".
        place: of a target that has one, such as a folder's path; else empty.
        keep: how many revisions a folder keeps; 0 where the target keeps none.
        highest: the highest number that a revision ever had, so that the next one is new.
        leaving: where it was before, as JSON, until nothing is left there; else empty.
        revision: the live one's number; 0 while the first is on its way.
        backend: what serves.
        variant: which variant of the model.
        endpoint: where requests go.
        spec_file: absolute path of the spec.
        spec_digest: of the spec as it was applied.
        decision_digest: of what was decided.
        model_digest: of the variant's tree.
        rendered_digest: of the tree that was rendered.
        status: such as "deployed".
        history: revisions, each once, the one that served last at the end; the last 10.
        intent: the change that is going on, or that was broken off.
    """

    name: str
    target: str
    place: str
    keep: int
    revision: int
    highest: int
    backend: str
    variant: str
    endpoint: str
    spec_file: str
    spec_digest: str
    decision_digest: str
    model_digest: str
    rendered_digest: str
    status: str
    history: tuple[Revision, ...] = ()
    leaving: str = ""
    intent: Intent | None = None

    def __post_init__(self) -> None:
        last = {entry.revision: entry for entry in self.history}
        order = sorted(last, key=lambda revision: max(i for i, e in enumerate(self.history) if e.revision == revision))
        object.__setattr__(self, "history", tuple(last[revision] for revision in order)[-_MOST_REVISIONS:])

    def with_intent(self, intent: Intent) -> Deployment:
        """The same, with a change begun."""
        return replace(self, intent=intent)

    def without_intent(self) -> Deployment:
        """The same, with no change going on."""
        return replace(self, intent=None)

    def as_json(self) -> str:
        """The form that an intent keeps; `from_json` reads it back."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Deployment:
        """What `as_json` wrote.

        Raises:
            ValueError, LookupError, TypeError: it is something else.
        """
        return _deployment(json.loads(text))

    def digests(self) -> set[str]:
        """All digests that this deployment, or a rollback of it, may need."""
        named = {self.spec_digest, self.decision_digest, self.model_digest, self.rendered_digest}
        for revision in self.history:
            named |= {revision.rendered_digest, revision.imported_digest}
        return named - {""}


@dataclass(frozen=True, slots=True)
class State:
    """All that is deployed from one home.

    Attributes:
        lineage: made with the first write; another one means another history. Empty before that.
        serial: counts the writes.
        tool: who wrote last, such as "mlo 0.1.0".
        deployments: by name.
    """

    lineage: str = ""
    serial: int = 0
    tool: str = f"mlo {__version__}"
    deployments: Mapping[str, Deployment] = field(default_factory=lambda: MappingProxyType({}))

    def with_deployment(self, deployment: Deployment) -> State:
        """The same, with this deployment in place of the one of its name."""
        return replace(self, deployments=MappingProxyType({**self.deployments, deployment.name: deployment}))

    def without_deployment(self, name: str) -> State:
        """The same without it; no error when there is none of that name."""
        rest = {other: deployment for other, deployment in self.deployments.items() if other != name}
        return replace(self, deployments=MappingProxyType(rest))

    def as_json(self) -> dict[str, Any]:
        """The form that is kept."""
        return {
            "format": FORMAT,
            "lineage": self.lineage,
            "serial": self.serial,
            "tool": self.tool,
            "deployments": {name: asdict(deployment) for name, deployment in self.deployments.items()},
        }


class StateFile:
    """The state of one home.

    Args:
        home: where it is kept.
    """

    def __init__(self, home: Home) -> None:
        self._file = home.state_file
        self._lock = home.lock_file("state")

    def read(self) -> State:
        """What is deployed; an empty state when there is no file yet.

        Raises:
            StoreFailed: the file is damaged, or written by a newer mlo. It is left as it is.
        """
        try:
            data = self._file.read_bytes()
        except FileNotFoundError:
            return State()
        except OSError as error:
            raise store_failed("read", self._file, error) from error
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._unreadable(str(error)) from error
        if not isinstance(document, dict):
            raise self._unreadable("it is not a JSON object")
        written = document.get("format")
        if type(written) is int and written > FORMAT:
            raise self._too_new(written, str(document.get("tool", "a newer mlo")))
        if type(written) is int and 0 < written < FORMAT:
            raise self._too_old(written, str(document.get("tool", "an earlier version")))
        try:
            return _state(document)
        except (LookupError, TypeError, ValueError) as error:
            raise self._unreadable(f"{type(error).__name__}: {error}") from error

    def update(self, change: Callable[[State], State]) -> State:
        """Read, change and write as one step; nobody else's update comes in between.

        Args:
            change: the new state from the old one; a state that is equal is not written.

        Returns:
            What stands now, its serial one higher if anything changed.

        Raises:
            StoreFailed: the file cannot be read or written; it is left as it is.
            Busy: somebody else has been writing for a minute.
        """
        with lock(self._lock, timeout=_LOCK_TIMEOUT, info={"what": "writing the state"}):
            before = self.read()
            wanted = change(before)
            if wanted == before:
                return before
            after = replace(
                wanted,
                lineage=before.lineage or uuid4().hex,
                serial=before.serial + 1,
                tool=f"mlo {__version__}",
            )
            crash_point("state.before-write")
            write_atomic(self._file, pretty_json(after.as_json()), mode=0o600)
            crash_point("state.after-write")
            return after

    def _too_old(self, written: int, tool: str) -> StoreFailed:
        return StoreFailed(
            Diagnostic(
                code="E705",
                message=f"the state {self._file} was written by an older mlo, {tool}",
                cause=f"it has format {written}, and this mlo reads format {FORMAT}",
                remedy="destroy its deployments with the version that made them, then move the file away",
                notes=("nothing was changed in it",),
            )
        )

    def _unreadable(self, cause: str) -> StoreFailed:
        return StoreFailed(
            Diagnostic(
                code="E704",
                message=f"the state {self._file} cannot be read",
                cause=cause,
                remedy="restore it from a backup; or move it away to begin with an empty one, after stopping the "
                f"servers that were started from {self._file.parent}",
                notes=("nothing was changed in it",),
            )
        )

    def _too_new(self, written: int, tool: str) -> StoreFailed:
        return StoreFailed(
            Diagnostic(
                code="E705",
                message=f"the state {self._file} was written by {tool}",
                cause=f"it has format {written}; mlo {__version__} knows formats up to {FORMAT}",
                remedy=f"use {tool} or a later one here",
                notes=("nothing was changed in it",),
            )
        )


def _state(document: Mapping[str, Any]) -> State:
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']!r} is unknown")
    for name, kind in (("lineage", str), ("serial", int), ("tool", str), ("deployments", dict)):
        if type(document[name]) is not kind:
            raise ValueError(f"{name} cannot be {document[name]!r}")
    deployments = {name: _deployment(entry) for name, entry in document["deployments"].items()}
    if strange := [name for name, deployment in deployments.items() if deployment.name != name]:
        raise ValueError(f"the deployment under {strange[0]} has another name")
    return State(document["lineage"], document["serial"], document["tool"], MappingProxyType(deployments))


def _deployment(entry: Mapping[str, Any]) -> Deployment:
    intent = entry["intent"]
    members = {
        **entry,
        "history": tuple(Revision(**_typed(Revision, revision)) for revision in entry["history"]),
        "intent": None if intent is None else Intent(**_typed(Intent, intent)),
    }
    return Deployment(**_typed(Deployment, members))


def _typed(kind: type[Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """The members of a dataclass whose text and whole numbers are what they are declared to be."""
    declared = {member.name: {"str": str, "int": int}.get(str(member.type)) for member in fields(kind)}
    members = dict(entry)
    if members.keys() != declared.keys():
        raise ValueError(f"{kind.__name__} has other members: {sorted(members.keys() ^ declared.keys())}")
    for name, wanted in declared.items():
        if wanted is not None and type(members[name]) is not wanted:
            raise ValueError(f"{name} cannot be {members[name]!r}")
    return members
