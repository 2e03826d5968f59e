"""Deploys the rendered release of a plan, unless the same is already live."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts.winner import Winner
from orchestrator.events import Observer, StepEnded
from orchestrator.images.settings import build_settings
from orchestrator.plan.resolve import Outcome
from orchestrator.plan.step import Plan
from orchestrator.release.go_live import GoLive, RenderedRelease, deployment_lock, recover
from orchestrator.release.live import observe, wanted_target
from orchestrator.release.origin import Reason
from orchestrator.spec.load import LoadedSpec
from orchestrator.steps.parameters import VerifyParameters
from orchestrator.store.receipts import Receipt
from orchestrator.store.state import Deployment
from orchestrator.store.store import Store
from orchestrator.targets.target import Target

if TYPE_CHECKING:
    from orchestrator.artifacts.decision import Decision

__all__ = ["PlanRelease", "Released"]


@dataclass(frozen=True, slots=True)
class Released:
    """A deployment after apply.

    Attributes:
        changed: whether anything was done.
        artifacts: the folder with everything that was rendered.
        evidence: the folder with the decision and its chart.
    """

    deployment: Deployment
    changed: bool
    artifacts: Path
    evidence: Path

    @property
    def decision(self) -> Decision:
        """Why this was deployed; only read on demand, because a run without changes does not need it."""
        from orchestrator.artifacts.decision import Decision  # noqa: PLC0415 - a run without changes needs none

        return Decision.read(self.evidence)

    @property
    def image(self) -> str | None:
        """What the live revision runs, by its digest if it was pushed; None where no image is run."""
        live = next((each for each in self.deployment.history if each.revision == self.deployment.revision), None)
        return None if live is None or live.image is None else live.image.reference

    def as_json(self) -> dict[str, Any]:
        """One entry of `mlo apply --json`."""
        return {
            "name": self.deployment.name,
            "target": self.deployment.placement.target,
            "revision": self.deployment.revision,
            "changed": self.changed,
            "image": self.image,
            "backend": self.deployment.backend,
            "variant": self.deployment.variant,
            "endpoint": self.deployment.endpoint,
            "decision": self.decision.as_json(),
            "artifacts": str(self.artifacts),
        }


class PlanRelease:
    """Takes one plan's result live on the target of its spec.

    Args:
        loaded: the spec.
        plan: its plan.
        outcomes: of all its steps that are not live; the needed ones are done.
        store: where results and receipts are kept.
        observer: gets the events.
    """

    def __init__(
        self, loaded: LoadedSpec, plan: Plan, outcomes: Mapping[str, Outcome], store: Store, observer: Observer
    ) -> None:
        self._loaded = loaded
        self._plan = plan
        self._store = store
        self._observer = observer
        self._trees = store.trees
        self._rendered = _receipt(outcomes, "render")
        self._selected = _receipt(outcomes, "select")
        self._imported = _receipt(outcomes, "import")

    def deploy(self, lock_timeout: float, given: str = "") -> Released:
        """Deploy unless the same is already live.

        Args:
            lock_timeout: seconds to wait for another command that deploys this name.
            given: what the user says about it, for the record.

        Raises:
            Busy: another command is deploying this name.
            DeployFailed: it did not start or gave other answers than verified; the previous revision keeps serving.
        """
        with deployment_lock(self._store, self._plan.name, lock_timeout, self._observer):
            recover(self._plan.name, self._store, self._observer)
            live = observe(self._loaded, self._store)
            status, reason = live.compare(_digest(self._rendered))
            if status == "=" and live.recorded is not None:
                for step in (each for each in self._plan.steps if each.live):
                    self._observer(StepEnded(step.id, "cached", 0.0, reason))
                return self._released(live.recorded, changed=False)
            target = wanted_target(self._loaded, self._store)
            going = GoLive(self._release(), target, self._store, self._observer)
            why = Reason(
                "deploy",
                "first deployment" if live.recorded is None else reason,
                given,
                Path(self._loaded.document.file).absolute(),
            )
            deployment = going.replace(live.recorded, self._next_revision(live.recorded, target), why)
            return self._released(deployment, changed=True)

    def _release(self) -> RenderedRelease:
        winner = Winner.read(self._trees.path(_digest(self._selected)))
        strategy = self._loaded.spec.deploy.strategy
        return RenderedRelease(
            name=self._plan.name,
            spec_file=str(Path(self._loaded.document.file).absolute()),
            spec_digest=self._loaded.digest,
            decision_digest=_file_digest(self._selected, Winner.FILE),
            rendered=_digest(self._rendered),
            imported=_digest(self._imported),
            gates=self._gates(winner.candidate),
            threads=winner.options.total_threads(self._loaded.spec.hardware.cpus),
            image=build_settings(self._loaded),
            canary=None if strategy is None else strategy.canary,
        )

    def _gates(self, candidate: str) -> Mapping[str, float]:
        """The parameters of the winner's verify step."""
        return VerifyParameters.from_json(self._plan.step(f"verify.{candidate}").params).gates

    def _released(self, deployment: Deployment, *, changed: bool) -> Released:
        evidence = self._trees.path(_digest(self._selected))
        return Released(deployment, changed, self._trees.path(_digest(self._rendered)), evidence)

    @staticmethod
    def _next_revision(before: Deployment | None, target: Target) -> int:
        """One more than the highest ever used, also by a run that died, or at the place that it moves to."""
        started = [*target.history()]
        if before is not None:
            started += [before.highest, before.revision, before.intent.revision if before.intent else 0]
        return max(started, default=0) + 1


def _digest(receipt: Receipt) -> str:
    if receipt.manifest is None:
        raise ValueError(f"{receipt.step} left nothing")
    return receipt.manifest.digest


def _file_digest(receipt: Receipt, file: str) -> str:
    if receipt.manifest is None:
        raise ValueError(f"{receipt.step} left nothing")
    return receipt.manifest.files[file].sha256


def _receipt(outcomes: Mapping[str, Outcome], step: str) -> Receipt:
    receipt = outcomes[step].receipt
    if receipt is None:
        raise ValueError(f"{step} is not done")
    return receipt
