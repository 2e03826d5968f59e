"""Changes of a deployment's Helm releases: upgraded with a view of what the pods do, rolled back, settled after a client died."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed, MloError
from orchestrator.targets.kubernetes.connection import Cluster, Refused
from orchestrator.targets.kubernetes.fitting import check_fits
from orchestrator.targets.kubernetes.helm import Helm, HelmFailed, HelmRevision
from orchestrator.targets.kubernetes.kserve import RUNS, runs
from orchestrator.targets.kubernetes.objects import namespaced
from orchestrator.targets.kubernetes.observing import Serving, revision_of
from orchestrator.targets.kubernetes.placement import KubernetesPlacement
from orchestrator.targets.kubernetes.preflight import full_quotas
from orchestrator.targets.kubernetes.record import read_record
from orchestrator.targets.kubernetes.rollout import Rollout
from orchestrator.targets.kubernetes.timing import rollout_seconds, update_seconds
from orchestrator.targets.kubernetes.values import chart_values
from orchestrator.targets.target import Release

__all__ = ["Releasing", "is_ours"]

_MARGIN = 60.0
"""Seconds for what is neither waiting for a node nor starting the model."""
_LOOK = 1.0
"""Seconds between looks at a rollout."""


class Releasing:
    """The release of one deployment, and the one beside it.

    Args:
        cluster: where it is.
        helm: for its namespace.
        name: the deployment's, and of its Helm release.
        place: the namespace, and what the spec sets.
        progress: is called with what the pods are doing.
    """

    def __init__(
        self, cluster: Cluster, helm: Helm, name: str, place: KubernetesPlacement, progress: Callable[[str], None]
    ) -> None:
        self._cluster = cluster
        self._helm = helm
        self._name = name
        self._place = place
        self._progress = progress
        self._runs = runs(name, place.settings)

    def check_fits(self, release: Release, candidates: int = 1) -> None:
        """Whether the cluster takes what the release consists of, and so many pods of the candidate before."""
        place = self._place
        values = chart_values(release, self._name, place.settings)
        objects = self._helm.preview(self._name, release.rendered / "chart", values)
        live = self._cluster.find(namespaced("apps/v1", place.namespace, "deployments", self._runs))
        check_fits(self._cluster, place.namespace, objects, live, release.image, self._progress, candidates)

    def upgrade(self, name: str, release: Release, more: Mapping[str, Any], selector: str = "") -> None:
        """Install or upgrade one release, and wait for its pods while telling what they do."""
        place, revision = self._place, release.revision
        values = chart_values(release, name, place.settings, more)
        run_by = runs(name, values)
        live = self._cluster.find(namespaced("apps/v1", place.namespace, "deployments", run_by))
        seconds = update_seconds(release.startup_seconds, values, live, place.wait) + _MARGIN
        each = place.wait + release.startup_seconds + _MARGIN
        rollout = Rollout(
            self._cluster,
            place.namespace,
            name,
            revision,
            place.wait,
            self._progress,
            selector=selector,
            runs=run_by,
            each=each,
        )
        try:
            self._helm.upgrade(
                name,
                release.rendered / "chart",
                values,
                description=f"mlo revision {revision}",
                seconds=seconds,
                watch=rollout.look,
            )
        except HelmFailed as failed:
            if "timed out" in str(failed) or "deadline" in str(failed) or "not ready" in str(failed):
                raise rollout.late(seconds, str(failed)) from failed
            quotas = full_quotas(self._cluster, place.namespace)
            raise DeployFailed(
                Diagnostic(
                    "E661",
                    f"Helm could not release revision {revision}",
                    cause=str(failed),
                    remedy="correct what Helm names; docs/kubernetes.md lists what a release needs",
                    notes=tuple(f"quota used up: {each}" for each in quotas),
                )
            ) from failed
        if run_by != name:  # Helm knows nothing of what KServe makes of it
            self.wait(revision, seconds)

    def roll_back(self, good: int | None, before: int | None, error: BaseException) -> None:
        """Return to Helm's last good revision, whose pods have kept serving; without one, remove what failed.

        Args:
            good: Helm's number.
            before: mlo's number of the revision that served.
            error: to which it is added if that fails too.
        """
        try:
            if good is None:
                self._helm.uninstall(self._name)
                return
            self._progress("rolling back")
            self._helm.rollback(self._name, good, self._rollout_seconds() + _MARGIN)
            if self._runs != self._name and before is not None:
                self.wait(before)
        except (HelmFailed, Refused, MloError) as second:
            error.add_note(f"rolling back also failed: {second}")

    def wait(self, revision: int, seconds: float | None = None) -> None:
        """Until all pods of the release are of that revision and serve, while it is told what they do.

        Args:
            revision: mlo's number.
            seconds: how long; by default what replacing all pods may take.

        Raises:
            DeployFailed: E660 they do not within these seconds; as `Rollout.look`.
        """
        place = self._place
        rollout = Rollout(
            self._cluster, place.namespace, self._name, revision, place.wait, self._progress, runs=self._runs
        )
        seconds = self._rollout_seconds() + _MARGIN if seconds is None else seconds
        deadline = time.monotonic() + seconds
        while True:
            seen = Serving.seen(self._cluster, place.namespace, self._name, self._runs)
            if seen.settled and revision_of(seen.deployment or {}) == revision:
                return
            if time.monotonic() > deadline:
                raise rollout.late(seconds, "its pods are not all ready")
            rollout.look()
            time.sleep(_LOOK)

    def settle(self) -> None:
        """Settle an operation of Helm that is not done, since its client died, or has failed.

        Helm refuses all others while one is pending. If the pods of that upgrade all serve, it is recorded as done; otherwise the
        last good one comes back. Its pods have kept serving, and the next apply starts again.
        """
        history = self._helm.history(self._name)
        if not is_ours(history) or not history[-1].unsettled:
            return
        good = next((each.number for each in reversed(history) if each.status == "deployed"), None)
        if history[-1].status != "uninstalling" and self._all_serve():
            self._helm.rollback(self._name, history[-1].number, _MARGIN, wait=False)
        elif good is not None:
            self._helm.rollback(self._name, good, self._rollout_seconds() + _MARGIN)
        else:
            self._helm.uninstall(self._name)

    def _all_serve(self) -> bool:
        """Whether the Deployment is of the revision that Helm's newest record has, and all its pods serve."""
        seen = Serving.seen(self._cluster, self._place.namespace, self._name, self._runs)
        record = read_record(self._cluster, self._place.namespace, self._name)
        if not seen.settled or seen.deployment is None or record is None:
            return False
        recorded = [revision_of(each) for each in record.objects if each.get("kind") in RUNS]
        return recorded == [revision_of(seen.deployment)]

    def _rollout_seconds(self) -> float:
        """For replacing the pods of the Deployment as it is, of which each may wait for a node and its image."""
        deployment = self._cluster.find(namespaced("apps/v1", self._place.namespace, "deployments", self._runs))
        return self._place.wait if deployment is None else rollout_seconds(deployment, self._place.wait)


def is_ours(history: tuple[HelmRevision, ...]) -> bool:
    """Whether there is a release, and it is of mlo's chart."""
    return bool(history) and history[-1].ours
