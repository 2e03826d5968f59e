"""Watches the pods of a rollout: what each is doing, as progress, and why it is given up, as an error."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.kubernetes.connection import Cluster, Json, Refused
from orchestrator.targets.kubernetes.kserve import container_name, not_ready
from orchestrator.targets.kubernetes.objects import REVISION, instance, namespaced
from orchestrator.targets.kubernetes.pods import PodState, Problem, pod_state, refusal

__all__ = ["Rollout", "log_tail", "pod_states"]

_CODES = {"image": "E656", "node": "E657", "refused": "E657", "crash": "E658", "memory": "E659", "settings": "E663"}
_PATIENCE = {"image": 25.0, "refused": 25.0, "settings": 25.0, "crash": 0.0, "memory": 0.0}
"""Seconds that a problem may last: some pass, such as a registry that is busy. What is missing here may last as long as the
spec waits: a node may be on its way."""
_EVERY = 1.0
_UNSEEN = 30.0
"""Seconds for which looks may fail: whether the rollout succeeds is not decided by them."""
_LOG_LINES = 12


class Rollout:
    """One revision's pods on their way.

    Args:
        cluster: where they are.
        namespace: of the release.
        release: Helm's name of it.
        revision: mlo's number of the revision; pods of others are not looked at.
        wait: seconds that a pod may take to get a node and its image.
        progress: is called with what the pods are doing.
        selector: of the labels of its pods, if they are not those of the release.
        runs: the name of the Deployment, if KServe makes it.
        each: seconds within which one more pod must become ready.
    """

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        release: str,
        revision: int,
        wait: float,
        progress: Callable[[str], None],
        selector: str = "",
        runs: str = "",
        each: float = math.inf,
    ) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._release = release
        self._selector = selector or instance(release)
        self._runs = runs or release
        self._container = container_name(kserve=self._runs != release)
        self._revision = revision
        self._wait = wait
        self._progress = progress
        self._looked = 0.0
        self._unseen = 0.0
        self._told = ""
        self._since: dict[tuple[str, str], float] = {}
        self._last: list[PodState] = []
        self._unready = ""
        self._each = each
        self._ready = 0
        self._advanced = time.monotonic()

    def look(self) -> None:
        """Look at the pods, at most once a second, and tell what they are doing.

        Raises:
            DeployFailed: E656 the image cannot be pulled, E657 no node takes the pod or the cluster refuses it, E658 it
                crashes, E659 it runs out of memory, E660 none becomes ready any more, E663 something that it needs is missing; E652
                the cluster has not answered for 30 s.
            Refused: it has refused to for as long.
        """
        now = time.monotonic()
        if now - self._looked < _EVERY:
            return
        self._looked = now
        try:
            path = namespaced("apps/v1", self._namespace, "deployments", self._runs)
            deployment = self._cluster.find(path) or {}
            self._unready = (
                not_ready(self._cluster, self._namespace, self._release) if self._runs != self._release else ""
            )
            self._last = pod_states(self._cluster, self._namespace, self._selector, self._revision)
        except (Refused, DeployFailed):
            self._unseen = self._unseen or now
            if now - self._unseen >= _UNSEEN:
                raise
            return
        self._unseen = 0.0
        problems = [(state.name, state.problem) for state in self._last if state.problem is not None]
        if (refused := refusal(deployment)) is not None and not self._last:
            problems.append(("", refused))
        told = self.text() or (refused.cause if refused is not None else "")
        if told and told != self._told:
            self._told = told
            self._progress(told)
        seen = {(pod, problem.kind) for pod, problem in problems}
        self._since = {each: self._since.get(each, now) for each in seen}
        ready = sum(state.ready for state in self._last)
        if ready != self._ready:
            self._ready, self._advanced = ready, now
        if now - self._advanced > self._each:
            raise self.late(self._each, "no further pod has become ready")
        for pod, problem in problems:
            if now - self._since[pod, problem.kind] >= min(_PATIENCE.get(problem.kind, self._wait), self._wait):
                raise self._failed(pod, problem)

    def text(self) -> str:
        """What the pods were doing when they were last looked at, in one line."""
        waiting = [state for state in self._last if not state.ready and not state.ending]
        if not waiting and self._unready:
            return self._unready
        if not waiting:
            return f"{len(self._last)} of its pods are ready" if len(self._last) > 1 else ""
        return "; ".join(f"pod {state.name} {state.doing}" for state in waiting)

    def late(self, seconds: float, said: str) -> DeployFailed:
        """The error for pods that are not ready in time.

        Args:
            seconds: that were waited.
            said: what Helm said.
        """
        for state in self._last:
            if state.problem is not None:
                return self._failed(state.name, state.problem)
        why = self.text() or said
        tail = "".join(
            _quoted(log_tail(self._cluster, self._namespace, state.name, self._container))
            for state in self._last
            if not state.ready
        )
        return DeployFailed(
            Diagnostic(
                "E660",
                f"revision {self._revision} was not ready within {seconds:.0f} s",
                cause=why + tail,
                remedy="if it only needs longer, raise `deploy: wait:`; otherwise see its log and `kubectl describe pod`",
                notes=(f"Helm: {said}",) if said != why else (),
            )
        )

    def _failed(self, pod: str, problem: Problem) -> DeployFailed:
        tail = _quoted(log_tail(self._cluster, self._namespace, pod, problem.container)) if problem.container else ""
        return DeployFailed(
            Diagnostic(
                _CODES[problem.kind],
                f"revision {self._revision} did not come up",
                cause=(f"pod {pod}: " if pod else "") + problem.cause + tail,
                remedy=problem.remedy,
            )
        )


def pod_states(cluster: Cluster, namespace: str, selector: str, revision: int | None = None) -> list[PodState]:
    """What the pods of a release are doing, the oldest first.

    Args:
        cluster: where they are.
        namespace: of the release.
        selector: of their labels.
        revision: only its pods; None for all.
    """
    pods = cluster.get(namespaced("v1", namespace, "pods"), labelSelector=selector)["items"]
    if revision is not None:
        pods = [pod for pod in pods if pod["metadata"].get("annotations", {}).get(REVISION) == str(revision)]
    pods.sort(key=lambda pod: (str(pod["metadata"].get("creationTimestamp")), str(pod["metadata"]["name"])))
    return [pod_state(pod, () if _is_ready(pod) else _events(cluster, namespace, pod)) for pod in pods]


def log_tail(cluster: Cluster, namespace: str, pod: str, container: str = "server") -> list[str]:
    """The last lines of a container's log; of its former run where the present one has none."""
    path = namespaced("v1", namespace, "pods", pod) + "/log"
    for former in ("false", "true"):
        try:
            text = cluster.raw(
                "GET", path, query={"tailLines": _LOG_LINES, "container": container, "previous": former}
            ).decode("utf-8", "replace")
        except Refused:  # the container has not run, or is gone
            continue
        if text.strip():
            return text.rstrip().splitlines()
    return []


def _quoted(lines: Iterable[str]) -> str:
    shown = [f"\n  {line}" for line in lines]
    return "; the last lines of its log:" + "".join(shown) if shown else ""


def _is_ready(pod: Json) -> bool:
    conditions: list[Any] = pod.get("status", {}).get("conditions") or []
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def _events(cluster: Cluster, namespace: str, pod: Json) -> list[Json]:
    """Of one pod; none where this user may not read events."""
    try:
        found = cluster.get(
            namespaced("v1", namespace, "events"), fieldSelector=f"involvedObject.uid={pod['metadata']['uid']}"
        )
    except Refused:
        return []
    items: list[Json] = found["items"]
    return items
