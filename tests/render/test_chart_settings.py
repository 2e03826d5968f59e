"""What platform teams set of the chart, as Helm makes objects of it, for every version of Kubernetes that the chart supports."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from orchestrator.store.state import Image
from orchestrator.targets.chart_values import cluster_values
from orchestrator.targets.kubernetes.values import alone, chart_values
from orchestrator.targets.target import Release
from tests.targets.test_chart_schema import GOOD
from tests.targets.test_cluster_settings import Cluster
from tests.targets.test_kubernetes import granted, role_of_the_manual

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "mlo-model"
SCHEMAS = ROOT.parent / "shared" / "schemas"
ROUTES = ROOT / "tests" / "targets" / "httproute.schema.json"
GOLDEN = Path(__file__).parent / "golden"
VERSIONS = [f"1.{minor}" for minor in range(25, 38)]

EVERYTHING: dict[str, Any] = {
    "fullnameOverride": "digits",
    "image": {"pullSecrets": ["registry"], "server": {"grpcPort": 8081, "metricsPort": 8082}},
    "model": {"name": "digits", "revision": 7},
    "labels": {"example.com/team": "vision"},
    "annotations": {"example.com/owner": "vision@example.com"},
    "replicas": {"min": 1, "max": 10},
    "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": "", "memory": "1Gi"}},
    "accelerators": {"count": 1},
    "shutdown": {"drainSeconds": 30},
    "traces": {"endpoint": "http://collector.observability:4318"},
    "service": {"type": "LoadBalancer", "annotations": {"example.com/internal": "true"}, "externalTrafficPolicy": "Local"},
    "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/models"}},
    "ingress": {"enabled": True, "className": "nginx", "hosts": ["digits.example.com"], "tlsSecret": "digits-tls"},
    "httpRoute": {"enabled": True, "parentRefs": [{"name": "public", "namespace": "edge"}], "hostnames": ["d.example.com"]},
    "podDisruptionBudget": {"maxUnavailable": "20%"},
    "networkPolicy": {
        "requestsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 443}]}],
    },
    "serviceMonitor": {"labels": {"release": "prometheus"}},
    "podLabels": {"azure.workload.identity/use": "true"},
    "podAnnotations": {"sidecar.istio.io/inject": "true"},
    "podSecurityContext": {"fsGroup": 1000},
    "nodeSelector": {"pool": "models"},
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]}]}]
            }
        },
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"a": "b"}}}}
            ]
        },
    },
    "tolerations": [{"key": "models", "operator": "Exists", "effect": "NoSchedule"}],
    "priorityClassName": "serving",
    "runtimeClassName": "gvisor",
    "topologySpreadConstraints": [{"topologyKey": "zone", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}],
    "env": [
        {"name": "LOG_FORMAT", "value": "json"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "key"}}},
    ],
    "envFrom": [{"secretRef": {"name": "more"}}, {"configMapRef": {"name": "settings"}}],
    "volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}}],
    "volumeMounts": [{"name": "cache", "mountPath": "/cache", "readOnly": True}],
    "initContainers": [{"name": "wait", "image": "busybox:1.36", "command": ["sleep", "1"]}],
    "sidecars": [
        {
            "name": "proxy",
            "image": "envoy:1.30",
            "ports": [{"containerPort": 9901}],
            "securityContext": {"readOnlyRootFilesystem": True, "capabilities": {"add": ["NET_BIND_SERVICE"]}},
        }
    ],
}  # fmt: skip
"""Every kind of setting at the same time."""

EVERY_KIND: dict[str, Any] = {
    **EVERYTHING,
    "slo": {"p99Seconds": 0.02, "alertAbove": 0.02},
    "metrics": {
        "latency": "latency{SELECTOR}[WINDOW]",
        "panels": [{"title": "a", "unit": "s", "queries": [{"expr": "a{SELECTOR}", "legend": "a"}]}],
    },
}
"""The same, with an alert and a dashboard."""

MONITORING = ("--api-versions", "monitoring.coreos.com/v1/ServiceMonitor")

ALERTING = (*MONITORING, "--api-versions", "monitoring.coreos.com/v1/PrometheusRule")

Charted = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def charted(tmp_path: Path, run_tool: Callable[..., str]) -> Charted:
    """`charted({"replicas": ...}, "1.37")`: the documents that Helm makes of the chart with these values."""

    def run(values: dict[str, Any], version: str = "1.37", *more: str, chart: Path = CHART) -> list[dict[str, Any]]:
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        text = run_tool(
            "helm", "template", "prod", str(chart), "--values", str(file), "--kube-version", f"{version}.0", *more
        )
        return [document for document in yaml.safe_load_all(text) if document]

    return run


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (document,) = (each for each in documents if each["kind"] == kind)
    return document


def pod_of(documents: list[dict[str, Any]]) -> dict[str, Any]:
    pod: dict[str, Any] = one(documents, "Deployment")["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("version", VERSIONS)
def test_every_setting_fits_every_version_of_kubernetes(charted: Charted, version: str) -> None:
    documents = charted(EVERYTHING, version)
    kinds = {each["kind"] for each in documents}
    assert {"Deployment", "Service", "ServiceAccount", "Ingress", "HTTPRoute", "NetworkPolicy", "Pod"} <= kinds
    assert {"HorizontalPodAutoscaler", "PodDisruptionBudget"} <= kinds
    for document in documents:
        if document["kind"] != "HTTPRoute":
            kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("HTTPRoute", ROUTES),
        ("ServiceMonitor", SCHEMAS / "monitoring.coreos.com_servicemonitor_v1.json"),
    ],
)
@pytest.mark.parametrize("values", [EVERYTHING, {}], ids=["everything", "defaults"])
def test_resources_of_others_fit_their_own_schemas(
    charted: Charted, kind: str, file: Path, values: dict[str, Any]
) -> None:
    if not file.is_file():
        pytest.skip(f"the schema of {kind} is not in ../shared/schemas")
    least = {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}}
    document = one(charted({**least, **values}, "1.37", *MONITORING), kind)
    schema = json.loads(file.read_text())
    jsonschema.validate(document, schema, jsonschema.validators.validator_for(schema))


@pytest.mark.parametrize(
    ("name", "values", "version", "more"),
    [
        ("defaults-1.20", {}, "1.20", ()),
        ("everything-1.37", EVERYTHING, "1.37", MONITORING),
    ],
)
def test_the_objects_are_the_known_ones(
    charted: Charted, name: str, values: dict[str, Any], version: str, more: tuple[str, ...]
) -> None:
    """A golden file shows in a review what a change of the chart does; `UPDATE_GOLDEN=1` writes it anew."""
    file = GOLDEN / f"{name}.yaml"
    documents = charted(values, version, *more)
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(yaml.safe_dump_all(documents, sort_keys=False, width=120))
    assert documents == list(yaml.safe_load_all(file.read_text())), "if this is meant, run with UPDATE_GOLDEN=1"


def test_the_pod_of_helm_test_runs_where_the_server_runs_and_may_ask_it(charted: Charted) -> None:
    documents = charted(EVERYTHING)
    test, server = one(documents, "Pod"), pod_of(documents)
    shared = ("serviceAccountName", "nodeSelector", "tolerations", "priorityClassName", "runtimeClassName",
              "imagePullSecrets", "securityContext")  # fmt: skip
    assert {key: test["spec"][key] for key in shared} == {key: server[key] for key in shared}
    assert test["spec"]["affinity"] == {"nodeAffinity": server["affinity"]["nodeAffinity"]}
    labels = test["metadata"]["labels"]
    assert (labels["example.com/team"], labels["azure.workload.identity/use"]) == ("vision", "true")
    assert "cpu" in test["spec"]["containers"][0]["resources"]["limits"]
    asking = one(documents, "NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert any(
        labels.items() >= peer["podSelector"]["matchLabels"].items() for peer in asking if "podSelector" in peer
    ), "although only an ingress controller may ask otherwise"
    selected = one(documents, "Service")["spec"]["selector"]
    assert not labels.items() >= selected.items(), "no request goes to it"


def test_pods_have_no_user_of_their_own_so_that_openshift_may_assign_one(charted: Charted) -> None:
    documents = charted({"auth": {"tokenFile": "/run/secrets/digits/token", "secret": "digits"}})
    for pod in (pod_of(documents), one(documents, "Pod")["spec"]):
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    tokens = pod_of(documents)["volumes"][1]["secret"]
    assert tokens["defaultMode"] == 0o444, "the files belong to root"


def test_containers_of_the_values_are_restricted_and_keep_what_they_say(charted: Charted) -> None:
    pod = pod_of(charted(EVERYTHING))
    (wait,), (server, proxy) = pod["initContainers"], pod["containers"]
    assert server["name"] == "server", "the first, so that `kubectl logs` shows it"
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert wait["securityContext"] == restricted
    assert proxy["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
    }


@pytest.mark.parametrize(
    ("by_itself", "wanted", "before_the_signal", "grace"),
    [(5, 5, None, 40), (0, 5, 5, 40), (5, 30, 25, 65), (5, 0, None, 40), (0, 0, None, 35)],
)
def test_a_pod_drains_for_as_long_as_it_is_told_whatever_its_server_does_by_itself(
    charted: Charted, by_itself: int, wanted: int, before_the_signal: int | None, grace: int
) -> None:
    pod = pod_of(
        charted(
            {
                "image": {"server": {"drainSeconds": by_itself}},
                "shutdown": {"drainSeconds": wanted, "requestSeconds": 30},
            }
        )
    )
    lifecycle = pod["containers"][0].get("lifecycle")
    assert (lifecycle and lifecycle["preStop"]["sleep"]["seconds"]) == before_the_signal
    assert pod["terminationGracePeriodSeconds"] == grace


@pytest.mark.parametrize(
    ("tag", "label"),
    [
        ("_x", "x"),
        ("v1.2.", "v1.2"),
        ("a" * 62 + "-b", "a" * 62),
        ("-".join(["abcdefg"] * 9), "-".join(["abcdefg"] * 8)[:63]),
        ("___", None),
        ("3f2a", "3f2a"),
    ],
)
def test_a_tag_that_is_no_label_becomes_one(charted: Charted, tag: str, label: str | None) -> None:
    documents = charted({"image": {"tag": tag}})
    found = one(documents, "Deployment")["metadata"]["labels"].get("app.kubernetes.io/version")
    assert found is None or re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", found)
    assert found == label
    assert pod_of(documents)["containers"][0]["image"] == f"model:{tag}"


@pytest.mark.parametrize(
    ("replicas", "there"), [({"min": 1, "max": 10}, True), ({"min": 2, "max": 2}, True), ({"min": 1, "max": 1}, False)]
)
def test_a_disruption_budget_comes_where_there_can_be_several_replicas(
    charted: Charted, replicas: dict[str, int], there: bool
) -> None:
    assert ("PodDisruptionBudget" in {each["kind"] for each in charted({"replicas": replicas})}) is there


def test_egress_is_opened_by_what_needs_it_and_by_nothing_else(charted: Charted) -> None:
    policy = one(charted(EVERYTHING), "NetworkPolicy")["spec"]
    collector, own, names = policy["egress"]
    assert collector["ports"][0]["port"] == 4318
    assert own == EVERYTHING["networkPolicy"]["egress"][0]
    assert {port["port"] for port in names["ports"]} == {53}
    alone = one(charted({"networkPolicy": EVERYTHING["networkPolicy"]}), "NetworkPolicy")["spec"]["egress"]
    assert alone == [own, names]


def test_spread_is_over_this_releases_pods_unless_a_constraint_says_otherwise(charted: Charted) -> None:
    own = {"matchLabels": {"app.kubernetes.io/name": "model", "app.kubernetes.io/instance": "prod"}}
    default = pod_of(charted({}))["topologySpreadConstraints"]
    assert [(each["labelSelector"], each["matchLabelKeys"]) for each in default] == [(own, ["pod-template-hash"])] * 2
    other = {
        "topologyKey": "rack",
        "maxSkew": 1,
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"a": "b"}},
    }
    assert pod_of(charted({"topologySpreadConstraints": [other]}))["topologySpreadConstraints"] == [other]
    assert "topologySpreadConstraints" not in pod_of(charted({"topologySpreadConstraints": []}))


def test_accelerators_are_tolerated_besides_what_the_values_tolerate(charted: Charted) -> None:
    mine = {"key": "models", "operator": "Exists", "effect": "NoSchedule"}
    gpu = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert pod_of(charted(EVERYTHING))["tolerations"] == [mine, gpu]


def test_a_cluster_with_an_older_gateway_api_gets_that_one(charted: Charted) -> None:
    route = {"httpRoute": {"enabled": True, "parentRefs": [{"name": "public"}]}}

    def version(*apis: str) -> str:
        asked = [word for api in apis for word in ("--api-versions", f"gateway.networking.k8s.io/{api}/HTTPRoute")]
        return str(one(charted(route, "1.30", *asked), "HTTPRoute")["apiVersion"]).rpartition("/")[2]

    assert (version(), version("v1beta1"), version("v1", "v1beta1")) == ("v1", "v1beta1", "v1")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "hostPath"),
        ({"sidecars": [{"name": "p", "image": "i", "securityContext": {"privileged": True}}]}, "privileged"),
        ({"sidecars": [{"name": "p", "image": "i", "securityContext": {"runAsUser": 0}}]}, "runAsUser"),
        ({"podSecurityContext": {"runAsUser": 0}}, "runAsUser"),
        ({"volumes": [{"name": "temporary", "emptyDir": {}}]}, 'the name "temporary" is taken by the chart'),
        ({"ingress": {"enabled": True}}, "ingress: hosts is empty"),
        ({"httpRoute": {"enabled": True}}, "httpRoute: parentRefs is empty"),
        ({"env": [{"name": "A", "value": 1}]}, "env"),
        ({"podLabels": {"a": "-"}}, "podLabels"),
        ({"server": {"port": 9000}}, "server"),
    ],
)
def test_what_pods_may_not_have_or_what_makes_no_sense_is_refused(
    charted: Charted, values: dict[str, Any], says: str
) -> None:
    with pytest.raises(AssertionError, match=re.escape(says)):
        charted(values)


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_a_part_of_another_chart_that_can_switch_it_off(charted: Charted, tmp_path: Path, enabled: bool) -> None:
    parent = tmp_path / "parent"
    (parent / "charts").mkdir(parents=True)
    shutil.copytree(CHART, parent / "charts" / "mlo-model")
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["version"]
    dependency = {"name": "mlo-model", "version": version, "condition": "mlo-model.enabled"}
    (parent / "Chart.yaml").write_text(
        yaml.safe_dump({"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [dependency]})
    )
    values = {"mlo-model": {"enabled": enabled, "replicas": {"max": 2}}, "global": {"imageRegistry": "r.example.com"}}
    documents = charted(values, chart=parent)
    assert bool(documents) is enabled


def test_what_a_spec_sets_makes_objects_that_kubernetes_takes(charted: Charted) -> None:
    section = Cluster.model_validate(yaml.safe_load(GOOD))
    documents = charted(cluster_values(section))
    pod = pod_of(documents)
    assert pod["initContainers"][0]["name"] == "wait"
    assert pod["volumes"][1] == {"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}}
    assert one(documents, "HTTPRoute")["spec"]["hostnames"] == ["digits.example.com"]
    for document in documents:
        if document["kind"] != "HTTPRoute":
            kubernetes_validate.validate(document, "1.37", strict=True)


def test_the_role_of_the_manual_has_what_helm_does_with_every_kind_of_the_chart(charted: Charted) -> None:
    """Helm 4 waits for each by a watch; the pod of `helm test` is not deployed."""
    documents = charted(EVERY_KIND, "1.37", *ALERTING)
    plural = {"Ingress": "ingresses", "NetworkPolicy": "networkpolicies"}
    released = {
        (each["apiVersion"].rpartition("/")[0], plural.get(each["kind"], each["kind"].lower() + "s"))
        for each in documents
        if each["kind"] != "Pod"
    }
    assert len(released) == 11
    verbs = ("get", "list", "watch", "create", "patch", "delete")
    assert {(*each, verb) for each in released for verb in verbs} <= granted(role_of_the_manual())


@pytest.mark.parametrize("account_exists", [False, True])
def test_a_candidate_has_only_what_its_pod_needs(charted: Charted, tmp_path: Path, account_exists: bool) -> None:
    balancer: dict[str, Any] = {
        "annotations": {"external-dns.alpha.kubernetes.io/hostname": "digits.example.com"},
        "loadBalancerSourceRanges": ["10.0.0.0/8"],
        "loadBalancerClass": "example.com/internal",
        "ipFamilyPolicy": "PreferDualStack",
    }
    settings = {
        "service": EVERYTHING["service"] | balancer,
        "serviceAccount": {**EVERYTHING["serviceAccount"], "name": "shared"},
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(EVERY_KIND))
    image = Image(name="registry.example.com/digits:1", id="sha256:1", digest=None, platform="linux/amd64")
    release = Release(2, tmp_path / "serving", "onnxruntime", "digits", 1, 60, image)
    values = chart_values(release, "digits-candidate", settings, alone(account_exists=account_exists))
    documents = charted(values, "1.37", *ALERTING)
    kinds = {each["kind"] for each in documents} - {"Pod"}
    assert kinds == {"Deployment", "Service", "NetworkPolicy"} | (set() if account_exists else {"ServiceAccount"})
    assert pod_of(documents)["serviceAccountName"] == "shared"
    service = one(documents, "Service")
    assert service["metadata"]["annotations"] == EVERYTHING["annotations"], "none of the Service's own"
    assert service["spec"].keys() == {"type", "ipFamilyPolicy", "selector", "ports"}
    kubernetes_validate.validate(service, "1.37", strict=True)


def test_the_manual_names_every_value() -> None:
    manual = (ROOT / "docs" / "chart.md").read_text(encoding="utf-8")
    schema = json.loads((CHART / "values.schema.json").read_text())
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    read_by_helm = {"enabled", "global"}
    assert schema["properties"].keys() - read_by_helm == defaults.keys()
    names = {
        key
        for name, value in schema["properties"].items()
        if name not in read_by_helm
        for key in (name, *value.get("properties", {}))
    }
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", manual)] == []


def test_the_test_asks_for_readiness_in_plain_bash(charted: Charted) -> None:
    (container,) = one(charted({}), "Pod")["spec"]["containers"]
    script = container["args"][0]
    done = subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
