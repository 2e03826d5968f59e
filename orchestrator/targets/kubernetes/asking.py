"""Whether requests to a Service reach a revision: each pod that it has is looked at, and asked."""

from __future__ import annotations

import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from orchestrator.targets.kubernetes.connection import Cluster, Json
from orchestrator.targets.kubernetes.forward import Relay
from orchestrator.targets.kubernetes.objects import instance, namespaced
from orchestrator.targets.kubernetes.observing import Serving, revision_of

__all__ = ["unanswered"]

_SECONDS = 30.0


def unanswered(cluster: Cluster, namespace: str, name: str, revision: int) -> str:
    """Why not all requests to a release's Service reach that revision; empty if they do.

    Args:
        cluster: where it is.
        namespace: of the release.
        name: of the release, and of its Service.
        revision: mlo's number.

    Raises:
        DeployFailed: E652 the cluster does not answer.
        Refused: this user may not look.
    """
    seen = Serving.seen(cluster, namespace, name)
    if not seen.ready_pods or seen.deployment is None:
        return f"the Service {name} has no endpoints"
    pods = cluster.get(namespaced("v1", namespace, "pods"), labelSelector=instance(name))["items"]
    numbers = {str(pod["metadata"]["name"]): revision_of(pod) for pod in pods}
    for pod in seen.ready_pods:
        if (number := numbers.get(pod)) != revision:
            return f"the Service {name} sends requests to pod {pod}, which is " + (
                "not of this release" if number is None else f"of revision {number}"
            )
    (server,) = (each for each in seen.deployment["spec"]["template"]["spec"]["containers"] if each["name"] == "server")
    return next(filter(None, (_refuses(cluster, namespace, pod, server) for pod in seen.ready_pods)), "")


def _refuses(cluster: Cluster, namespace: str, pod: str, server: Json) -> str:
    """Why a pod does not answer at the path of its readiness probe; empty if it does."""
    probe = server["readinessProbe"]["httpGet"]
    port = next(int(each["containerPort"]) for each in server["ports"] if each["name"] == "http")
    relay = Relay(cluster, namespace, lambda: pod, port)
    where = urlsplit(relay.url)
    connection = HTTPConnection(where.hostname or "", where.port, timeout=_SECONDS)
    if probe.get("scheme") == "HTTPS":
        context = ssl.create_default_context()
        context.check_hostname = False  # the port is one of loopback, and the API server has led to the pod
        context.verify_mode = ssl.CERT_NONE
        connection = HTTPSConnection(where.hostname or "", where.port, timeout=_SECONDS, context=context)
    try:
        connection.request("GET", probe["path"])
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return f"pod {pod} does not answer: {str(error) or type(error).__name__}"
    finally:
        connection.close()
        relay.close()
    return "" if status == 200 else f"pod {pod} answers with status {status}"
