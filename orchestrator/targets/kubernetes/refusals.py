"""What a cluster answered with an error, as an error that says what to do."""

from __future__ import annotations

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.kubernetes.connection import Cluster, Refused

__all__ = ["refusal_error"]


def refusal_error(cluster: Cluster, namespace: str, refused: Refused) -> DeployFailed:
    """The error for a request that the cluster refuses: E654 for want of rights, E652 for want of an answer, else E667.

    Args:
        cluster: that was asked.
        namespace: of the request.
        refused: what it answered.
    """
    if refused.status == 401:
        return DeployFailed(
            Diagnostic(
                "E654",
                f"{cluster.name} is not accepted by its cluster",
                cause=refused.message,
                remedy="log in again, as you do for `kubectl`; its certificate or token may have expired",
            )
        )
    if refused.status == 403:
        return DeployFailed(
            Diagnostic(
                "E654",
                f"this user may not do that in the namespace `{namespace}`",
                cause=refused.message,
                remedy="have the Role of docs/kubernetes.md bound to it; `kubectl auth can-i --list -n"
                f" {namespace}` shows what it may do",
            )
        )
    if refused.passes:
        return DeployFailed(
            Diagnostic(
                "E652",
                f"the cluster of {cluster.name} does not answer requests at the moment",
                cause=f"{refused.message} (status {refused.status}, also when it was asked again)",
                remedy="run the command again later; pods that serve keep serving. `kubectl get --raw /readyz` shows how its API"
                " server is",
            )
        )
    return DeployFailed(
        Diagnostic(
            "E667",
            f"the cluster refuses a request in the namespace `{namespace}`",
            cause=f"{refused.message} (status {refused.status}{', ' + refused.reason if refused.reason else ''})",
            remedy="if somebody else is changing the namespace, run the command again; otherwise correct what the cluster names",
        )
    )
