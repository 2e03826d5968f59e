"""What a spec sets of pods, service and ingress becomes values of the chart."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import ValidationError

from orchestrator.targets.chart_values import cluster_values
from orchestrator.targets.cluster_settings import ClusterDeploy


class Cluster(ClusterDeploy):
    """A target's section without keys of its own."""

    target: Literal["cluster"] = "cluster"


def values(**keys: Any) -> dict[str, Any]:
    return cluster_values(Cluster.model_validate(keys))


def test_a_spec_without_these_keys_sets_no_values() -> None:
    assert values() == {}


def test_keys_of_pods_become_values() -> None:
    assert values(
        pod={
            "labels": {"azure.workload.identity/use": "true"},
            "service_account": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/models"}},
            "pull_secrets": ["registry"],
            "requests": {"cpus": "250m", "memory": "512Mi"},
            "affinity": {"podAntiAffinity": {}},
            "egress": [{"ports": [{"port": 4318}]}],
        }
    ) == {
        "podLabels": {"azure.workload.identity/use": "true"},
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/models"}},
        "image": {"pullSecrets": ["registry"]},
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}},
        "affinity": {"podAntiAffinity": {}},
        "networkPolicy": {"egress": [{"ports": [{"port": 4318}]}]},
    }


def test_the_controller_of_an_ingress_may_send_requests_besides_those_who_may_anyway() -> None:
    found = values(ingress={"hosts": ["digits.example.com"], "class_name": "nginx", "from_namespace": "edge"})
    assert found["ingress"] == {
        "enabled": True,
        "path": "/",
        "hosts": ["digits.example.com"],
        "className": "nginx",
    }
    assert found["networkPolicy"]["requestsFrom"] == [
        {"podSelector": {}},
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "edge"}}},
    ]


def test_with_a_gateway_the_ingress_is_an_http_route() -> None:
    gateway = {"name": "public", "namespace": "edge", "listener": "https"}
    found = values(ingress={"hosts": ["digits.example.com"], "gateway": gateway})
    assert found == {
        "httpRoute": {
            "enabled": True,
            "path": "/",
            "hostnames": ["digits.example.com"],
            "parentRefs": [{"name": "public", "namespace": "edge", "sectionName": "https"}],
        }
    }


def test_an_empty_list_of_who_may_ask_and_of_spread_is_not_the_default() -> None:
    assert values(service={"requests_from": []})["networkPolicy"] == {"requestsFrom": []}
    assert values(pod={"topology_spread": []}) == {"topologySpreadConstraints": []}


def test_raw_values_take_precedence_key_by_key() -> None:
    found = values(
        pod={"node_selector": {"pool": "models"}, "requests": {"cpus": 1}},
        values={"nodeSelector": {"disk": "ssd"}, "resources": {"requests": {"cpu": "2"}}, "tolerations": []},
    )
    assert found == {
        "nodeSelector": {"pool": "models", "disk": "ssd"},
        "resources": {"requests": {"cpu": "2"}},
        "tolerations": [],
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"pod": {"nodeSelector": {}}},
        {"pod": {"labels": {"a b": "c"}}},
        {"pod": {"host_network": True}},
        {"service": {"type": "ExternalName"}},
        {"service": {"port": 0}},
        {"ingress": {}},
        {"ingress": {"hosts": ["Digits.example.com"]}},
        {"ingress": {"hosts": ["digits.example.com"], "path": "digits"}},
        {"values": []},
    ],
)
def test_what_is_wrong_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Cluster.model_validate(wrong)
