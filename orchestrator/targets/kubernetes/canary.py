"""A share of the traffic for a candidate: by its pods among those of the Service, or by the weights of a route.

A Service sends each new connection to any of the pods that it selects, so pods are the weights: one of ten gets a tenth. The pods of
a candidate then carry the labels that the Service of the release selects, besides those by which the candidate's own Deployment knows
them. Where the release has a route of the Gateway API, its weights share the requests, and the candidate's pods stay behind their own
Service.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.spec.quantities import percent_text
from orchestrator.targets.kubernetes.connection import Cluster, Json
from orchestrator.targets.kubernetes.objects import INSTANCE, beside, candidate_of, namespaced
from orchestrator.targets.kubernetes.observing import ready_pods, revision_of
from orchestrator.targets.kubernetes.rollout import log_tail
from orchestrator.targets.kubernetes.route import leads_to, route_of, routed_share, share_route
from orchestrator.targets.target import Beside

__all__ = ["Share", "SharedService", "candidate_pods", "share_of", "standing_beside"]

_ENDPOINTS = 30.0
"""Seconds until the Service has the pods that are ready."""
_LOOK = 0.5


def candidate_pods(share: float, serving: int) -> int:
    """How many pods of a candidate come nearest to a share of the traffic; at least one.

    Args:
        share: above 0 and below 1.
        serving: pods of what serves; at least one.
    """
    fewer = max(1, math.floor(share / (1 - share) * serving))
    return min((fewer, fewer + 1), key=lambda count: (abs(count / (count + serving) - share), count))


@dataclass(frozen=True, slots=True)
class Share:
    """A share of a release's traffic, as it can be given.

    Attributes:
        wanted: what was asked for, above 0 and below 1.
        serving: pods of what serves.
        route: the HTTPRoute whose weights are the share; None where pods are.
    """

    wanted: float
    serving: int
    route: Json | None

    @property
    def pods(self) -> int:
        """Of the candidate: what makes the share, or behind a route what holds it."""
        if self.route is None:
            return candidate_pods(self.wanted, self.serving)
        return max(1, math.ceil(self.wanted * self.serving))

    @property
    def values(self) -> Mapping[str, Any]:
        """What a candidate with this share differs in from one that is only proven."""
        return {"replicas": {"min": self.pods, "max": self.pods}, "candidate": {"traffic": self.route is None}}


def share_of(cluster: Cluster, namespace: str, name: str, settings: Mapping[str, Any], wanted: float) -> Share | None:
    """How a share of a release's traffic can be given; None where nothing serves.

    Args:
        cluster: where it is.
        namespace: of the release.
        name: of the release.
        settings: values of the chart that the spec's `deploy:` sets.
        wanted: above 0 and below 1.
    """
    serving = _available(cluster.find(namespaced("apps/v1", namespace, "deployments", name)) or {})
    if not serving:
        return None
    route = route_of(cluster, namespace, name, settings)
    return Share(wanted, serving, route if route is not None and leads_to(route) else None)


def _by_pods(candidates: int, serving: int) -> tuple[float, str]:
    """The share of the candidate's pods, and what makes it."""
    whole = candidates + serving
    return candidates / max(1, whole), f"{candidates} of {whole} pods"


def _by_weight(share: float) -> tuple[float, str]:
    return share, f"weight {percent_text(share)} of the HTTPRoute"


def standing_beside(cluster: Cluster, namespace: str, name: str, settings: Mapping[str, Any]) -> Beside | None:
    """The candidate that takes a share of a release's traffic; None if there is none.

    Args:
        cluster: where it is.
        namespace: of the release.
        name: of the release.
        settings: values of the chart that the spec's `deploy:` sets.

    Raises:
        DeployFailed: E652 the cluster does not answer.
        Refused: this user may not look.
    """
    candidate = cluster.find(namespaced("apps/v1", namespace, "deployments", candidate_of(name)))
    if candidate is None:
        return None
    template = candidate["spec"]["template"]
    revision = revision_of(template)
    if revision is None:
        return None
    if template["metadata"].get("labels", {}).get(INSTANCE) != name:
        route = route_of(cluster, namespace, name, settings)
        share = 0.0 if route is None else routed_share(route)
        return Beside(revision, *_by_weight(share)) if share else None
    count = _available(candidate)
    serving = _available(cluster.find(namespaced("apps/v1", namespace, "deployments", name)) or {})
    return Beside(revision, *_by_pods(count, serving)) if count else None


def _available(deployment: Json) -> int:
    return int(deployment.get("status", {}).get("availableReplicas") or 0)


def _restarts(container: Json) -> int:
    return int(container.get("restartCount", 0))


