"""Whether the nodes can pull a release's image: its registry is asked with the logins that the pods have."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.images.registry import Answer, image_at
from orchestrator.store.state import Image
from orchestrator.targets.kubernetes.connection import Cluster, Json, Refused
from orchestrator.targets.kubernetes.objects import namespaced

__all__ = ["Logins", "pull_problems"]

Ask = Callable[[str, str, Mapping[str, str] | None], Answer]
Logins = dict[str, Mapping[str, str]]
"""Credentials by the registry that they are for, as a pull secret has them."""

_HUB, _HUB_OF_LOGINS = "docker.io", "index.docker.io"
"""Docker Hub, as images name it and as logins do."""


def pull_problems(
    cluster: Cluster,
    namespace: str,
    pod: Mapping[str, Any],
    image: Image,
    tell: Callable[[str], None],
    ask: Ask = image_at,
) -> Iterator[Diagnostic]:
    """Why the nodes cannot pull the image; what cannot be found out is told.

    Args:
        cluster: where the pods are to run.
        namespace: of the pods.
        pod: its spec, with the pull secrets.
        image: the release's.
        tell: is called with what could not be checked, and why.
        ask: asks the registry.

    Raises:
        DeployFailed: E652 the cluster does not answer.
    """
    if image.digest is None:
        tell(f"without `image: registry:`, the nodes must have the image {image.name} already; that is not checked")
        return
    repository = image.name.rpartition(":")[0]
    secrets = _pull_secrets(cluster, namespace, pod)
    logins, missing, unreadable = _logins(cluster, namespace, secrets, repository)
    answer = Answer("unknown")
    for credentials in (*logins, {}):
        answer = ask(repository, image.digest, credentials)
        if answer.found in {"there", "unknown"}:
            break
    if answer.found == "unknown":
        tell(f"whether the nodes can pull {image.name} is not checked: {answer.reason}")
    if answer.found in {"there", "unknown"}:
        return
    mine = ask(repository, image.digest, None)
    host = repository.partition("/")[0]
    if mine.found == "missing" or (answer.found == "missing" and mine.found != "there"):
        yield _refused(
            f"the registry has no image {repository}@{image.digest}",
            answer.reason if answer.found == "missing" else mine.reason,
            "somebody has removed it, or the registry does so after a time: `mlo apply` with the spec of that revision pushes it"
            f" again, or `docker push {image.name}` does where it was built",
        )
    elif missing:
        yield Diagnostic(
            "E663",
            f"the namespace `{namespace}` has no Secret {' and no Secret '.join(f'`{each}`' for each in missing)}",
            cause=f"it is a pull secret of the pods, and {host} gives the image to none without a login: {answer.reason}",
            remedy=f"make it with `kubectl create secret docker-registry {missing[0]} --docker-server={host} -n {namespace}"
            " --docker-username=USER --docker-password=PASSWORD`",
            at=("deploy", "pod", "pull_secrets"),
        )
    elif unreadable or not secrets:
        why = (
            f"this user may not read the Secret {unreadable[0]}"
            if unreadable
            else "there is no `deploy: pod: pull_secrets:`"
        )
        tell(
            f"{host} wants a login for {image.name}, and {why}: the nodes must have one of their own, which is not checked"
        )
    else:
        tried = "the login in them is refused" if logins else f"none of them has a login for {host}"
        yield _refused(
            f"the pull secrets of the pods ({', '.join(secrets)}) do not lead to {image.name}",
            f"{tried}: {answer.reason}",
            f"make one again with `kubectl create secret docker-registry NAME --docker-server={host} -n {namespace}"
            " --docker-username=USER --docker-password=PASSWORD`, and name it in `deploy: pod: pull_secrets:`",
        )


def _refused(message: str, cause: str, remedy: str) -> Diagnostic:
    return Diagnostic("E656", message, cause=cause, remedy=remedy, at=("image", "registry"))


def _pull_secrets(cluster: Cluster, namespace: str, pod: Mapping[str, Any]) -> list[str]:
    """The pod's own, else those of the service account that is there."""
    own = [str(each["name"]) for each in pod.get("imagePullSecrets") or ()]
    if own:  # the cluster adds those of the account only where a pod has none
        return own
    account = str(pod.get("serviceAccountName") or "default")
    try:
        found = cluster.find(namespaced("v1", namespace, "serviceaccounts", account)) or {}
    except Refused:
        return []
    return [str(each["name"]) for each in found.get("imagePullSecrets") or ()]


def _logins(
    cluster: Cluster, namespace: str, secrets: list[str], repository: str
) -> tuple[list[Mapping[str, str]], list[str], list[str]]:
    """The credentials for a repository; the names of secrets that are not there; those of secrets that may not be read."""
    found: list[Mapping[str, str]] = []
    missing: list[str] = []
    unreadable: list[str] = []
    for name in secrets:
        try:
            secret = cluster.find(namespaced("v1", namespace, "secrets", name))
        except Refused:
            unreadable.append(name)
            continue
        if secret is None:
            missing.append(name)
        else:
            found += [login for place, login in _of_secret(secret).items() if _leads_to(place, repository)]
    return found, missing, unreadable


def _of_secret(secret: Json) -> Logins:
    """What a Secret of the types `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg` has; empty if it is damaged."""
    data = secret.get("data") or {}
    try:
        if ".dockerconfigjson" in data:
            entries = json.loads(base64.b64decode(data[".dockerconfigjson"])).get("auths") or {}
        else:
            entries = json.loads(base64.b64decode(data.get(".dockercfg", "e30=")))
        return {str(place): _login(entry) for place, entry in entries.items()}
    except (ValueError, binascii.Error, AttributeError, TypeError):
        return {}


def _login(entry: Mapping[str, str]) -> Mapping[str, str]:
    if entry.get("username"):
        return {"username": entry["username"], "password": entry.get("password", "")}
    user, _, password = base64.b64decode(entry.get("auth", "")).decode("utf-8").partition(":")
    return {"username": user, "password": password}


def _leads_to(place: str, repository: str) -> bool:
    """Whether the entry of a pull secret is for a repository: hosts may have `*`, and a path must be how that of the image begins."""
    host, _, path = place.partition("://")[2].partition("/") if "://" in place else place.partition("/")
    of_image, _, rest = repository.partition("/")
    path = path.strip("/")
    if path in {"v1", "v2"}:  # of the API, as Docker writes them
        path = ""
    if host == _HUB_OF_LOGINS:
        host = _HUB
    return fnmatchcase(of_image, host) and (not path or rest == path or rest.startswith(f"{path}/"))
