"""What is deployed: one small file, replaced as a whole under a lock, and never overwritten when it cannot be read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal
from uuid import uuid4

from pydantic import Field, JsonValue, ValidationError, field_validator

from orchestrator import __version__
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StoreFailed
from orchestrator.store.atomic import pretty_json, write_atomic
from orchestrator.store.crash_points import crash_point
from orchestrator.store.failures import store_failed
from orchestrator.store.home import Home
from orchestrator.store.locks import lock
from orchestrator.store.record import Record, first_problem

__all__ = [
    "MOST_REVISIONS",
    "Change",
    "Deployment",
    "Image",
    "Intent",
    "Operation",
    "PlacementRecord",
    "Revision",
    "State",
    "StateFile",
]

FORMAT: Literal[3] = 3
MOST_REVISIONS = 10
"""Of a deployment, and changes of each, that are remembered."""
_LOCK_TIMEOUT = 60.0  # seconds; the holder of the lock only writes one small file

Operation = Literal["deploy", "rollback"]


class PlacementRecord(Record):
    """Where a deployment is; only its target reads and writes `settings`.

    Attributes:
        target: the target's name in the spec.
        version: of the settings' fields.
        settings: what it needs to find the place again.
    """

    target: str
    version: int
    settings: dict[str, JsonValue]


class Change(Record):
    """Who let a revision serve, when and why.

    Attributes:
        op: by an apply, or by a rollback.
        at: ISO time, UTC.
        user: the name of the user and of the machine, as in `ann@build-7`.
        commit: that the spec's repository was at; None for a rollback, outside of a repository or without git.
        modified: whether the spec differed from that commit.
        why: what made it necessary, and the reason that was given.
    """

    op: Operation
    at: str
    user: str
    commit: str | None = None
    modified: bool = False
    why: str


class Image(Record):
    """A built image.

    Attributes:
        name: repository and tag.
        id: of its configuration, `sha256:...`; the engine that built it knows it by this.
        digest: of its manifest in the registry, `sha256:...`; None until it is pushed.
        platform: such as `linux/amd64`.
    """

    name: str
    id: str
    digest: str | None = None
    platform: str

    @property
    def reference(self) -> str:
        """What pulls exactly this image once it is pushed; before that its name."""
        return self.name if self.digest is None else f"{self.name.rpartition(':')[0]}@{self.digest}"


class Revision(Record):
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
        gates: what the spec sets for its precision.
        threads: of one model instance.
        image: that it was started from; None for a target without images.
        placement: where it served.
        changes: how it came to serve, each time, the first one first; the last 10.
    """

    revision: int
    backend: str
    variant: str
    rendered_digest: str
    deployed: str
    spec_digest: str
    decision_digest: str
    imported_digest: str
    gates: dict[str, float]
    threads: int
    image: Image | None = None
    placement: PlacementRecord
    changes: tuple[Change, ...] = ()


class Deployment(Record):
    """One deployment as mlo left it; the target knows what really serves.

    Attributes:
        name: from the spec's metadata.
        placement: where it is.
        leaving: where it was before, until nothing is left there.
        highest: the highest number that a revision ever had, so that the next one is new.
        revision: the live one's number; 0 while the first is on its way.
        backend: what serves.
        variant: which variant of the model.
        endpoint: where requests go, or where its files lie.
        spec_file: absolute path of the spec.
        spec_digest: of the spec as it was applied.
        decision_digest: of what was decided.
        model_digest: of the variant's tree.
        rendered_digest: of the tree that was rendered.
        history: revisions, each once, the one that served last at the end; the last 10.
        intent: the change that is under way, or that was interrupted.
    """

    name: str
    placement: PlacementRecord
    leaving: PlacementRecord | None = None
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
    history: tuple[Revision, ...] = ()
    intent: Intent | None = None

    @field_validator("history")
    @classmethod
    def _each_once(cls, history: tuple[Revision, ...]) -> tuple[Revision, ...]:
        last = {entry.revision: at for at, entry in enumerate(history)}  # it has all changes of the earlier ones
        return tuple(history[at] for at in sorted(last.values()))[-MOST_REVISIONS:]

    def with_intent(self, intent: Intent) -> Deployment:
        """The same, with a change begun."""
        return self.model_copy(update={"intent": intent})

    def without_intent(self) -> Deployment:
        """The same, with no change under way."""
        return self.model_copy(update={"intent": None})

    def arrived(self) -> Deployment:
        """The same, with nothing left where it was before."""
        return self.model_copy(update={"leaving": None})

    def digests(self) -> set[str]:
        """All digests that this deployment, the change under way, or a rollback may need."""
        named = {self.spec_digest, self.decision_digest, self.model_digest, self.rendered_digest}
        for revision in self.history:
            named |= {revision.rendered_digest, revision.imported_digest}
        if self.intent is not None and self.intent.wanted is not None:
            named |= self.intent.wanted.digests()
        return named - {""}


