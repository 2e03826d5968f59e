"""Takes what was rendered live: start beside the former revision, prove with real requests, switch, remember."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.backends.table import backend
from orchestrator.engine.events import Observer, StepEnded, StepProgress, StepStarted, Waiting
from orchestrator.engine.live import observe
from orchestrator.errors import MloError
from orchestrator.plan.resolve import Outcome
from orchestrator.plan.step import Plan
from orchestrator.spec.load import LoadedSpec
from orchestrator.store.crash_points import crash_point
from orchestrator.store.home import Home
from orchestrator.store.locks import lock
from orchestrator.store.receipts import Receipt
from orchestrator.store.state import Deployment, Intent, Revision, StateFile
from orchestrator.store.trees import TreeStore
from orchestrator.targets.local import LocalTarget

__all__ = ["Release", "Released", "deployment_lock"]


@dataclass(frozen=True, slots=True)
class Released:
    """A deployment after apply.

    Attributes:
        changed: whether anything was done.
        decision: decision.json.
        artifacts: the folder with everything that was rendered.
        evidence: the folder with decision.json and chart.svg.
    """

    deployment: Deployment
    changed: bool
    decision: Mapping[str, Any]
    artifacts: Path
    evidence: Path

    def as_json(self) -> dict[str, Any]:
        """One entry of `mlo apply --json`."""
        return {
            "name": self.deployment.name,
            "revision": self.deployment.revision,
            "backend": self.deployment.backend,
            "variant": self.deployment.variant,
            "endpoint": self.deployment.endpoint,
            "decision": dict(self.decision),
            "artifacts": str(self.artifacts),
        }


def deployment_lock(home: Home, name: str, timeout: float, observer: Observer) -> Any:
    """The lock that whoever changes this deployment holds; raises Busy (exit code 75) after `timeout` seconds."""
    return lock(
        home.locks / f"deployment-{name}.lock",
        timeout=timeout,
        info={"what": f"deploying {name}"},
        on_wait=lambda holder: observer(Waiting("deploy", holder)),
    )


class Release:
    """Takes one plan's result live on the local target.

    Args:
        loaded: the spec.
        plan: its plan.
        outcomes: of all its steps that are not live; all needed ones are done.
        home: the store.
        observer: hears what happens.
    """

    def __init__(
        self, loaded: LoadedSpec, plan: Plan, outcomes: Mapping[str, Outcome], home: Home, observer: Observer
    ) -> None:
        self._loaded = loaded
        self._plan = plan
        self._home = home
        self._observer = observer
        self._trees = TreeStore(home)
        self._state = StateFile(home)
        self._rendered = self._receipt(outcomes, "render")
        self._selected = self._receipt(outcomes, "select")
        self._imported = self._receipt(outcomes, "import")
        self._target = LocalTarget(home.deployments / plan.name)

    def release(self, lock_timeout: float) -> Released:
        """Deploy unless the very same is serving already.

        Raises:
            Busy: somebody else deploys this name.
            DeployFailed: it did not come up or did not answer as proven; the former revision serves on.
        """
        with deployment_lock(self._home, self._plan.name, lock_timeout, self._observer):
            self._adopt()
            live = observe(self._loaded.spec, self._home)
            status, reason = live.compare(self._digest(self._rendered))
            if status == "=" and live.remembered is not None:
                self._observer(StepEnded("deploy", "cached", 0.0, reason))
                return self._released(live.remembered, changed=False)
            self._observer(StepStarted("deploy", reason))
            return self._released(self._replace(live.remembered), changed=True)

    def _released(self, deployment: Deployment, *, changed: bool) -> Released:
        evidence = self._trees.path(self._digest(self._selected))
        return Released(deployment, changed, self._decision(), self._artifacts(), evidence)

    def _adopt(self) -> None:
        """Settle what a run that died has left: we hold the deployment's lock, so nobody is at it any more.

        If it died after its switch, its revision was proven and serves: it is remembered as what it is. If before, its
        candidate is stopped.
        """
        before = self._state.read().deployments.get(self._plan.name)
        if before is None or before.intent is None:
            return
        begun = before.intent
        if self._target.observe().revision != begun.revision:
            self._target.drop(begun.revision)
            return
        if begun.wanted:
            after = Deployment.from_json(begun.wanted)
            self._state.update(lambda state: state.with_deployment(after))

    def _replace(self, before: Deployment | None) -> Deployment:
        began = datetime.now(UTC)
        winner = self._json(self._selected, "winner.json")
        revision = self._next_revision(before)
        intent = Intent.now("deploy", revision)
        self._remember_intent(before, winner, intent)
        crash_point("release.intent-written")
        try:
            endpoint = self._target.ensure_supervisor(self._loaded.spec.deploy.port)
            candidate = self._target.start_candidate(
                revision=revision,
                serving=self._artifacts() / "serving",
                backend=winner["backend"],
                name=self._plan.name,
                threads=max(1, int(self._loaded.spec.hardware.cpus)),
                startup_seconds=winner["startup_seconds"],
                progress=lambda message: self._observer(StepProgress("deploy", message, None)),
            )
            crash_point("release.candidate-ready")
            self._observer(StepEnded("deploy", "done", (datetime.now(UTC) - began).total_seconds(), ""))
            self._check(candidate.endpoint, winner)
            deployment = self._deployment(before, winner, revision, endpoint)
            # Before the switch, so that a run which dies right after it leaves behind what it was that it switched to.
            self._remember_intent(before, winner, replace(intent, wanted=deployment.as_json()))
            self._target.switch(revision)
        except BaseException as error:
            self._withdraw(before, revision, error)
            raise
        crash_point("release.switched")
        self._state.update(lambda state: state.with_deployment(deployment))
        crash_point("release.remembered")
        return deployment

    def _check(self, endpoint: str, winner: Mapping[str, Any]) -> None:
        from orchestrator.targets.golden import check_golden  # noqa: PLC0415 - numpy: what changes nothing is quicker

        began = datetime.now(UTC)
        self._observer(StepStarted("check", "golden requests to the new revision"))
        report = check_golden(
            endpoint,
            backend(winner["backend"]),
            self._plan.name,
            self._trees.path(self._digest(self._imported)),
            self._gates(winner["precision"]),
            precision=winner["precision"],
        )
        self._observer(StepEnded("check", "done", (datetime.now(UTC) - began).total_seconds(), report.summary()))

    def _gates(self, precision: str) -> Mapping[str, float]:
        """What the verify step of the same precision was given."""
        for step in self._plan.steps:
            if step.kind == "verify" and step.params["precision"] == precision:
                gates: Mapping[str, float] = step.params["gates"]
                return gates
        raise KeyError(precision)

    def _withdraw(self, before: Deployment | None, revision: int, error: BaseException) -> None:
        """Undo a candidate that failed: the former revision was never touched; without one nothing stays.

        What goes wrong on the way is added to the error, and does not take its place.
        """
        try:
            if self._target.observe().revision == revision:
                return  # the switch had happened: the next run adopts it
            self._target.drop(revision)
            if before is not None and before.revision:
                kept = before.without_intent()
                self._state.update(lambda state: state.with_deployment(kept))
            elif self._target.observe().revision is None:
                self._target.stop()
                self._state.update(lambda state: state.without_deployment(self._plan.name))
        except MloError as second:
            error.add_note(f"undoing it failed too: {second}")

    def _next_revision(self, before: Deployment | None) -> int:
        """One more than any that was ever started, also by a run that died."""
        started = [before.revision, before.intent.revision if before.intent else 0] if before else [0]
        return max(started) + 1

    def _remember_intent(self, before: Deployment | None, winner: Mapping[str, Any], intent: Intent) -> None:
        pending = before or self._deployment(None, winner, 0, "")
        self._state.update(lambda state: state.with_deployment(pending.with_intent(intent)))

    def _deployment(
        self, before: Deployment | None, winner: Mapping[str, Any], revision: int, endpoint: str
    ) -> Deployment:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        history = before.history if before is not None else ()
        entry = Revision(
            revision=revision,
            backend=winner["backend"],
            variant=winner["variant"],
            rendered_digest=self._digest(self._rendered),
            deployed=now,
        )
        return Deployment(
            name=self._plan.name,
            target="local",
            revision=revision,
            backend=winner["backend"],
            variant=winner["variant"],
            endpoint=endpoint,
            spec_file=str(Path(self._loaded.document.file).absolute()),
            spec_digest=self._loaded.digest,
            decision_digest=self._file_digest(self._selected, "winner.json"),
            model_digest=winner["model_digest"],
            rendered_digest=self._digest(self._rendered),
            status="deployed",
            history=(*history, entry)[-10:],
            intent=None,
        )

    def _decision(self) -> dict[str, Any]:
        return self._json(self._selected, "decision.json")

    def _artifacts(self) -> Path:
        return self._trees.path(self._digest(self._rendered))

    def _json(self, receipt: Receipt, file: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(
            (self._trees.path(self._digest(receipt)) / file).read_text(encoding="utf-8")
        )
        return document

    @staticmethod
    def _digest(receipt: Receipt) -> str:
        if receipt.manifest is None:
            raise ValueError(f"{receipt.step} left nothing")
        return receipt.manifest.digest

    @staticmethod
    def _file_digest(receipt: Receipt, file: str) -> str:
        if receipt.manifest is None:
            raise ValueError(f"{receipt.step} left nothing")
        return receipt.manifest.files[file].sha256

    @staticmethod
    def _receipt(outcomes: Mapping[str, Outcome], step: str) -> Receipt:
        receipt = outcomes[step].receipt
        if receipt is None:
            raise ValueError(f"{step} is not done")
        return receipt
