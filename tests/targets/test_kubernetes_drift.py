"""What counts as drift: fields that the release sets, as a real cluster writes them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from orchestrator.targets.kubernetes.drift import compared, differences, missing

DEPLOYED: dict[str, Any] = {
    "kind": "Deployment",
    "metadata": {"name": "digits", "labels": {"team": "vision"}, "annotations": {}},
    "spec": {
        "replicas": 1,
        "template": {
            "spec": {
                "containers": [
                    {
                        "name": "server",
                        "image": "digits:1",
                        "resources": {"limits": {"cpu": "1000m", "memory": "1Gi"}},
                        "command": ["run", "fast"],
                        "env": [{"name": "THREADS", "value": "1"}],
                        "volumeMounts": [
                            {"name": "data", "mountPath": "/a", "subPath": "a"},
                            {"name": "data", "mountPath": "/b", "subPath": "b"},
                        ],
                        "things": [{"name": "twice"}, {"name": "twice", "value": "2"}],
                    }
                ]
            }
        },
    },
}


def live() -> dict[str, Any]:
    """As a cluster has it: other units, defaults, fields of other owners."""
    found = copy.deepcopy(DEPLOYED)
    found["metadata"] |= {"uid": "1", "labels": {"team": "vision", "added": "by-others"}}
    server = found["spec"]["template"]["spec"]["containers"][0]
    server["resources"]["limits"] = {"cpu": "1", "memory": "1024Mi"}
    server["terminationMessagePath"] = "/dev/termination-log"
    server["env"].append({"name": "INJECTED", "value": "mesh"})
    server["volumeMounts"].append({"name": "token", "mountPath": "/var/run/secrets"})
    found["spec"]["template"]["spec"]["containers"].append({"name": "sidecar", "image": "mesh:1"})
    return found


def test_units_defaults_and_what_others_add_are_no_drift() -> None:
    assert list(differences(DEPLOYED, live())) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d["spec"].update(replicas=3), "spec.replicas is 3, was deployed as 1"),
        (lambda d: d["metadata"]["labels"].pop("team"), "metadata.labels.team is gone, was deployed as vision"),
        (
            lambda d: d["spec"]["template"]["spec"]["containers"][0].update(image="digits:2"),
            "spec.template.spec.containers[server].image is digits:2, was deployed as digits:1",
        ),
        (
            lambda d: d["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"].update(memory="2Gi"),
            "spec.template.spec.containers[server].resources.limits.memory is 2Gi, was deployed as 1Gi",
        ),
        (
            lambda d: d["spec"]["template"]["spec"]["containers"][0]["env"].pop(0),
            "spec.template.spec.containers[server].env[THREADS] is gone, was deployed as present",
        ),
        (
            lambda d: d["spec"]["template"]["spec"]["containers"][0]["volumeMounts"][0].update(subPath="c"),
            "spec.template.spec.containers[server].volumeMounts[/a].subPath is c, was deployed as a",
        ),
        (
            lambda d: d["spec"]["template"]["spec"]["containers"][0]["things"][1].update(value="3"),
            "spec.template.spec.containers[server].things[1].value is 3, was deployed as 2",
        ),
        (
            lambda d: d["spec"]["template"]["spec"]["containers"][0].update(command=["run"]),
            "spec.template.spec.containers[server].command is ['run'], was deployed as ['run', 'fast']",
        ),
    ],
)
def test_a_field_that_the_release_sets_is_told_with_both_values(change: Any, told: str) -> None:
    found = live()
    change(found)
    assert list(differences(DEPLOYED, found)) == [f"Deployment digits: {told}"]


def test_an_object_that_was_deleted_is_told() -> None:
    assert missing(DEPLOYED) == "Deployment digits is gone"


def test_the_number_of_pods_is_no_drift_where_an_autoscaler_sets_it() -> None:
    scaler = {
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "digits"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "digits"}, "maxReplicas": 8},
    }
    found = live()
    found["spec"]["replicas"] = 7
    told = [list(differences(each, found)) for each in compared([DEPLOYED, scaler]) if each["kind"] == "Deployment"]
    assert told == [[]]
    assert compared([scaler]) == (scaler,)
    (alone,) = compared([DEPLOYED])
    assert list(differences(alone, found)) == ["Deployment digits: spec.replicas is 7, was deployed as 1"]
