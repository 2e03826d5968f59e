"""The logs of a release's pods: the last lines, then new ones, also of pods that come later."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed, MloError
from orchestrator.targets.kubernetes.connection import Cluster, Refused
from orchestrator.targets.kubernetes.objects import instance, namespaced

__all__ = ["log_lines"]

_EVERY = 2.0
"""Seconds between looks for new pods while following."""


def log_lines(
    cluster: Cluster, namespace: str, name: str, lines: int, *, follow: bool, container: str = "server"
) -> Iterator[str]:
    """The last lines of each pod, with the pod's name before each if there are several.

    Args:
        cluster: where they are.
        namespace: of the release.
        name: of the release.
        lines: of each pod.
        follow: whether to go on with new lines, without end.
        container: the server's name in its pods.

    Raises:
        DeployFailed: E615 there is no pod.
    """
    pods = _pods(cluster, namespace, name)
    if not pods:
        raise DeployFailed(
            Diagnostic(
                "E615",
                f"{name} has no log",
                cause=f"the namespace `{namespace}` has no pod of it",
                remedy=f"run `mlo status {name}`, and `mlo apply` with its spec",
            )
        )
    if follow:
        yield from _followed(cluster, namespace, name, lines, container)
        return
    for pod in pods:
        prefix = f"{pod}: " if len(pods) > 1 else ""
        path = namespaced("v1", namespace, "pods", pod) + "/log"
        try:
            text = cluster.raw("GET", path, query={"container": container, "tailLines": lines})
        except Refused as refused:
            yield f"{prefix}({refused.message})"
            continue
        for line in text.decode("utf-8", "replace").splitlines():
            yield prefix + line


def _followed(cluster: Cluster, namespace: str, name: str, lines: int, container: str) -> Iterator[str]:
    """One thread for each pod; a pod that ends is left, and one that comes is joined."""
    arrived: queue.Queue[str | MloError] = queue.Queue()
    known: dict[str, threading.Thread] = {}
    begun: set[str] = set()
    while True:
        for pod, ends in _pods(cluster, namespace, name).items():
            # Once the container of a pod that ends is removed, each look at its log only tells that it is gone.
            if pod not in known or not (ends or known[pod].is_alive()):
                since = 0 if pod in begun else lines  # of one that had not started yet, nothing has been shown
                known[pod] = threading.Thread(
                    target=_follow,
                    args=(cluster, namespace, pod, container, since, arrived, begun),
                    name=f"log of {pod}",
                    daemon=True,
                )
                known[pod].start()
        until = time.monotonic() + _EVERY  # also while lines arrive without end
        while (left := until - time.monotonic()) > 0:
            try:
                line = arrived.get(timeout=left)
            except queue.Empty:
                break
            if isinstance(line, MloError):
                raise line
            yield line


def _follow(
    cluster: Cluster,
    namespace: str,
    pod: str,
    container: str,
    lines: int,
    arrived: queue.Queue[str | MloError],
    begun: set[str],
) -> None:
    path = namespaced("v1", namespace, "pods", pod) + "/log"
    try:
        for line in Cluster(cluster.context).stream(path, container=container, tailLines=lines, follow="true"):
            begun.add(pod)
            arrived.put(f"{pod}: {line.decode('utf-8', 'replace')}")
    except Refused:  # not started yet, or gone: looked for again
        return
    except MloError as error:
        arrived.put(error)


def _pods(cluster: Cluster, namespace: str, name: str) -> dict[str, bool]:
    """The release's pods, oldest first, each with whether it ends and so does not start its container again."""
    found = cluster.get(namespaced("v1", namespace, "pods"), labelSelector=instance(name))["items"]
    found.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp")))
    return {
        str(pod["metadata"]["name"]): "deletionTimestamp" in pod["metadata"]
        or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
        for pod in found
    }
