"""Before anything is computed: whether the cluster can take a deployment, and this user may make it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.kubernetes.connection import Cluster, Json, Refused
from orchestrator.targets.kubernetes.helm import found_helm
from orchestrator.targets.kubernetes.kserve import SERVICES, is_inference_service
from orchestrator.targets.kubernetes.objects import CANDIDATE, namespaced
from orchestrator.targets.kubernetes.refusals import refusal_error

__all__ = [
    "NEEDED",
    "RELEASED",
    "check_cluster",
    "check_form",
    "check_name",
    "full_quotas",
    "make_namespace",
    "missing_rights",
]

RELEASED = ("get", "list", "watch", "create", "patch", "delete")
"""What Helm does with each kind of a release; since version 4 it waits for all of them by a watch."""
NEEDED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("", "secrets", ("get", "list", "create", "update", "delete")),
    ("", "services", RELEASED),
    ("", "serviceaccounts", RELEASED),
    ("", "pods", ("get", "list", "watch")),
    ("", "pods/log", ("get",)),
    ("", "pods/portforward", ("get", "create")),
    ("", "endpoints", ("get",)),
    ("", "events", ("list",)),
    ("apps", "deployments", RELEASED),
    ("apps", "replicasets", ("get", "list", "watch")),
    ("networking.k8s.io", "networkpolicies", RELEASED),
    ("coordination.k8s.io", "leases", ("get", "create", "update", "delete")),
)
"""API group, resource and verbs that every release needs."""

_GATEWAY, _MONITORING, _KSERVE = "gateway.networking.k8s.io", "monitoring.coreos.com", "serving.kserve.io"
_SOME: tuple[tuple[str, bool, str, str, str], ...] = (
    ("inferenceService", False, _KSERVE, "inferenceservices", ""),
    ("ingress", False, "networking.k8s.io", "ingresses", ""),
    ("httpRoute", False, _GATEWAY, "httproutes", ""),
    ("serviceMonitor", True, _MONITORING, "servicemonitors", _MONITORING),
    ("prometheusRule", True, _MONITORING, "prometheusrules", _MONITORING),
    ("dashboard", True, "", "configmaps", _MONITORING),
)
"""For objects that only some releases have: the chart's value that enables it, whether it is enabled by default, API group and
resource, and the API group without which the cluster gets none. Whether there is an autoscaler or a disruption budget is
decided later, so the right to them is checked before the release."""

_REMEDIES = {
    _GATEWAY: "install the Gateway API on it, or leave out `deploy: ingress: gateway:`",
    _KSERVE: "install KServe on it (its CRD is inferenceservices.serving.kserve.io), or leave out `deploy: as:`",
}


def check_cluster(cluster: Cluster, namespace: str, settings: Mapping[str, Any], *, create: bool) -> None:
    """Whether the cluster can be used; changes nothing.

    Args:
        cluster: to use.
        namespace: for the deployment.
        settings: values of the chart that the spec's `deploy:` sets.
        create: whether it may be made.

    Raises:
        DeployFailed: E650 a package is missing, E651 the context, E652 the cluster does not answer, E653 Helm is missing,
            E654 this user lacks rights, E655 the namespace cannot be used, E665 the cluster is too old or lacks an API; all
            that apply.
    """
    problems: list[Diagnostic] = []
    try:
        found_helm()
    except DeployFailed as failed:
        problems += failed.diagnostics
    try:
        groups = {each["name"] for each in cluster.get("/apis")["groups"]}
        some = [
            row for row in _SOME if settings.get(row[0], {}).get("enabled", row[1]) and (not row[4] or row[4] in groups)
        ]
        problems += _missing_apis(cluster, groups, {group for _, _, group, *_ in some if group})
        problems += _unusable_namespace(cluster, namespace, create=create)
        wanted = [*NEEDED, *((group, resource, RELEASED) for _, _, group, resource, _ in some)]
        problems += missing_rights(cluster, namespace, wanted)
    except Refused as refused:
        raise refusal_error(cluster, namespace, refused) from refused
    if problems:
        raise DeployFailed(*problems)


def check_name(name: str) -> None:
    """Refuse a name that would be that of another deployment's candidate.

    Raises:
        DeployFailed: E655.
    """
    if name.endswith(CANDIDATE):
        raise DeployFailed(
            Diagnostic(
                "E655",
                f"no deployment on a cluster can be called `{name}`",
                cause=f"names that end with `{CANDIDATE}` are kept for the pods in which a revision is proven",
                remedy="choose another `metadata: name:`",
                at=("metadata", "name"),
            )
        )


def check_form(cluster: Cluster, namespace: str, name: str, settings: Mapping[str, Any]) -> None:
    """Refuse to replace a Deployment by an InferenceService or the other way round: Helm would remove one before the other serves.

    Raises:
        DeployFailed: E668.
        Refused: this user may not look.
    """
    wanted = is_inference_service(settings)
    here, kind = ("apps/v1", "deployments") if wanted else (SERVICES, "inferenceservices")
    try:
        found = cluster.find(namespaced(here, namespace, kind, name))
    except Refused as refused:
        if wanted or refused.status != 403:
            raise
        return  # who deploys no InferenceService needs no right to one, even where KServe is not installed
    if found is not None and (found["metadata"].get("annotations") or {}).get("meta.helm.sh/release-name") == name:
        raise DeployFailed(
            Diagnostic(
                "E668",
                f"{name} serves as {'a Deployment' if wanted else 'an InferenceService'}, and the spec asks for the other form",
                cause="one would be removed before the other serves, and requests would fail",
                remedy=f"deploy it under another name (`metadata: name:`), or run `mlo destroy {name}` first",
                at=("deploy", "as"),
            )
        )


def make_namespace(cluster: Cluster, namespace: str) -> None:
    """Make the namespace unless there is one.

    A user who may neither read nor make namespaces goes on: it may be there, and otherwise the first request names it.

    Raises:
        DeployFailed: E654 this user may not.
        Refused: the cluster does not answer whether there is one.
    """
    readable = True
    try:
        if cluster.find(f"/api/v1/namespaces/{namespace}") is not None:
            return
    except Refused as refused:
        if refused.status != 403:
            raise
        readable = False
    body = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": namespace, "labels": {"app.kubernetes.io/managed-by": "mlo"}},
    }
    try:
        cluster.call("POST", "/api/v1/namespaces", body)
    except Refused as refused:
        if refused.status == 409 or (
            refused.status == 403 and not readable
        ):  # another command was faster, or it was there
            return
        raise refusal_error(cluster, namespace, refused) from refused


def full_quotas(cluster: Cluster, namespace: str) -> tuple[str, ...]:
    """The limits of the namespace's quotas that are used up, such as `pods: 4 of 4 (team-quota)`."""
    try:
        quotas = cluster.get(namespaced("v1", namespace, "resourcequotas"))["items"]
    except Refused:  # this user may not see them; the pods will tell
        return ()
    return tuple(line for quota in quotas for line in _used_up(quota))


