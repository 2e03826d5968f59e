"""What a pod is doing and why it waits, in sentences; pure functions of the cluster's own objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["PodState", "Problem", "pod_state", "refusal"]

Json = Mapping[str, Any]
Kind = Literal["image", "node", "refused", "settings", "crash", "memory"]

_IMAGE = {
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
}
_NO_VOLUME = {"FailedMount", "FailedAttachVolume"}
_PAST_VOLUMES = {"Pulling", "Pulled", "Created"}
"""Events of containers, which come after all volumes of their pod are mounted."""
_SETTINGS = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError"}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a pod does not come up.

    Attributes:
        kind: decides for how long it may last, and the error's code.
        cause: in one clause, with the cluster's own words.
        remedy: what to do.
        container: whose log tells more; empty if none does.
    """

    kind: Kind
    cause: str
    remedy: str
    container: str = ""


@dataclass(frozen=True, slots=True)
class PodState:
    """One pod.

    Attributes:
        name: the pod's.
        doing: what it is doing, in one clause: "pulls the image".
        ready: whether it gets requests.
        problem: None while it is on its way.
        ending: whether it was deleted, and only finishes.
    """

    name: str
    doing: str
    ready: bool
    problem: Problem | None = None
    ending: bool = False


def pod_state(pod: Json, events: Iterable[Json] = ()) -> PodState:
    """What a pod is doing.

    Args:
        pod: the object.
        events: of that pod, in any order.
    """
    name = pod["metadata"]["name"]
    status = pod.get("status", {})
    told = sorted(events, key=_order)
    if pod["metadata"].get("deletionTimestamp"):
        return PodState(name, "ends", ready=False, ending=True)
    if status.get("phase") == "Failed":
        return _failed(name, pod, status)
    scheduled = _condition(status, "PodScheduled")
    if scheduled is not None and scheduled.get("status") == "False":
        why = str(scheduled.get("message") or scheduled.get("reason") or "it says no reason").rstrip(".")
        return PodState(name, f"waits for a node: {why}", ready=False, problem=_unschedulable(why))
    if scheduled is None:
        return PodState(name, "waits for a node", ready=False)
    for container in _containers(status):
        found = _container_state(name, pod, container, told)
        if found is not None:
            return found
    if not status.get("containerStatuses"):
        return PodState(name, _preparing(told), ready=False, problem=_mounting(told))
    ready = _condition(status, "Ready")
    if ready is not None and ready.get("status") == "True":
        return PodState(name, "is ready", ready=True)
    return PodState(name, "waits until it is ready", ready=False)


def refusal(deployment: Json) -> Problem | None:
    """Why the cluster does not even make a Deployment's pods: a quota, or a rule of the platform; None if it makes them."""
    failure = _condition(deployment.get("status", {}), "ReplicaFailure")
    if failure is None or failure.get("status") != "True":
        return None
    why = str(failure.get("message") or failure.get("reason")).rstrip(".")
    if "exceeded quota" in why:
        remedy = "free some of the namespace's quota (`kubectl describe quota`), have it raised, or lower `hardware:` in the spec"
    elif "PodSecurity" in why or "violates" in why or "admission webhook" in why:
        remedy = "ask whoever sets the cluster's rules for pods which exception it needs; the message names the rule"
    else:
        remedy = "the cluster's message names what refuses it; `kubectl describe replicaset` shows the same"
    return Problem("refused", f"the cluster makes no pod: {why}", remedy)


def _container_state(name: str, pod: Json, container: Json, events: list[Json]) -> PodState | None:
    """What a container keeps its pod from being ready with; None if it does not."""
    own = container["name"]
    state, last = container.get("state", {}), container.get("lastState", {})
    restarts = int(container.get("restartCount", 0))
    waiting, ended = state.get("waiting"), state.get("terminated")
    before = last.get("terminated")
    if (killed := _out_of_memory(ended) or _out_of_memory(before)) and not container.get("ready"):
        limit = _limit(pod, own)
        problem = Problem(
            "memory",
            f"the container `{own}` needs more memory than its limit of {limit}, and the kernel ended it (OOMKilled)",
            "raise `hardware: memory:` in the spec, and apply it again",
            own,
        )
        return PodState(name, f"ran out of memory (limit {limit}), {killed}", ready=False, problem=problem)
    if waiting is not None:
        reason, message = str(waiting.get("reason") or ""), " ".join(str(waiting.get("message") or "").split())
        if reason in _IMAGE:
            why = _pull_error(message, events)
            doing = f"cannot pull the image {container.get('image', '')}: {why}"
            return PodState(name, doing, ready=False, problem=_no_image(container.get("image", ""), why))
        if reason in _SETTINGS:
            problem = Problem(
                "settings",
                f"the container `{own}` cannot be started: {message or reason}",
                "correct what the message names: a Secret, a ConfigMap or a volume of `deploy: pod:` that the namespace lacks, or a"
                " command",
            )
            return PodState(
                name, f"cannot start the container `{own}`: {message or reason}", ready=False, problem=problem
            )
        if reason == "CrashLoopBackOff" or restarts:
            return _crashed(name, own, before, restarts)
        return PodState(name, _preparing(events), ready=False, problem=_mounting(events))
    if ended is not None and int(ended.get("exitCode", 0)) != 0:
        return _crashed(name, own, ended, restarts)
    if ended is None and not container.get("ready"):
        unhealthy = _latest(events, "Unhealthy")
        text = f": {unhealthy}" if unhealthy else ""
        if container.get("started") is False:
            return PodState(name, f"starts the server and loads the model{text}", ready=False)
        return PodState(name, f"runs, but is not ready{text}", ready=False)
    return None


