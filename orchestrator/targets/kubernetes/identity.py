"""By what a namespace of a cluster is known again, whatever the context is called and by which address the cluster is reached."""

from __future__ import annotations

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed, MloError
from orchestrator.targets.kubernetes.connection import Cluster, Refused, named_context
from orchestrator.targets.kubernetes.objects import namespaced
from orchestrator.targets.kubernetes.placement import KubernetesPlacement

__all__ = ["namespace_identity", "require_same_place"]


def namespace_identity(cluster: Cluster, namespace: str) -> str:
    """The UID of the service account `default`, which each namespace has, and which everyone who may deploy there may read.

    Args:
        cluster: to ask.
        namespace: its name.

    Returns:
        Empty where there is no such namespace, or the cluster does not tell.
    """
    try:
        found = cluster.find(namespaced("v1", namespace, "serviceaccounts", "default"))
    except (MloError, Refused):  # whoever needs the cluster names the problem
        return ""
    return "" if found is None else str(found["metadata"].get("uid", ""))


def require_same_place(place: KubernetesPlacement, cluster: Cluster) -> None:
    """Refuse a context that leads to another cluster than it did when the state was written.

    Raises:
        DeployFailed: E651.
    """
    if place.context is None or not place.server:
        return
    now = named_context(place.context).server
    if now in {"", place.server}:  # without one, connecting says that there is no such context
        return
    if place.identity and namespace_identity(cluster, place.namespace) == place.identity:
        return
    raise DeployFailed(
        Diagnostic(
            "E651",
            f"the context `{place.context}` leads to another cluster than the deployment's",
            cause=f"the deployment is at {place.server}, and the context is for {now}, where the namespace `{place.namespace}` is"
            " another one",
            remedy=f"set KUBECONFIG to a kubeconfig whose context `{place.context}` is for {place.server}, and run the command again",
        )
    )
