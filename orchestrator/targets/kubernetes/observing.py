"""What serves now: one look at a release's Deployment, Service and pods, and what it means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.targets.kubernetes.connection import Cluster, Refused
from orchestrator.targets.kubernetes.drift import compared, differences, missing
from orchestrator.targets.kubernetes.kserve import not_ready
from orchestrator.targets.kubernetes.lease import holder_of
from orchestrator.targets.kubernetes.objects import REVISION, namespaced, own, plural
from orchestrator.targets.kubernetes.pods import PodState, refusal
from orchestrator.targets.kubernetes.record import read_record
from orchestrator.targets.kubernetes.rollout import pod_states
from orchestrator.targets.kubernetes.route import routed_share
from orchestrator.targets.target import Health, Observed

__all__ = ["Serving", "observed", "ready_pods", "revision_of"]

Json = Mapping[str, Any]

_SHOWN = 3
"""Differences that a reason names."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A release as the cluster has it.

    Attributes:
        name: of its Deployment and Service: that of the release, or of what KServe makes of it.
        deployment: the object; None if there is none.
        pods: what each is doing; only looked at where the Deployment is not as it should be.
        ready_pods: the names of those that the Service sends requests to; None where there is no Service.
        pending: Helm's word for an operation that is under way or was interrupted; empty if there is none.
        by: who is at it, as the deployment's Lease says; empty if it says nothing.
        differences: from what was deployed, a clause each.
        unready: why KServe does not call its InferenceService ready; empty if it does, or if it is none.
    """

    name: str
    deployment: Json | None
    pods: tuple[PodState, ...] = ()
    ready_pods: tuple[str, ...] | None = None
    pending: str = ""
    differences: tuple[str, ...] = ()
    unready: str = ""
    by: str = ""

    @property
    def settled(self) -> bool:
        """Whether all pods are of one revision and serve."""
        return self.deployment is not None and not self.unready and _is_settled(self.deployment)

    @classmethod
    def seen(cls, cluster: Cluster, namespace: str, release: str, runs: str = "") -> Serving:
        """Look at it.

        Args:
            cluster: where it is.
            namespace: of the release.
            release: Helm's name of it.
            runs: the name of its Deployment and Service, if KServe makes them.

        Raises:
            DeployFailed: E652 the cluster does not answer.
            Refused: this user may not look.
        """
        name = runs or release
        unready = not_ready(cluster, namespace, release) if name != release else ""
        deployment = cluster.find(namespaced("apps/v1", namespace, "deployments", name))
        if deployment is None:
            return cls(name, None, unready=unready)
        ready = ready_pods(cluster, namespace, name)
        pods = () if _is_settled(deployment) else tuple(pod_states(cluster, namespace, own(release)))
        record = read_record(cluster, namespace, release)
        pending = record.status if record is not None and record.status.startswith("pending") else ""
        differs = () if record is None or pending else tuple(_differences(cluster, namespace, record.objects))
        by = holder_of(cluster, namespace, release) if pending else ""
        return cls(name, deployment, pods, ready, pending, differs, unready, by)


def ready_pods(cluster: Cluster, namespace: str, name: str) -> tuple[str, ...] | None:
    """The names of the pods that a Service sends requests to; None where there is no Service.

    Raises:
        DeployFailed: E652 the cluster does not answer.
        Refused: this user may not look.
    """
    endpoints = cluster.find(namespaced("v1", namespace, "endpoints", name))
    if endpoints is None:
        return None
    addresses = [each for subset in endpoints.get("subsets") or () for each in subset.get("addresses") or ()]
    return tuple(sorted({str(each["targetRef"]["name"]) for each in addresses if "targetRef" in each}))


def observed(serving: Serving, endpoint: str) -> Observed:
    """What that means for the deployment."""
    deployment = serving.deployment
    if deployment is None:
        told = f": {serving.unready}" if serving.unready else ""
        return _nothing("stopped", f"there is no Deployment {serving.name} in its namespace{told}", endpoint)
    revision = revision_of(deployment)
    if revision is None:
        return _nothing("degraded", f"the Deployment {serving.name} is not one that mlo made", endpoint)
    wanted, status = int(deployment["spec"].get("replicas", 1)), deployment.get("status", {})
    if wanted == 0:
        return _nothing("stopped", "somebody scaled it to 0 pods", endpoint)
    progress = _in_progress(serving, wanted, status)
    reason = progress or _why_degraded(serving, wanted, status)
    return Observed(
        running=True,
        health="degraded" if reason else "healthy",
        reason=reason,
        endpoint=endpoint,
        revision=revision,
        backend=deployment["metadata"].get("labels", {}).get("mlo/backend"),
        since=_since(status),
        differences=serving.differences,
        progress=progress,
    )


def _nothing(health: Health, reason: str, endpoint: str) -> Observed:
    return Observed(running=False, health=health, reason=reason, endpoint=endpoint)


def revision_of(described: Json) -> int | None:
    """The number of the revision in an object, or in the template of its pods; None if mlo did not make it."""
    number = str((described.get("metadata", {}).get("annotations") or {}).get(REVISION, ""))
    return int(number) if number.isdigit() and number != "0" else None


def _why_degraded(serving: Serving, wanted: int, status: Json) -> str:
    assert serving.deployment is not None, "there is a deployment"
    if serving.ready_pods is None:
        return f"its Service {serving.name} is missing"
    if serving.pending:
        return f"Helm's operation `{serving.pending}` is under way, or its client died"
    if not _is_settled(serving.deployment):
        return _pods_told(serving, wanted, status)
    if serving.unready:
        return serving.unready
    if not serving.ready_pods:
        return f"its Service {serving.name} has no endpoints; its selector may have been changed"
    shown, more = serving.differences[:_SHOWN], len(serving.differences) - _SHOWN
    return "; ".join(shown) + (f"; and {more} more: `mlo diff {serving.name}`" if more > 0 else "")


def _in_progress(serving: Serving, wanted: int, status: Json) -> str:
    """What is under way: an update by another command, or a rollout that the Deployment has begun and not given up; else empty."""
    assert serving.deployment is not None, "there is a deployment"
    if serving.ready_pods is None:
        return ""
    if serving.pending:
        return f"an update is in progress (Helm: {serving.pending}): {serving.by}" if serving.by else ""
    return f"a rollout is in progress: {_pods_told(serving, wanted, status)}" if _rolls_out(serving.deployment) else ""


def _rolls_out(deployment: Json) -> bool:
    """Whether pods are being replaced or added, which is not so where one of them has ceased to be ready."""
    if _is_settled(deployment):
        return False
    status = deployment.get("status", {})
    if int(status.get("observedGeneration", 0)) < int(deployment["metadata"].get("generation", 0)):
        return True
    return any(
        each.get("type") == "Progressing"
        and each.get("status") == "True"
        and each.get("reason") != "NewReplicaSetAvailable"
        for each in status.get("conditions") or ()
    )


def _pods_told(serving: Serving, wanted: int, status: Json) -> str:
    """How many pods are as they should be, and what the others do."""
    refused = refusal(serving.deployment or {})
    doing = [f"pod {state.name} {state.doing}" for state in serving.pods if not state.ready]
    if refused is not None:
        doing.append(refused.cause)
    updated = int(status.get("updatedReplicas", 0))
    told = f": {'; '.join(doing)}" if doing else ""
    if updated < int(status.get("replicas", 0)):
        return f"{updated} of {wanted} pods are updated{told}"
    return f"{status.get('availableReplicas', 0)} of {wanted} pods are ready{told}"


def _is_settled(deployment: Json) -> bool:
    """Whether all pods are of the present template, ready, and no others are left."""
    status, wanted = deployment.get("status", {}), int(deployment["spec"].get("replicas", 1))
    return (
        int(status.get("observedGeneration", 0)) >= int(deployment["metadata"].get("generation", 0))
        and int(status.get("updatedReplicas", 0)) == wanted
        and int(status.get("replicas", 0)) == wanted
        and int(status.get("availableReplicas", 0)) == wanted
    )


def _since(status: Json) -> str | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Available" and condition.get("status") == "True":
            return str(condition.get("lastTransitionTime")) or None
    return None


def _differences(cluster: Cluster, namespace: str, deployed: Iterable[Json]) -> Iterator[str]:
    """Of every object of the release; those that this user may not see are left out."""
    for described in compared(deployed):
        path = namespaced(
            described["apiVersion"], namespace, plural(described["kind"]), str(described["metadata"]["name"])
        )
        try:
            live = cluster.find(path)
        except Refused:
            continue
        if live is not None and described["kind"] == "HTTPRoute" and routed_share(live):
            continue  # a canary's weights, which are taken back with it
        if live is None:
            yield missing(described)
        else:
            yield from differences(described, live)