def _crashed(name: str, container: str, ended: Json | None, restarts: int) -> PodState:
    how = _exit(ended)
    doing = f"the container `{container}` {how}" + (f", restarted {restarts} times" if restarts > 1 else "")
    if restarts < 1:  # it is started again at once, and may have met something that passes
        return PodState(name, doing, ready=False)
    problem = Problem(
        "crash",
        f"the container `{container}` {how}, and again after it was restarted",
        "read its log above; the image runs the same way with `docker run`",
        container,
    )
    return PodState(name, doing, ready=False, problem=problem)


def _failed(name: str, pod: Json, status: Json) -> PodState:
    why = ": ".join(filter(None, (status.get("reason"), status.get("message")))) or "its containers ended"
    del pod
    return PodState(
        name,
        f"was ended by its node: {why}",
        ready=False,
        problem=Problem("refused", f"its node ended the pod: {why}", "free that resource on the nodes, or add nodes"),
    )


def _unschedulable(why: str) -> Problem:
    if "Insufficient" in why:
        remedy = "add a node or free one; or ask for less with `hardware: {cpus, memory}` in the spec"
    elif "taint" in why:
        remedy = "set `deploy: pod: tolerations:` for the nodes that it should run on"
    elif "node selector" in why or "affinity" in why:
        remedy = "correct `deploy: pod: node_selector:` or `affinity:`; `kubectl get nodes --show-labels` shows what there is"
    elif "volume" in why:
        remedy = "check the PersistentVolumeClaims of `deploy: pod: volumes:`"
    else:
        remedy = "`kubectl describe pod` shows what the scheduler has tried"
    return Problem("node", f"no node takes the pod: {why}", remedy)


def _no_image(image: str, why: str) -> Problem:
    if "denied" in why or "unauthorized" in why.lower() or "authentication" in why.lower():
        remedy = "name a pull secret in `deploy: pod: pull_secrets:`, or let the nodes read the registry"
    elif not _names_registry(image):
        remedy = "the image is in no registry that the nodes can reach: set `image: registry:` in the spec, so that it is pushed"
    else:
        remedy = "check that the nodes reach the registry, and that the image is still in it"
    return Problem("image", f"the image {image} cannot be pulled: {why}", remedy)


def _names_registry(image: str) -> bool:
    """Whether its first part is a host, by Docker's own rule: it has a dot or a port."""
    host, slash, _ = image.partition("/")
    return bool(slash) and ("." in host or ":" in host)


def _pull_error(message: str, events: list[Json]) -> str:
    """Why the pull failed: the event tells it, where the state only says that the next try is delayed."""
    if message and not message.startswith("Back-off"):
        return message
    failed = [event for event in events if event.get("reason") == "Failed" and "pull" in str(event.get("message"))]
    return " ".join(str(failed[-1]["message"]).split()) if failed else message or "the node says no reason"


def _order(event: Json) -> tuple[str, bool]:
    """By time, which has whole seconds; in the same second, the one that comes later in the life of a pod."""
    return str(event.get("lastTimestamp") or event.get("eventTime") or ""), event.get("reason") in _PAST_VOLUMES


def _mounting(events: list[Json]) -> Problem | None:
    """A volume that cannot be mounted, unless the node has tried again and come further."""
    told = [event for event in events if event.get("reason") in _NO_VOLUME | _PAST_VOLUMES]
    if not told or told[-1]["reason"] in _PAST_VOLUMES:
        return None
    return Problem(
        "settings",
        f"a volume cannot be mounted: {_latest(told, told[-1]['reason'])}",
        "create the Secret, the ConfigMap or the volume that the message names in the namespace",
    )


def _preparing(events: list[Json]) -> str:
    for event in reversed(events):
        reason = event.get("reason")
        if reason == "Pulling":
            return "pulls the image"
        if reason in _NO_VOLUME or reason == "FailedCreatePodSandBox":
            return " ".join(f"cannot be set up: {event.get('message')}".split())
        if reason in {"Pulled", "Created"}:
            break
    return "is set up on its node"


def _exit(ended: Json | None) -> str:
    if ended is None:
        return "ended"
    code, sent = int(ended.get("exitCode", 0)), ended.get("signal")
    return f"was ended by signal {sent}" if sent else f"exited with code {code}"


def _out_of_memory(ended: Json | None) -> str:
    return _exit(ended) if ended is not None and ended.get("reason") == "OOMKilled" else ""


def _limit(pod: Json, container: str) -> str:
    spec = pod.get("spec", {})
    for each in (*spec.get("initContainers", ()), *spec.get("containers", ())):
        if each.get("name") == container:
            return str(each.get("resources", {}).get("limits", {}).get("memory", "its node"))
    return "its node"


def _latest(events: list[Json], reason: str) -> str:
    messages = [str(event.get("message") or "") for event in events if event.get("reason") == reason]
    return " ".join(messages[-1].split()) if messages else ""


def _containers(status: Json) -> Iterator[Json]:
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def _condition(status: Json, kind: str) -> Json | None:
    return next((each for each in status.get("conditions") or () if each.get("type") == kind), None)