class SharedService:
    """The pods of a release and of a candidate, behind the Services that take the traffic.

    Args:
        cluster: where it is.
        namespace: of the release.
        name: of the release, and of its Service.
        revision: of the candidate.
        share: that the candidate is to have; it has the pods for it.
        permit: raises if another command has taken over the deployment.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str,
        revision: int,
        share: Share,
        permit: Callable[[], None],
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._revision = revision
        self._share = share
        self._candidates = share.pods
        self._ready = share.pods
        self._service = name if share.route is None else candidate_of(name)
        self._permit = permit
        self._weight = 0.0
        self._restarts: dict[tuple[str, str], int] = {}

    def give(self) -> tuple[float, str]:
        """Give the candidate its share, once its Service has all its pods; the share that it really is, and what makes it.

        Raises:
            DeployFailed: E660 it does not get them, or one of them is not ready any more.
        """
        deadline = time.monotonic() + _ENDPOINTS
        while len(self.new()) < self._candidates:
            if time.monotonic() > deadline:
                raise DeployFailed(
                    Diagnostic(
                        "E660",
                        f"revision {self._revision} gets no share of the traffic",
                        cause=f"the Service {self._service} has {len(self.new())} of the {self._candidates} pods of the new revision",
                        remedy=f"see `kubectl describe service {self._service} -n {self._namespace}`",
                    )
                )
            time.sleep(_LOOK)
        self._restarts = {(pod, str(each["name"])): _restarts(each) for pod, each in self._containers()}
        if self._share.route is None:
            return _by_pods(self._candidates, self._share.serving)
        self._weight = share_route(self._cluster, self._namespace, self._share.route, self._share.wanted)
        return _by_weight(self._weight)

    def now(self) -> tuple[float, str]:
        """The share that it has at the moment, and what makes it."""
        if self._share.route is None:
            return _by_pods(self._ready, self._share.serving)
        return _by_weight(self._weight)

    def new(self) -> list[str]:
        """The candidate's pods that the Service sends requests to."""
        names = self._names()
        return [pod for pod in self._behind(self._service) if pod in names]

    def old(self) -> list[str]:
        """The pods of the release's own Service that are not the candidate's."""
        names = self._names()
        return [pod for pod in self._behind(self._name) if pod not in names]

    def check(self) -> None:
        """Whether all pods of the candidate are as they were when they got their share; there may be others, see `_follow`.

        Raises:
            DeployFailed: E658 one has ended, E659 it ran out of memory, E660 one is not ready any more.
            Busy: another command has taken over.
        """
        self._permit()
        for pod, container in self._containers():
            if _restarts(container) > self._restarts.get((pod, str(container["name"])), 0):
                raise self._ended(pod, container)
        self._follow()
        ready = len(self.new())
        if ready < self._ready:
            raise DeployFailed(
                Diagnostic(
                    "E660",
                    f"revision {self._revision} is not ready any more",
                    cause=f"{ready} of its {self._ready} pods are ready; all were when they got their share",
                    remedy=f"see `kubectl get events -n {self._namespace}`; a node may have been drained: then run `mlo apply` again",
                )
            )
        self._ready = min(ready, self._candidates)

    def _follow(self) -> None:
        """Keep the share where somebody has changed the number of pods that serve, such as an autoscaler.

        An autoscaler counts the pods of both and shares the load that it sees among them, so it gives what serves as many pods as the
        whole traffic needs, whatever the candidate has.
        """
        found = self._cluster.find(namespaced("apps/v1", self._namespace, "deployments", self._name))
        serving = _available(found or {})
        if serving in (0, self._share.serving):
            return
        self._share = replace(self._share, serving=serving)
        if self._share.pods == self._candidates:
            return
        self._candidates = self._share.pods
        self._ready = min(self._ready, self._candidates)
        path = namespaced("apps/v1", self._namespace, "deployments", candidate_of(self._name))
        self._cluster.call("PATCH", path, {"spec": {"replicas": self._candidates}})

    def _names(self) -> set[str]:
        return {str(pod["metadata"]["name"]) for pod in self._found()}

    def _behind(self, service: str) -> tuple[str, ...]:
        return ready_pods(self._cluster, self._namespace, service) or ()

    def _found(self) -> list[Json]:
        """The candidate's pods; those that were only proven are ending by then."""
        pods = self._cluster.get(namespaced("v1", self._namespace, "pods"), labelSelector=beside(self._name))["items"]
        return [
            pod for pod in pods if revision_of(pod) == self._revision and not pod["metadata"].get("deletionTimestamp")
        ]

    def _containers(self) -> Iterator[tuple[str, Json]]:
        """The containers of the candidate's pods, each with the name of its pod."""
        for pod in self._found():
            for container in pod.get("status", {}).get("containerStatuses") or ():
                yield str(pod["metadata"]["name"]), container

    def _ended(self, pod: str, container: Json) -> DeployFailed:
        last = container.get("lastState", {}).get("terminated") or {}
        memory = last.get("reason") == "OOMKilled"
        tail = "".join(f"\n  {line}" for line in log_tail(self._cluster, self._namespace, pod, str(container["name"])))
        how = "ran out of memory" if memory else f"ended with exit code {last.get('exitCode', 'unknown')}"
        return DeployFailed(
            Diagnostic(
                "E659" if memory else "E658",
                f"revision {self._revision} fails under real requests",
                cause=f"pod {pod}: container {container['name']} {how}"
                + (f"; its log ends with:{tail}" if tail else ""),
                remedy="raise `hardware: memory:`"
                if memory
                else "see its log; `docker run` of the image shows the same",
            )
        )