def missing_rights(
    cluster: Cluster, namespace: str, needed: Iterable[tuple[str, str, tuple[str, ...]]]
) -> Iterator[Diagnostic]:
    """What this user may not do; the cluster itself is asked, one review for each verb.

    Args:
        cluster: to use.
        namespace: for the deployment.
        needed: API group, resource and verbs.
    """
    denied = [
        f"{verb} {resource}{'.' + group if group else ''}"
        for group, resource, verbs in needed
        for verb in verbs
        if not _may(cluster, namespace, group, resource, verb)
    ]
    if denied:
        yield Diagnostic(
            "E654",
            f"this user may not deploy into the namespace `{namespace}`",
            cause=f"it may not {_listed(denied)}",
            remedy="have the Role of docs/kubernetes.md bound to it; `kubectl auth can-i --list -n"
            f" {namespace}` shows what it may do",
            at=("deploy", "namespace"),
        )


def _missing_apis(cluster: Cluster, groups: set[str], wanted: set[str]) -> Iterator[Diagnostic]:
    missing = ({"apps", "networking.k8s.io", "coordination.k8s.io"} | wanted) - groups
    if missing:
        version = cluster.get("/version").get("gitVersion", "of an unknown version")
        yield Diagnostic(
            "E665",
            f"the cluster of {cluster.name} lacks what a release needs",
            cause=f"it is Kubernetes {version} without the API groups {', '.join(sorted(missing))}",
            remedy="; ".join(_REMEDIES[each] for each in sorted(missing & set(_REMEDIES)))
            if missing <= set(_REMEDIES)
            else "use a cluster of Kubernetes 1.20 or later",
        )


def _unusable_namespace(cluster: Cluster, namespace: str, *, create: bool) -> Iterator[Diagnostic]:
    try:
        found = cluster.find(f"/api/v1/namespaces/{namespace}")
    except Refused as refused:
        if refused.status == 403:  # many users may use a namespace and not read it; a missing one is named later
            return
        raise
    if found is None and not create:
        yield Diagnostic(
            "E655",
            f"there is no namespace `{namespace}`",
            cause=f"the cluster of {cluster.name} has none of that name",
            remedy=f"run `kubectl create namespace {namespace}`, or set `deploy: create_namespace: true`",
            at=("deploy", "namespace"),
        )
    if found is not None and found.get("status", {}).get("phase") == "Terminating":
        yield Diagnostic(
            "E655",
            f"the namespace `{namespace}` is being deleted",
            cause="somebody deleted it, and its objects are still being removed",
            remedy="wait until it is gone, or use another one",
            at=("deploy", "namespace"),
        )


def _may(cluster: Cluster, namespace: str, group: str, resource: str, verb: str) -> bool:
    name, _, sub = resource.partition("/")
    asked = {"namespace": namespace, "verb": verb, "group": group, "resource": name, "subresource": sub}
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}},
    }
    answer = cluster.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
    return bool(answer.get("status", {}).get("allowed"))


def _used_up(quota: Json) -> list[str]:
    status, name = quota.get("status", {}), quota["metadata"]["name"]
    hard, used = status.get("hard", {}), status.get("used", {})
    return [
        f"{each}: {used[each]} of {limit} ({name})" for each, limit in sorted(hard.items()) if used.get(each) == limit
    ]


def _listed(denied: list[str], most: int = 6) -> str:
    more = len(denied) - most
    return ", ".join(denied[:most]) + (f", and {more} more" if more > 0 else "")
