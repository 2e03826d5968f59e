"""The names by which mlo finds its objects on a cluster: paths of the API, labels and annotations of the chart."""

from __future__ import annotations

__all__ = [
    "CANDIDATE",
    "CANDIDATE_OF",
    "INSTANCE",
    "REVISION",
    "SETTINGS",
    "beside",
    "candidate_of",
    "instance",
    "namespaced",
    "own",
    "plural",
]

INSTANCE = "app.kubernetes.io/instance"
"""The label with the Helm release; of a candidate's pods that take traffic, the release whose Service selects them."""

CANDIDATE_OF = "mlo/candidate-of"
"""The label of a candidate that is to take a share of the traffic, with the release that it stands beside."""

REVISION = "mlo/revision"
"""The annotation of a Deployment and of its pods with mlo's number of the revision."""

SETTINGS = "mlo/settings"
"""The annotation of a Deployment with the digest of what `deploy:` sets."""

CANDIDATE = "-candidate"
"""Ends the name of the release in which a revision is proven before it takes traffic."""


def candidate_of(name: str) -> str:
    """The release in which a revision of this deployment is proven."""
    return f"{name}{CANDIDATE}"


def instance(release: str) -> str:
    """The label selector for the objects of one Helm release."""
    return f"{INSTANCE}={release}"


def own(release: str) -> str:
    """The same without the pods of a candidate that takes a share of the release's traffic."""
    return f"{instance(release)},!{CANDIDATE_OF}"


def beside(release: str) -> str:
    """The label selector for the pods of a candidate that is to take a share of the release's traffic."""
    return f"{CANDIDATE_OF}={release}"


def plural(kind: str) -> str:
    """The word for objects of a kind in the API's paths: `NetworkPolicy` → `networkpolicies`."""
    word = kind.lower()
    if word.endswith("y"):
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith("s") else f"{word}s"


def namespaced(version: str, namespace: str, kind: str, name: str = "") -> str:
    """The path of a namespace's objects.

    Args:
        version: `v1`, or group and version such as `apps/v1`.
        namespace: its name.
        kind: the plural in the API's paths, such as `pods`.
        name: of one object; empty for the list.
    """
    root = "/api/v1" if version == "v1" else f"/apis/{version}"
    return f"{root}/namespaces/{namespace}/{kind}" + (f"/{name}" if name else "")
