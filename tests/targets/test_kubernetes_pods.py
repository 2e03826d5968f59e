"""What pods are doing, in sentences, from what a real cluster says of them."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.targets.kubernetes.pods import pod_state, refusal

SCHEDULED = {"type": "PodScheduled", "status": "True"}
UNSCHEDULABLE = "0/1 nodes are available: 1 Insufficient cpu."


def pod(*containers: dict[str, Any], **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "digits-1"},
        "spec": {"containers": [{"name": "server", "resources": {"limits": {"memory": "64Mi"}}}]},
        "status": {"phase": "Pending", "conditions": [SCHEDULED], "containerStatuses": list(containers), **status},
    }


def container(state: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "server", "image": "digits:1", "ready": False, "restartCount": 0, "state": state, **more}


def event(reason: str, message: str, at: str = "2026-01-01T00:00:00Z") -> dict[str, Any]:
    return {"reason": reason, "message": message, "lastTimestamp": at}


@pytest.mark.parametrize(
    ("why", "remedy"),
    [
        (UNSCHEDULABLE, "hardware: {cpus, memory}"),
        ("0/3 nodes are available: 3 node(s) had taint {gpu: true}, that the pod didn't tolerate.", "tolerations:"),
        ("0/1 nodes are available: 1 node(s) didn't match node selector.", "node_selector:"),
        ("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.", "node_selector:"),
        ('persistentvolumeclaim "data" not found; volume binding', "PersistentVolumeClaims"),
    ],
)
def test_a_pod_without_a_node_says_what_the_scheduler_says_and_what_to_do(why: str, remedy: str) -> None:
    state = pod_state(pod(conditions=[{"type": "PodScheduled", "status": "False", "message": why}]))
    assert state.problem is not None
    assert state.problem.kind == "node"
    assert why.rstrip(".") in state.problem.cause
    assert remedy in state.problem.remedy
    assert state.doing == f"waits for a node: {why.rstrip('.')}"


@pytest.mark.parametrize(
    ("image", "why", "remedy"),
    [
        ("digits:1", "pull access denied for digits", "pull_secrets:"),
        ("digits:1", "manifest unknown", "image: registry:"),
        ("registry.example.com/digits@sha256:00", "i/o timeout", "reach the registry"),
        ("localhost:5000/digits:1", "connection refused", "reach the registry"),
    ],
)
def test_an_image_that_cannot_be_pulled_says_why(image: str, why: str, remedy: str) -> None:
    waiting = {"waiting": {"reason": "ErrImagePull", "message": why}}
    state = pod_state(pod({**container(waiting), "image": image}))
    assert state.problem is not None
    assert state.problem.cause == f"the image {image} cannot be pulled: {why}"
    assert remedy in state.problem.remedy


def test_while_a_pull_is_delayed_the_event_tells_why_it_failed() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "digits:1"'}}
    state = pod_state(pod(container(waiting)), [event("Failed", "Failed to pull image: no such host")])
    assert state.doing == "cannot pull the image digits:1: Failed to pull image: no such host"


def test_a_crash_is_given_another_try_and_a_second_one_is_a_problem() -> None:
    ended = {"terminated": {"exitCode": 3, "reason": "Error"}}
    once = pod_state(pod(container(ended)))
    assert once.problem is None
    assert once.doing == "the container `server` exited with code 3"
    twice = pod_state(pod(container({"waiting": {"reason": "CrashLoopBackOff"}}, lastState=ended, restartCount=1)))
    assert twice.problem is not None
    assert (twice.problem.kind, twice.problem.container) == ("crash", "server")
    assert "exited with code 3, and again after it was restarted" in twice.problem.cause


@pytest.mark.parametrize("where", ["state", "lastState"])
def test_a_container_out_of_memory_is_named_with_its_limit(where: str) -> None:
    killed = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    status = container({"running": {}}, lastState=killed) if where == "lastState" else container(killed)
    state = pod_state(pod(status))
    assert state.problem is not None
    assert state.problem.kind == "memory"
    assert "limit of 64Mi" in state.problem.cause
    assert "`hardware: memory:`" in state.problem.remedy


def test_a_secret_that_is_missing_is_named() -> None:
    waiting = {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "token" not found'}}
    state = pod_state(pod(container(waiting)))
    assert state.problem is not None
    assert state.problem.kind == "settings"
    assert 'secret "token" not found' in state.problem.cause
    mounting = pod_state(pod(), [event("FailedMount", 'secret "tls" not found')])
    assert mounting.problem is not None
    assert 'secret "tls" not found' in mounting.problem.cause


@pytest.mark.parametrize("at", ["2026-01-01T00:00:05Z", "2026-01-01T00:00:00Z"])
@pytest.mark.parametrize("then", ["Pulling", "Pulled", "Created"])
def test_a_volume_that_was_mounted_at_a_later_try_is_no_problem(then: str, at: str) -> None:
    waiting = container({"waiting": {"reason": "ContainerCreating"}})
    events = [event(then, "x", at), event("FailedMount", 'secret "tls" not found')]
    for told in (events, events[::-1]):
        state = pod_state(pod(waiting), told)
        assert state.problem is None
        assert "cannot" not in state.doing
    again = pod_state(pod(waiting), [*events, event("FailedMount", "gone", "2026-01-01T00:00:09Z")])
    assert again.problem is not None, "a pod whose node has restarted it mounts again"
    assert "gone" in again.problem.cause


def test_a_pod_on_its_way_says_how_far_it_is() -> None:
    creating = {"waiting": {"reason": "ContainerCreating"}}
    assert pod_state(pod(conditions=[])).doing == "waits for a node"
    assert pod_state(pod(container(creating)), [event("Pulling", "x")]).doing == "pulls the image"
    assert pod_state(pod(container(creating))).doing == "is set up on its node"
    starting = container({"running": {}}, started=False)
    probe = event("Unhealthy", "Startup probe failed: connection refused")
    told = pod_state(pod(starting), [probe]).doing
    assert told == "starts the server and loads the model: Startup probe failed: connection refused"
    running = container({"running": {}}, started=True)
    assert pod_state(pod(running)).doing == "runs, but is not ready"
    ready = pod(container({"running": {}}, ready=True), conditions=[SCHEDULED, {"type": "Ready", "status": "True"}])
    assert pod_state(ready).ready


def test_a_pod_that_was_deleted_or_evicted_says_so() -> None:
    leaving = pod()
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert pod_state(leaving).ending
    evicted = pod_state(pod(phase="Failed", reason="Evicted", message="The node was low on memory"))
    assert evicted.problem is not None
    assert "Evicted: The node was low on memory" in evicted.problem.cause


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ('pods "a" is forbidden: exceeded quota: team, requested: pods=1, used: pods=4', "kubectl describe quota"),
        ('pods "a" is forbidden: violates PodSecurity "restricted:latest"', "rules for pods"),
        ("something else", "kubectl describe replicaset"),
    ],
)
def test_a_pod_that_the_cluster_does_not_make_is_explained(message: str, remedy: str) -> None:
    condition = {"type": "ReplicaFailure", "status": "True", "message": message}
    problem = refusal({"status": {"conditions": [condition]}})
    assert problem is not None
    assert message in problem.cause
    assert remedy in problem.remedy
    assert refusal({"status": {}}) is None
