"""A release as KServe's InferenceService: what KServe makes of it, and why it is not ready."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.kubernetes.connection import Cluster
from orchestrator.targets.kubernetes.objects import namespaced

__all__ = [
    "RUNS",
    "SERVICES",
    "container_name",
    "find_server",
    "http_port",
    "is_inference_service",
    "not_ready",
    "predictor_of",
    "ready_path",
    "runs",
    "server_container",
    "takes_tls",
]

Json = Mapping[str, Any]

SERVICES = "serving.kserve.io/v1beta1"
"""Group and version of the kind."""

RUNS = ("Deployment", "InferenceService")
"""Kinds that make the pods of a release."""
_SERVERS = {False: "server", True: "kserve-container"}
_HTTP = ("http", "http1")
"""Names that the chart gives to the server's container and its port; the latter are those that KServe wants."""


def is_inference_service(settings: Json) -> bool:
    """Whether values of the chart ask for an InferenceService."""
    return bool(settings.get("inferenceService", {}).get("enabled", False))


def predictor_of(release: str) -> str:
    """The Deployment and the Service that KServe makes of an InferenceService of that name."""
    return f"{release}-predictor"


def runs(release: str, settings: Json) -> str:
    """The name of the Deployment, and of the Service, of a release with these values."""
    return predictor_of(release) if is_inference_service(settings) else release


def container_name(*, kserve: bool) -> str:
    """What the server's container is called."""
    return _SERVERS[kserve]


def find_server(deployment: Json, *, kserve: bool = False) -> Json | None:
    """The container of the server, whatever stands beside it; None if somebody has renamed or removed it.

    Args:
        deployment: the object.
        kserve: whether KServe made it.
    """
    wanted = container_name(kserve=kserve)
    containers: list[Json] = deployment["spec"]["template"]["spec"]["containers"]
    return next((each for each in containers if each["name"] == wanted), None)


def server_container(deployment: Json, *, kserve: bool = False) -> Json:
    """The same, where it must be there.

    Raises:
        DeployFailed: E619 it is not.
    """
    found = find_server(deployment, kserve=kserve)
    if found is None:
        name = deployment["metadata"]["name"]
        raise _changed(f"the Deployment {name} has no container `{container_name(kserve=kserve)}`")
    return found


def http_port(container: Json) -> int:
    """The port at which the server's container speaks HTTP.

    Raises:
        DeployFailed: E619 it names none.
    """
    for each in container.get("ports") or ():
        if each.get("name") in _HTTP:
            return int(each["containerPort"])
    raise _changed(f"its container `{container['name']}` has no port `{'` or `'.join(_HTTP)}`")


def ready_path(container: Json) -> str:
    """The path at which the server says that it is ready: that of either probe that asks so.

    Raises:
        DeployFailed: E619 somebody has removed both.
    """
    for name in ("readinessProbe", "startupProbe"):
        if path := ((container.get(name) or {}).get("httpGet") or {}).get("path"):
            return str(path)
    raise _changed(f"no probe of its container `{container['name']}` names the path at which it says that it is ready")


def _changed(cause: str) -> DeployFailed:
    return DeployFailed(
        Diagnostic(
            "E619",
            "the server is not found in its pods, whose Deployment somebody has changed",
            cause=cause,
            remedy="`mlo diff NAME` shows what was changed; undo that with `kubectl edit deployment` or `kubectl rollout undo`",
        )
    )


def takes_tls(container: Json) -> bool:
    """Whether the server takes requests over TLS alone; then its probes ask so too, unless somebody has removed them."""
    probes = (container.get(name) or {} for name in ("readinessProbe", "startupProbe", "livenessProbe"))
    return any((probe.get("httpGet") or {}).get("scheme") == "HTTPS" for probe in probes)


def not_ready(cluster: Cluster, namespace: str, name: str) -> str:
    """Why KServe does not call an InferenceService ready, in its own words; empty if it does.

    Raises:
        DeployFailed: E652 the cluster does not answer.
        Refused: this user may not look.
    """
    found = cluster.find(namespaced(SERVICES, namespace, "inferenceservices", name))
    if found is None:
        return f"there is no InferenceService {name}"
    status = found.get("status") or {}
    conditions = status.get("conditions") or ()
    if not conditions:
        return "KServe's controller has not taken note of it; it may not run (`kubectl get pods -n kserve`)"
    generation = int(found["metadata"].get("generation", 0))
    if int(status.get("observedGeneration", generation)) < generation:  # old versions of KServe do not say
        return "KServe's controller has not taken note of its last change"
    if any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions):
        return ""
    told = [_told(each) for each in conditions if each.get("status") != "True"]
    failure = ((status.get("modelStatus") or {}).get("lastFailureInfo") or {}).get("message")
    return f"KServe says: {'; '.join([*told, *([str(failure)] if failure else [])]) or 'it is not ready'}"


def _told(condition: Json) -> str:
    why = ": ".join(str(condition[key]).rstrip(".") for key in ("reason", "message") if condition.get(key))
    return f"{condition.get('type')} is {condition.get('status')}" + (f" ({why})" if why else "")
