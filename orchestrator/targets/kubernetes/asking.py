"""Whether requests to a Service reach a revision: each pod that it has is looked at, and asked."""

from __future__ import annotations

from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from orchestrator.targets.certificate import unverified_context
from orchestrator.targets.kubernetes.connection import Cluster
from orchestrator.targets.kubernetes.forward import Relay
from orchestrator.targets.kubernetes.kserve import http_port, ready_path, server_container, takes_tls
from orchestrator.targets.kubernetes.objects import instance, namespaced
from orchestrator.targets.kubernetes.observing import Serving, revision_of

__all__ = ["unanswered"]

_SECONDS = 30.0


def unanswered(cluster: Cluster, namespace: str, release: str, revision: int, runs: str = "") -> str:
    """Why not all requests to a release's Service reach that revision; empty if they do.

    Args:
        cluster: where it is.
        namespace: of the release.
        release: Helm's name of it.
        revision: mlo's number.
        runs: the name of its Service, if KServe makes it.

    Raises:
        DeployFailed: E652 the cluster does not answer, E619 the server is not found in its pods.
        Refused: this user may not look.
    """
    seen, name = Serving.seen(cluster, namespace, release, runs), runs or release
    if not seen.ready_pods or seen.deployment is None:
        return f"the Service {name} has no endpoints"
    pods = cluster.get(namespaced("v1", namespace, "pods"), labelSelector=instance(release))["items"]
    numbers = {str(pod["metadata"]["name"]): revision_of(pod) for pod in pods}
    for pod in seen.ready_pods:
        if (number := numbers.get(pod)) != revision:
            return f"the Service {name} sends requests to pod {pod}, which is " + (
                "not of this release" if number is None else f"of revision {number}"
            )
    server = server_container(seen.deployment, kserve=name != release)
    return next(filter(None, (_refuses(cluster, namespace, pod, server) for pod in seen.ready_pods)), "")


def _refuses(cluster: Cluster, namespace: str, pod: str, server: Mapping[str, Any]) -> str:
    """Why a pod does not answer at the path where it says that it is ready; empty if it does."""
    path = ready_path(server)
    relay = Relay(cluster, namespace, lambda: pod, http_port(server))
    where = urlsplit(relay.url)
    connection = HTTPConnection(where.hostname or "", where.port, timeout=_SECONDS)
    if takes_tls(server):  # nothing but readiness is asked, and the API server has led to the pod
        context = unverified_context()
        connection = HTTPSConnection(where.hostname or "", where.port, timeout=_SECONDS, context=context)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return f"pod {pod} does not answer: {str(error) or type(error).__name__}"
    finally:
        connection.close()
        relay.close()
    return "" if status == 200 else f"pod {pod} answers with status {status}"