class Intent(Record):
    """A change that was begun. It is written before the change and cleared after it.

    Attributes:
        op: the kind of change.
        revision: of the deployment.
        placement: where it goes.
        pid: of the process that began it.
        host: its host.
        started: ISO time, UTC.
        wanted: the deployment after the change; None until the revision is proven.
    """

    op: Operation
    revision: int
    placement: PlacementRecord
    pid: int
    host: str
    started: str
    wanted: Deployment | None = None

    @classmethod
    def now(cls, op: Operation, revision: int, placement: PlacementRecord, wanted: Deployment | None = None) -> Intent:
        """An intent of this process, begun now."""
        return cls(
            op=op,
            revision=revision,
            placement=placement,
            pid=os.getpid(),
            host=os.uname().nodename,
            started=datetime.now(UTC).isoformat(),
            wanted=wanted,
        )


class State(Record):
    """All that is deployed from one home.

    Attributes:
        format: of the file.
        lineage: made with the first write; another one means another history. Empty before that.
        serial: counts the writes.
        tool: the version that wrote it last, such as "mlo 0.1.0".
        deployments: by name.
    """

    format: Literal[3] = FORMAT
    lineage: str = ""
    serial: int = 0
    tool: str = f"mlo {__version__}"
    deployments: dict[str, Deployment] = Field(default_factory=dict)

    @field_validator("deployments")
    @classmethod
    def _by_their_names(cls, deployments: dict[str, Deployment]) -> dict[str, Deployment]:
        for name, deployment in deployments.items():
            if deployment.name != name:
                raise ValueError(f"the deployment under `{name}` has the name `{deployment.name}`")
        return deployments

    def with_deployment(self, deployment: Deployment) -> State:
        """The same, with this deployment in place of the one of its name."""
        return self.model_copy(update={"deployments": {**self.deployments, deployment.name: deployment}})

    def without_deployment(self, name: str) -> State:
        """The same without it; no error when there is none of that name."""
        rest = {other: deployment for other, deployment in self.deployments.items() if other != name}
        return self.model_copy(update={"deployments": rest})


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
        if missing := sorted(State.model_fields.keys() - document.keys()):
            raise self._unreadable(f"{missing[0]} is missing")
        try:
            return State.model_validate_json(data)
        except ValidationError as error:
            raise self._unreadable(first_problem(error)) from error

    def update(self, change: Callable[[State], State]) -> State:
        """Read, change and write as one step, under a lock.

        Args:
            change: the new state from the old one; a state that is equal is not written.

        Returns:
            The state now, its serial one higher if anything changed.

        Raises:
            StoreFailed: the file cannot be read or written; it is left as it is.
            Busy: another process has been writing for a minute.
        """
        with lock(self._lock, timeout=_LOCK_TIMEOUT, info={"what": "writing the state"}):
            before = self.read()
            wanted = change(before)
            if wanted == before:
                return before
            after = wanted.model_copy(
                update={
                    "lineage": before.lineage or uuid4().hex,
                    "serial": before.serial + 1,
                    "tool": f"mlo {__version__}",
                }
            )
            crash_point("state.before-write")
            write_atomic(self._file, pretty_json(after.model_dump(mode="json")), mode=0o600)
            crash_point("state.after-write")
            return after

    def _too_old(self, written: int, tool: str) -> StoreFailed:
        return StoreFailed(
            Diagnostic(
                code="E705",
                message=f"the state {self._file} was written by an older mlo, {tool}",
                cause=f"it has format {written}, but this version reads format {FORMAT}",
                remedy="destroy its deployments with the version that created them, then move the file away",
                notes=("the file was not modified",),
            )
        )

    def _unreadable(self, cause: str) -> StoreFailed:
        return StoreFailed(
            Diagnostic(
                code="E704",
                message=f"the state {self._file} cannot be read",
                cause=cause,
                remedy="restore it from a backup; or stop the servers that were started from "
                f"{self._file.parent}, then move the file away to start with an empty state",
                notes=("the file was not modified",),
            )
        )

    def _too_new(self, written: int, tool: str) -> StoreFailed:
        return StoreFailed(
            Diagnostic(
                code="E705",
                message=f"the state {self._file} was written by {tool}",
                cause=f"it has format {written}, but mlo {__version__} only reads formats up to {FORMAT}",
                remedy=f"use {tool} or a later version here",
                notes=("the file was not modified",),
            )
        )
