"""Takes a rendered release live: starts it beside the current one, verifies it, switches, records it; intents come first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts.document import DocumentRefused
from orchestrator.artifacts.winner import Winner
from orchestrator.backends.table import serving_backend
from orchestrator.errors import DeployFailed, MloError
from orchestrator.events import Observer, StepEnded, StepProgress, StepStarted, Waiting, ignore
from orchestrator.images.settings import BuildSettings
from orchestrator.release.image import release_image
from orchestrator.release.origin import Reason, change_now
from orchestrator.store.crash_points import crash_point
from orchestrator.store.locks import lock
from orchestrator.store.state import MOST_REVISIONS, Change, Deployment, Image, Intent, Operation, Revision, StateFile
from orchestrator.store.store import Store
from orchestrator.targets.section import Canary
from orchestrator.targets.table import target_at
from orchestrator.targets.target import Release, Site, Started, Target

if TYPE_CHECKING:
    from orchestrator.release.canary import CanaryRun
    from orchestrator.release.golden import GoldenReport

__all__ = ["GoLive", "RenderedRelease", "deployment_lock", "recover", "target_of"]

_ROWS, _ROWS_AFTER = 32, 4
"""Samples that are sent alone, before and after the switch."""


@dataclass(frozen=True, slots=True)
class RenderedRelease:
    """A rendered release, and what is needed to verify and record it.

    Attributes:
        name: the deployment's.
        spec_file: absolute path.
        rendered: digest of the rendered tree, which holds winner.json.
        imported: digest of the tree with the golden requests.
        gates: what the spec sets for the winner's precision.
        threads: of one model instance.
        image: how to build it, or the one that was built before; None for a target without images.
        canary: the steps by which it takes over from what serves; None where it does at once.
    """

    name: str
    spec_file: str
    spec_digest: str
    decision_digest: str
    rendered: str
    imported: str
    gates: Mapping[str, float]
    threads: int
    image: BuildSettings | Image | None = None
    canary: Canary | None = None


def deployment_lock(store: Store, name: str, timeout: float, observer: Observer) -> Any:
    """The lock for changes of this deployment; raises Busy (exit code 75) after `timeout` seconds."""
    return lock(
        store.home.lock_file(f"deployment-{name}"),
        timeout=timeout,
        info={"what": f"deploying {name}"},
        on_wait=lambda holder: observer(Waiting("deploy", holder)),
    )


def target_of(deployment: Deployment, store: Store) -> Target:
    """The target of this deployment."""
    return target_at(deployment.placement, Site(store, deployment.name))


def recover(name: str, store: Store, observer: Observer = ignore) -> Deployment | None:
    """Clean up after a run that died, and return what the state then records.

    The caller holds the deployment's lock, so no other command is at work. If the run died after its switch, its revision
    was verified and serves, so it is recorded as live; if before, its revision is removed. If the deployment has moved, its
    remains at the previous place are stopped. What cannot be tidied up is reported, and tried again by the next command.
    """
    state = store.state
    known = state.read().deployments.get(name)
    if known is None:
        return None
    if (begun := known.intent) is not None:
        target = target_at(begun.placement, Site(store, name))
        with target.lock():
            known = _after(known, begun, target, observer)
        _remember(state, known)
    return _left(known, store, observer)


def _after(known: Deployment, begun: Intent, target: Target, observer: Observer) -> Deployment:
    """The deployment after a run that died with this intent; its revision is removed unless traffic had been switched to it."""
    if target.observe().revision == begun.revision:
        try:
            for note in target.switch(begun.revision):  # which completes what the run may have left half done
                observer(StepEnded("switch", "done", 0.0, note))
        except (
            DeployFailed
        ) as error:  # it has the traffic all the same, and the next revision has to be able to take it over
            unsettled = f"revision {begun.revision} serves, but its switch cannot be completed: {_reason(error)}"
            observer(StepEnded("switch", "done", 0.0, unsettled))
        return begun.wanted or known.without_intent()
    if begun.revision != known.revision or not target.is_at(known.placement):
        target.drop(begun.revision)
    if known.revision == 0 and target.observe().revision is None:
        target.stop()
    return known.without_intent()


def _left(known: Deployment, store: Store, observer: Observer) -> Deployment:
    """Stop what is left at the place from which the deployment moved; one that cannot be reached is tried again next time."""
    if known.leaving is None:
        return known
    target = target_at(known.leaving, Site(store, known.name))
    try:
        if not target_of(known, store).is_at(known.leaving):  # else it has not moved: only its address has changed
            with target.lock():
                target.stop()
    except DeployFailed as error:
        left = f"what it left at {target.describe().where} is not removed yet, the next command tries again: {_reason(error)}"
        observer(StepEnded("switch", "done", 0.0, left))
        return known
    known = known.arrived()
    _remember(store.state, known)
    return known


def _reason(error: MloError) -> str:
    return error.diagnostics[0].sentence


def _remember(state: StateFile, deployment: Deployment) -> None:
    state.update(lambda known: known.with_deployment(deployment))


class GoLive:
    """Takes one release live on its target. The caller holds the deployment's lock and has called `recover`.

    Args:
        release: what to start.
        target: where to start it.
        store: where results and receipts are kept.
        observer: gets the events.
    """

    def __init__(self, release: RenderedRelease, target: Target, store: Store, observer: Observer) -> None:
        self._release = release
        self._target = target
        self._store = store
        self._observer = observer
        self._trees = store.trees
        self._state = store.state
        self._winner = Winner.read(self._rendered())
        self._image: Image | None = None

    def replace(self, before: Deployment | None, revision: int, reason: Reason) -> Deployment:
        """Start `revision`, verify it, switch to it, record it.

        Args:
            before: what the state records; None for the first release.
            revision: its number; of a rollback the one that served before.
            reason: why, for the record.

        Raises:
            DeployFailed: it did not start or gave other answers than verified; the previous revision keeps serving.
        """
        op, change = reason.op, change_now(reason)
        self._image = self._built()
        self._observer(StepStarted("deploy", reason.why))
        endpoint = self._prepared(before, op, revision)
        with self._locked(before):
            try:
                canary = self._canary(before)
                started = self._start(revision, 0.0 if canary is None else canary.largest_share)
                self._check(started)
                if canary is not None:
                    canary.run(revision)
                deployment = self._deployment(before, revision, started.endpoint or endpoint, change)
                # Before the switch: if the run dies right after it, the intent contains the new revision.
                self._remember_intent(before, Intent.now(op, revision, self._target.placement, deployment))
                notes = self._target.switch(revision)
            except BaseException as error:
                self._withdraw(before, revision, error)
                raise
            crash_point("release.switched")
            _remember(self._state, deployment)
            crash_point("release.recorded")
        for note in notes:
            self._observer(StepEnded("switch", "done", 0.0, note))
        return _left(deployment, self._store, self._observer)

    def _built(self) -> Image | None:
        """The image to start; it is built and pushed before anything of the deployment is touched."""
        settings = self._release.image
        if not isinstance(settings, BuildSettings):
            return settings
        return release_image(self._rendered(), settings, self._store, self._observer)

    def _prepared(self, before: Deployment | None, op: Operation, revision: int) -> str:
        """Prepare the target; returns the endpoint. Nothing was started yet, so a failure only withdraws the intent."""
        self._remember_intent(before, Intent.now(op, revision, self._target.placement))
        crash_point("release.intent-written")
        try:
            return self._target.prepare(self._live(before))
        except BaseException:
            self._forget_intent(before)
            raise

    @property
    def _build_network(self) -> str | None:
        """What the spec says; a rollback has no spec."""
        settings = self._release.image
        return settings.network if isinstance(settings, BuildSettings) else None

    def _serves_here(self, before: Deployment | None) -> bool:
        """Whether the state records a revision at this place, which may be down at the moment."""
        return before is not None and before.revision != 0 and self._target.is_at(before.placement)

    def _live(self, before: Deployment | None) -> Release | None:
        """The revision that the state records at this place; None if there is none, or the store has lost it."""
        if before is None or not self._serves_here(before):
            return None
        entry = before.history[-1]
        rendered = self._trees.path(entry.rendered_digest)
        try:
            winner = Winner.read(rendered)
        except (FileNotFoundError, DocumentRefused) as error:
            lost = f"revision {entry.revision} cannot be started again, the store has lost it: {error}"
            self._observer(StepProgress("deploy", lost, None))
            return None
        release = _release(entry.revision, rendered, winner, self._release.name, entry.threads, entry.image)
        return replace(release, build_network=self._build_network)

    @contextmanager
    def _locked(self, before: Deployment | None) -> Iterator[None]:
        """Lock the place; a failure only removes the intent, because nothing was started."""
        with ExitStack() as held:
            try:
                held.enter_context(self._target.lock())
            except BaseException:
                self._forget_intent(before)
                raise
            yield

    def _canary(self, before: Deployment | None) -> CanaryRun | None:
        """The steps by which it takes over; None where nothing serves that it could be compared with, or the spec has no steps."""
        release = self._release
        if release.canary is None or before is None or not self._serves_here(before):
            return None
        # What has no steps does without what asks and compares.
        from orchestrator.release.canary import CanaryRun, Questions  # noqa: PLC0415
        from orchestrator.release.recorded import allowed, recorded  # noqa: PLC0415

        live = before.history[-1]
        path = self._trees.path
        return CanaryRun(
            release.canary,
            self._target,
            self._observer,
            scratch=self._store.home.scratch,
            prove=self._prove,
            new=Questions(release.name, self._winner.backend, self._rendered() / "serving", path(release.imported)),
            old=Questions(
                release.name, live.backend, path(live.rendered_digest) / "serving", path(live.imported_digest)
            ),
            allowed=allowed(
                recorded(self._store, release.decision_digest), recorded(self._store, live.decision_digest)
            ),
        )

    def _start(self, revision: int, share: float) -> Started:
        began = datetime.now(UTC)
        release = _release(
            revision, self._rendered(), self._winner, self._release.name, self._release.threads, self._image
        )
        started = self._target.start(
            replace(release, prove=self._prove, build_network=self._build_network, share=share),
            lambda message: self._observer(StepProgress("deploy", message, None)),
        )
        crash_point("release.started")
        self._observer(StepEnded("deploy", "done", (datetime.now(UTC) - began).total_seconds(), ""))
        return started

    def _check(self, started: Started) -> None:
        began = datetime.now(UTC)
        if started.url is None:
            proof = started.proof
        else:
            self._observer(StepStarted("check", "golden requests to the new revision"))
            try:
                proof = self._golden(started.url, _ROWS, batches=True).summary()
            except DeployFailed as failed:
                if started.why_gone is not None and (reason := started.why_gone()) is not None:
                    raise DeployFailed(reason) from failed
                raise
        self._observer(StepEnded("check", "done", (datetime.now(UTC) - began).total_seconds(), proof))

    def _golden(self, url: str, rows: int, *, batches: bool) -> GoldenReport:
        from orchestrator.release.golden import check_golden  # noqa: PLC0415 - numpy: what changes nothing is quicker

        served_by, serving = serving_backend(self._winner.backend), self._rendered() / "serving"
        named = served_by.certificate(serving)
        return check_golden(
            url,
            served_by,
            self._release.name,
            self._trees.path(self._release.imported),
            self._release.gates,
            precision=self._winner.precision,
            max_body=served_by.max_body(serving),
            token_file=served_by.token_file(serving),
            certificate=None if named is None else self._target.certificate(named, url),
            rows=rows,
            batches=batches,
        )

    def _prove(self, url: str) -> None:
        """A few golden requests: all were sent before the switch, so these only show that the way there leads to the revision."""
        self._golden(url, _ROWS_AFTER, batches=False)

    def _withdraw(self, before: Deployment | None, revision: int, error: BaseException) -> None:
        """Undo a revision that failed. The previous one was never touched; after a failed first release nothing stays.

        An error while undoing is added to the original one and does not replace it.
        """
        try:
            if self._target.observe().revision == revision:
                return  # the switch had happened: the next run adopts it
            self._target.drop(revision)
            if not self._serves_here(before) and self._target.observe().revision is None:
                self._target.stop()
            self._forget_intent(before)
        except MloError as second:
            error.add_note(f"undoing it also failed: {second}")

    def _remember_intent(self, before: Deployment | None, intent: Intent) -> None:
        pending = before or self._deployment(None, 0, self._target.describe().where)
        _remember(self._state, pending.with_intent(intent))

    def _forget_intent(self, before: Deployment | None) -> None:
        if before is not None and before.revision:
            _remember(self._state, before.without_intent())
        else:
            self._state.update(lambda state: state.without_deployment(self._release.name))

    def _deployment(
        self, before: Deployment | None, revision: int, endpoint: str, change: Change | None = None
    ) -> Deployment:
        release, placement = self._release, self._target.placement
        earlier = () if before is None else next((e.changes for e in before.history if e.revision == revision), ())
        entry = Revision(
            revision=revision,
            backend=self._winner.backend,
            variant=self._winner.variant,
            rendered_digest=release.rendered,
            deployed=datetime.now(UTC).isoformat(timespec="seconds"),
            spec_digest=release.spec_digest,
            decision_digest=release.decision_digest,
            imported_digest=release.imported,
            gates=dict(release.gates),
            threads=release.threads,
            image=self._image,
            placement=placement,
            changes=(*earlier, *([] if change is None else [change]))[-MOST_REVISIONS:],
        )
        leaving = None if before is None else before.leaving
        if leaving is not None and self._target.is_at(leaving):
            leaving = None  # it moves back
        if before is not None and before.revision != 0 and not self._target.is_at(before.placement):
            if leaving is not None:
                lost = f"what it left at {target_at(leaving, Site(self._store, release.name)).describe().where} stays there"
                again = f"{lost}: it moves again before that could be removed"
                self._observer(StepEnded("switch", "done", 0.0, again))
            leaving = before.placement
        return Deployment(
            name=release.name,
            placement=placement,
            leaving=leaving,
            revision=revision,
            highest=max(revision, before.highest if before is not None else 0),
            backend=entry.backend,
            variant=entry.variant,
            endpoint=endpoint,
            spec_file=release.spec_file,
            spec_digest=release.spec_digest,
            decision_digest=release.decision_digest,
            model_digest=self._winner.model_digest,
            rendered_digest=release.rendered,
            history=(*(() if before is None else before.history), entry) if revision else (),
        )

    def _rendered(self) -> Path:
        return self._trees.path(self._release.rendered)


def _release(revision: int, rendered: Path, winner: Winner, name: str, threads: int, image: Image | None) -> Release:
    return Release(
        revision=revision,
        serving=rendered / "serving",
        backend=winner.backend,
        model=name,
        threads=threads,
        startup_seconds=winner.startup_seconds,
        image=image,
    )
