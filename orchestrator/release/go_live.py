"""Takes something rendered live: beside what serves, proven, switched to, remembered; every effect after its intent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.artifacts.winner import Winner
from orchestrator.backends.table import serving_backend
from orchestrator.errors import MloError
from orchestrator.events import Observer, StepEnded, StepProgress, StepStarted, Waiting
from orchestrator.store.crash_points import crash_point
from orchestrator.store.locks import lock
from orchestrator.store.state import Deployment, Intent, Revision, StateFile
from orchestrator.store.store import Store
from orchestrator.targets.table import target_at
from orchestrator.targets.target import Candidate, Target

__all__ = ["GoLive", "Ready", "deployment_lock", "settle", "target_of"]


@dataclass(frozen=True, slots=True)
class Ready:
    """A rendered release, and what is needed to prove and to remember it.

    Attributes:
        name: the deployment's.
        target, keep: as in `Deployment`.
        port: that the spec asks for, if it does.
        spec_file: absolute path.
        rendered: digest of the rendered tree, which holds winner.json.
        imported: digest of the tree with the golden requests.
        gates: what the spec sets for the winner's precision.
        threads: of one model instance.
    """

    name: str
    target: str
    keep: int
    port: int | None
    spec_file: str
    spec_digest: str
    decision_digest: str
    rendered: str
    imported: str
    gates: Mapping[str, float]
    threads: int


def deployment_lock(store: Store, name: str, timeout: float, observer: Observer) -> Any:
    """The lock that whoever changes this deployment holds; raises Busy (exit code 75) after `timeout` seconds."""
    return lock(
        store.home.lock_file(f"deployment-{name}"),
        timeout=timeout,
        info={"what": f"deploying {name}"},
        on_wait=lambda holder: observer(Waiting("deploy", holder)),
    )


def target_of(deployment: Deployment, store: Store) -> Target:
    """What looks after this deployment."""
    return target_at(deployment.target, store, deployment.name, deployment.place, deployment.keep)


def settle(name: str, store: Store) -> Deployment | None:
    """Settle what a run that died has left, and return what the state remembers then.

    Whoever calls it holds the deployment's lock, so nobody is at it any more. If the run died after its switch, its revision
    was proven and serves: it is remembered as what it is. If before, its candidate is withdrawn. What a deployment that moved
    has left at its former place is stopped.
    """
    state = store.state
    known = state.read().deployments.get(name)
    if known is None:
        return None
    if (begun := known.intent) is not None:
        target = target_at(begun.target, store, name, begun.place, begun.keep)
        with target.alone():
            known = _after(known, begun, target)
        _remember(state, known)
    return _left(known, store, state)


def _after(known: Deployment, begun: Intent, target: Target) -> Deployment:
    """What a deployment is after a run that died with this intent; its candidate is withdrawn unless it had taken over."""
    if target.observe().revision == begun.revision and begun.wanted:
        return Deployment.from_json(begun.wanted)
    if begun.revision != known.revision or (begun.target, begun.place) != (known.target, known.place):
        target.drop(begun.revision)
    if known.revision == 0 and target.observe().revision is None:
        target.stop()
    return known.without_intent()


def _left(known: Deployment, store: Store, state: StateFile) -> Deployment:
    """Stop what is left at the place that the deployment has moved away from."""
    if not known.leaving:
        return known
    former = json.loads(known.leaving)
    target = target_at(former["target"], store, known.name, former["place"], former["keep"])
    with target.alone():
        target.stop()
    known = replace(known, leaving="")
    _remember(state, known)
    return known


def _remember(state: StateFile, deployment: Deployment) -> None:
    state.update(lambda known: known.with_deployment(deployment))


class GoLive:
    """Takes one release live on its target. Whoever uses it holds the deployment's lock, and has settled what was left.

    Args:
        ready: what.
        target: where.
        store: where results and receipts are kept.
        observer: hears what happens.
    """

    def __init__(self, ready: Ready, target: Target, store: Store, observer: Observer) -> None:
        self._ready = ready
        self._target = target
        self._store = store
        self._observer = observer
        self._trees = store.trees
        self._state = store.state
        self._winner = Winner.read(self._rendered())

    def replace(self, before: Deployment | None, revision: int, op: str) -> Deployment:
        """Bring `revision` up, prove it, switch to it, remember it.

        Args:
            before: what the state remembers; None for the first release.
            revision: its number; of a rollback the one that served before.
            op: `deploy` or `rollback`, for the intent.

        Raises:
            DeployFailed: it did not come up or did not answer as proven; what served serves on.
        """
        endpoint = self._prepared(before, op, revision)
        with self._alone(before):
            try:
                candidate = self._started(revision)
                self._check(candidate)
                deployment = self._deployment(before, revision, endpoint)
                # Before the switch: a run that dies right after it leaves behind what it was that it switched to.
                self._remember_intent(before, self._intent(op, revision, deployment.as_json()))
                notes = self._target.switch(revision)
            except BaseException as error:
                self._withdraw(before, revision, error)
                raise
            crash_point("release.switched")
            _remember(self._state, deployment)
            crash_point("release.remembered")
        for note in notes:
            self._observer(StepEnded("switch", "done", 0.0, note))
        return _left(deployment, self._store, self._state)

    def _prepared(self, before: Deployment | None, op: str, revision: int) -> str:
        """The endpoint. What fails here has started nothing, so there is nothing to withdraw but the intent."""
        self._remember_intent(before, self._intent(op, revision))
        crash_point("release.intent-written")
        try:
            return self._target.prepare(self._ready.port)
        except BaseException:
            self._forget_intent(before)
            raise

    @contextmanager
    def _alone(self, before: Deployment | None) -> Iterator[None]:
        """The place to ourselves; who does not get it has started nothing either."""
        with ExitStack() as held:
            try:
                held.enter_context(self._target.alone())
            except BaseException:
                self._forget_intent(before)
                raise
            yield

    def _started(self, revision: int) -> Candidate:
        began = datetime.now(UTC)
        candidate = self._target.start_candidate(
            revision=revision,
            serving=self._rendered() / "serving",
            backend=self._winner.backend,
            name=self._ready.name,
            threads=self._ready.threads,
            startup_seconds=self._winner.startup_seconds,
            progress=lambda message: self._observer(StepProgress("deploy", message, None)),
        )
        crash_point("release.candidate-ready")
        self._observer(StepEnded("deploy", "done", (datetime.now(UTC) - began).total_seconds(), ""))
        return candidate

    def _check(self, candidate: Candidate) -> None:
        began = datetime.now(UTC)
        if not self._target.answers:
            # Nothing serves here: `verify` has proven the variant, and the copy's digest was compared with it.
            said = f"{candidate.endpoint} holds what was rendered, by its digest"
        else:
            from orchestrator.release.golden import check_golden  # noqa: PLC0415 - numpy: what changes nothing is quicker

            self._observer(StepStarted("check", "golden requests to the new revision"))
            report = check_golden(
                candidate.endpoint,
                serving_backend(self._winner.backend),
                self._ready.name,
                self._trees.path(self._ready.imported),
                self._ready.gates,
                precision=self._winner.precision,
            )
            said = report.summary()
        self._observer(StepEnded("check", "done", (datetime.now(UTC) - began).total_seconds(), said))

    def _withdraw(self, before: Deployment | None, revision: int, error: BaseException) -> None:
        """Undo a candidate that failed: the former revision was never touched; without one nothing stays.

        What goes wrong on the way is added to the error, and does not take its place.
        """
        try:
            if self._target.observe().revision == revision:
                return  # the switch had happened: the next run adopts it
            self._target.drop(revision)
            if self._target.observe().revision is None:
                self._target.stop()
            self._forget_intent(before)
        except MloError as second:
            error.add_note(f"undoing it failed too: {second}")

    def _intent(self, op: str, revision: int, wanted: str = "") -> Intent:
        intent = Intent.now(op, revision, self._ready.target, self._target.place, self._ready.keep)
        return replace(intent, wanted=wanted)

    def _remember_intent(self, before: Deployment | None, intent: Intent) -> None:
        pending = before or self._deployment(None, 0, self._target.place)
        _remember(self._state, pending.with_intent(intent))

    def _forget_intent(self, before: Deployment | None) -> None:
        if before is not None and before.revision:
            _remember(self._state, before.without_intent())
        else:
            self._state.update(lambda state: state.without_deployment(self._ready.name))

    def _deployment(self, before: Deployment | None, revision: int, endpoint: str) -> Deployment:
        ready = self._ready
        entry = Revision(
            revision=revision,
            backend=self._winner.backend,
            variant=self._winner.variant,
            rendered_digest=ready.rendered,
            deployed=datetime.now(UTC).isoformat(timespec="seconds"),
            spec_digest=ready.spec_digest,
            decision_digest=ready.decision_digest,
            imported_digest=ready.imported,
            gates=json.dumps(dict(ready.gates), sort_keys=True),
            threads=ready.threads,
            target=ready.target,
            place=self._target.place,
            keep=ready.keep,
        )
        leaving = ""
        if (
            before is not None
            and before.revision
            and (before.target, before.place) != (ready.target, self._target.place)
        ):
            leaving = json.dumps({"target": before.target, "place": before.place, "keep": before.keep}, sort_keys=True)
        return Deployment(
            name=ready.name,
            target=ready.target,
            place=self._target.place,
            keep=ready.keep,
            revision=revision,
            highest=max(revision, before.highest if before is not None else 0),
            backend=entry.backend,
            variant=entry.variant,
            endpoint=endpoint,
            spec_file=ready.spec_file,
            spec_digest=ready.spec_digest,
            decision_digest=ready.decision_digest,
            model_digest=self._winner.model_digest,
            rendered_digest=ready.rendered,
            status="deployed",
            history=(*(() if before is None else before.history), entry) if revision else (),
            leaving=leaving,
            intent=None,
        )

    def _rendered(self) -> Path:
        return self._trees.path(self._ready.rendered)
