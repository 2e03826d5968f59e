"""The port-forwards to the pods of a deployment, open until they are closed, and what is asked through them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.kubernetes.asking import unanswered
from orchestrator.targets.kubernetes.connection import Cluster
from orchestrator.targets.kubernetes.forward import Relay, in_turn
from orchestrator.targets.kubernetes.kserve import http_port, server_container, takes_tls
from orchestrator.targets.kubernetes.objects import instance, namespaced
from orchestrator.targets.kubernetes.observing import ready_pods, revision_of

__all__ = ["PortForwards"]

_LOOK = 1.0
"""Seconds between looks at the Service."""
_ENDPOINTS = 15.0
"""Seconds until the Service has a pod that is ready, and none that ends."""


class PortForwards:
    """Of one deployment.

    Args:
        cluster: where it is.
        namespace: of the deployment.
        name: the deployment's.
        runs: the name of its Deployment and Service, which KServe may have made.
        relays: that are open; new ones are added.
    """

    def __init__(self, cluster: Cluster, namespace: str, name: str, runs: str, relays: list[Relay]) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._runs = runs
        self._relays = relays

    def server(self, name: str) -> Mapping[str, Any]:
        """The server's container in the pods of that Deployment.

        Raises:
            DeployFailed: E619 it is not found there.
        """
        deployment = self._cluster.get(namespaced("apps/v1", self._namespace, "deployments", name))
        return server_container(deployment, kserve=name == self._runs != self._name)

    def to(self, pod: Callable[[], str], server: Mapping[str, Any]) -> Relay:
        """A relay to a pod; another name for each connection may be given.

        Args:
            pod: its name.
            server: its container.
        """
        relay = Relay(self._cluster, self._namespace, pod, http_port(server), tls=takes_tls(server))
        self._relays.append(relay)
        return relay

    def through_service(self) -> Relay:
        """To a pod that the Service has among its endpoints, another one for each connection."""
        pods = in_turn(lambda: ready_pods(self._cluster, self._namespace, self._runs))
        return self.to(pods, self.server(self._runs))

    def close(self) -> None:
        """Close all of them."""
        for relay in self._relays:
            relay.close()
        self._relays.clear()

    def ready_pod(self, release: str, revision: int) -> str:
        """The name of a pod of a Helm release that is of that revision and ready.

        Raises:
            DeployFailed: E660 there is none.
        """
        path = namespaced("v1", self._namespace, "pods")
        ready = [
            str(pod["metadata"]["name"])
            for pod in self._cluster.get(path, labelSelector=instance(release))["items"]
            if revision_of(pod) == revision
            and not pod["metadata"].get("deletionTimestamp")
            and any(
                each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions") or ()
            )
        ]
        if not ready:
            raise DeployFailed(
                Diagnostic(
                    "E660",
                    f"revision {revision} is not ready any more",
                    cause="its pod was ready, and is not now",
                    remedy=f"see `kubectl get pods -n {self._namespace}`; then run `mlo apply` again",
                )
            )
        return ready[-1]

    def ask_through_service(self, revision: int) -> None:
        """Each pod that the Service has must be of that revision, and answer; what it has follows the pods a moment later.

        Raises:
            DeployFailed: E660 one is not, or does not.
        """
        deadline = time.monotonic() + _ENDPOINTS
        while problem := unanswered(self._cluster, self._namespace, self._name, revision, self._runs):
            if time.monotonic() > deadline:
                raise DeployFailed(
                    Diagnostic(
                        "E660",
                        f"revision {revision} does not answer through the Service {self._runs}",
                        cause=problem,
                        remedy=f"see `kubectl describe service {self._runs} -n {self._namespace}`",
                    )
                )
            time.sleep(_LOOK)
