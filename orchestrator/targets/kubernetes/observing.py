"""What serves now: one look at a release's Deployment, Service and pods, and what it means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.targets.kubernetes.connection import Cluster, Refused
from orchestrator.targets.kubernetes.drift import compared, differences, missing
from orchestrator.targets.kubernetes.objects import REVISION, namespaced, plural
from orchestrator.targets.kubernetes.pods import PodState, refusal
from orchestrator.targets.kubernetes.record import read_record
from orchestrator.targets.kubernetes.rollout import pod_states
from orchestrator.targets.target import Health, Observed

__all__ = ["Serving", "observed", "ready_pods", "revision_of"]

Json = Mapping[str, Any]

_SHOWN = 3
"""Differences that a reason names."""


@dataclass(frozen=True, slots=True)
class Serving:
    """A release as the cluster has it.

    Attributes:
        name: of the release.
        deployment: the object; None if there is none.
        pods: what each is doing; only looked at where the Deployment is not as it should be.
        ready_pods: the names of those that the Service sends requests to; None where there is no Service.
        pending: Helm's word for an operation that is under way or was interrupted; empty if there is none.
        differences: from what was deployed, a clause each.
    """

    name: str
    deployment: Json | None
    pods: tuple[PodState, ...] = ()
    ready_pods: tuple[str, ...] | None = None
    pending: str = ""
    differences: tuple[str, ...] = ()

    @property
    def settled(self) -> bool:
        """Whether all pods are of one revision and serve."""
        return self.deployment is not None and _is_settled(self.deployment)

    @classmethod
    def seen(cls, cluster: Cluster, namespace: str, name: str) -> Serving:
        """Look at it.

        Raises:
            DeployFailed: E652 the cluster does not answer.
            Refused: this user may not look.
        """
        deployment = cluster.find(namespaced("apps/v1", namespace, "deployments", name))
        if deployment is None:
            return cls(name, None)
        ready = ready_pods(cluster, namespace, name)
        pods = () if _is_settled(deployment) else tuple(pod_states(cluster, namespace, name))
        record = read_record(cluster, namespace, name)
        pending = record.status if record is not None and record.status.startswith("pending") else ""
        differs = () if record is None or pending else tuple(_differences(cluster, namespace, record.objects))
        return cls(name, deployment, pods, ready, pending, differs)


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
        return _nothing("stopped", f"there is no Deployment {serving.name} in its namespace", endpoint)
    revision = revision_of(deployment)
    if revision is None:
        return _nothing("degraded", f"the Deployment {serving.name} is not one that mlo made", endpoint)
    wanted, status = int(deployment["spec"].get("replicas", 1)), deployment.get("status", {})
    if wanted == 0:
        return _nothing("stopped", "somebody scaled it to 0 pods", endpoint)
    reason = _why_degraded(serving, wanted, status)
    return Observed(
        running=True,
        health="degraded" if reason else "healthy",
        reason=reason,
        endpoint=endpoint,
        revision=revision,
        backend=deployment["metadata"].get("labels", {}).get("mlo/backend"),
        since=_since(status),
        differences=serving.differences,
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
        refused = refusal(serving.deployment)
        doing = [f"pod {state.name} {state.doing}" for state in serving.pods if not state.ready]
        if refused is not None:
            doing.append(refused.cause)
        updated = int(status.get("updatedReplicas", 0))
        told = f": {'; '.join(doing)}" if doing else ""
        if updated < int(status.get("replicas", 0)):
            return f"{updated} of {wanted} pods are updated{told}"
        return f"{status.get('availableReplicas', 0)} of {wanted} pods are ready{told}"
    if not serving.ready_pods:
        return f"its Service {serving.name} has no endpoints; its selector may have been changed"
    shown, more = serving.differences[:_SHOWN], len(serving.differences) - _SHOWN
    return "; ".join(shown) + (f"; and {more} more: `mlo diff {serving.name}`" if more > 0 else "")


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
        if live is None:
            yield missing(described)
        else:
            yield from differences(described, live)
