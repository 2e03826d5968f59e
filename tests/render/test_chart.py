"""The chart with the values that were rendered, as Helm and the schemas of several Kubernetes versions see it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from orchestrator.backends.table import SERVERS

pytestmark = pytest.mark.processes

Render = Callable[..., Path]
Template = Callable[..., list[dict[str, Any]]]

each = pytest.mark.parametrize("backend", SERVERS)


@pytest.fixture
def template(render_to: Render, run_tool: Callable[..., str]) -> Template:
    """`template("torchserve", "1.33", "--set", ..., min_replicas=...)`: the documents that Helm would send."""
    rendered: dict[str, Path] = {}

    def run(backend: str, kubernetes: str, *more: str, **changes: Any) -> list[dict[str, Any]]:
        key = f"{backend}-{len(rendered)}"
        folder = rendered[key] = render_to(backend, key, **changes)
        text = run_tool(
            "helm", "template", "prod", str(folder / "chart"), "--values", str(folder / "values.yaml"),
            "--namespace", "models", "--kube-version", f"{kubernetes}.0", *more,
        )  # fmt: skip
        return [document for document in yaml.load_all(text, _OnceOnly) if document]

    return run


class _OnceOnly(yaml.SafeLoader):
    """Refuses a key that comes twice, as the API server does where it is asked to be strict."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        assert len(mapping) == len(node.value), f"a key comes twice{node.start_mark}"
        return mapping


def _one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (document,) = (d for d in documents if d["kind"] == kind)
    return document


def _container(documents: list[dict[str, Any]]) -> dict[str, Any]:
    container: dict[str, Any] = _one(documents, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return container


@each
def test_helm_lint_passes(render_to: Render, run_tool: Callable[..., str], backend: str) -> None:
    folder = render_to(backend)
    run_tool("helm", "lint", "--strict", str(folder / "chart"), "--values", str(folder / "values.yaml"))
    run_tool("helm", "lint", "--strict", str(folder / "chart"))


@each
@pytest.mark.parametrize("kubernetes", ["1.25", "1.29", "1.33", "1.35", "1.37"])
def test_every_document_fits_the_schema_of_the_cluster(template: Template, backend: str, kubernetes: str) -> None:
    documents = template(backend, kubernetes, min_replicas=2, max_replicas=4)
    assert len(documents) == 7
    for document in documents:
        kubernetes_validate.validate(document, kubernetes, strict=True)


@pytest.mark.parametrize(
    ("kubernetes", "versions"),
    [
        ("1.20", {"autoscaling/v2beta2", "policy/v1beta1"}),
        ("1.22", {"autoscaling/v2beta2", "policy/v1"}),
        ("1.37", {"autoscaling/v2", "policy/v1"}),
    ],
)
def test_objects_have_the_version_that_the_cluster_knows(
    template: Template, kubernetes: str, versions: set[str]
) -> None:
    documents = template("onnxruntime", kubernetes, min_replicas=2, max_replicas=4)
    assert versions == {
        d["apiVersion"] for d in documents if d["kind"] in {"HorizontalPodAutoscaler", "PodDisruptionBudget"}
    }


def test_kinds_that_the_cluster_lacks_are_left_out(template: Template) -> None:
    documents = template("torchserve", "1.20", min_replicas=2, max_replicas=4)
    spread = _one(documents, "Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert not [constraint for constraint in spread if "matchLabelKeys" in constraint]
    assert "unhealthyPodEvictionPolicy" not in _one(documents, "PodDisruptionBudget")["spec"]
    assert _container(documents)["lifecycle"]["preStop"] == {"exec": {"command": ["sleep", "5"]}}
    assert _container(template("torchserve", "1.33"))["lifecycle"]["preStop"] == {"sleep": {"seconds": 5}}


@each
def test_pods_may_do_nothing_but_serve(template: Template, backend: str) -> None:
    documents = template(backend, "1.37")
    for pod in (_one(documents, "Deployment")["spec"]["template"]["spec"], _one(documents, "Pod")["spec"]):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"runAsUser", "runAsGroup", "fsGroup"} & pod["securityContext"].keys(), "OpenShift assigns its own"
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert _one(documents, "Deployment")["spec"]["template"]["spec"]["enableServiceLinks"] is False
    policy = _one(documents, "NetworkPolicy")["spec"]
    assert policy["egress"] == []
    ports = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    other = {"torchserve": {8080, 8082}, "tensorflow-serving": {8501}}
    assert ports == other.get(backend, {8080}), "mlo's own server has one port"


@each
def test_it_is_given_the_time_it_needs(template: Template, backend: str) -> None:
    documents = template(backend, "1.37")
    container = _container(documents)
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 61
    asked = container["livenessProbe"].get("httpGet", {"path": "only the port"})
    assert asked["path"] != container["readinessProbe"]["httpGet"]["path"]
    deployment = _one(documents, "Deployment")["spec"]
    assert deployment["progressDeadlineSeconds"] > 61
    finish = 0 if backend == "tensorflow-serving" else 30
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] == 5 + finish + 5
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_a_pod_is_not_killed_for_its_first_failed_checks(template: Template) -> None:
    startup = _container(template("onnxruntime", "1.37", "--set", "probes.startupSeconds=5"))["startupProbe"]
    assert (startup["periodSeconds"], startup["failureThreshold"]) == (5, 12)


def test_resources_are_what_was_measured_under(template: Template) -> None:
    resources = _container(template("onnxruntime", "1.37"))["resources"]
    assert resources["limits"] == {"cpu": "2", "memory": "2Gi"}
    assert resources["requests"] == {"cpu": "1500m", "memory": "96Mi"}


def test_the_autoscaler_owns_the_number_of_replicas(template: Template) -> None:
    scaled = template("onnxruntime", "1.37", min_replicas=2, max_replicas=4)
    assert "replicas" not in _one(scaled, "Deployment")["spec"]
    assert _one(scaled, "HorizontalPodAutoscaler")["spec"]["maxReplicas"] == 4
    fixed = template("onnxruntime", "1.37", min_replicas=1, max_replicas=1)
    assert _one(fixed, "Deployment")["spec"]["replicas"] == 1
    assert not {"HorizontalPodAutoscaler", "PodDisruptionBudget"} & {d["kind"] for d in fixed}


def test_selectors_hold_nothing_that_changes(template: Template) -> None:
    documents = template("onnxruntime", "1.37")
    expected = {"app.kubernetes.io/name": "digits", "app.kubernetes.io/instance": "prod"}
    assert _one(documents, "Deployment")["spec"]["selector"]["matchLabels"] == expected
    assert _one(documents, "Service")["spec"]["selector"] == expected
    labels = _one(documents, "Deployment")["metadata"]["labels"]
    assert (labels["team"], labels["tier"]) == ("vision", "gold")


def test_a_digest_takes_precedence_over_the_tag(template: Template) -> None:
    digest = "sha256:" + "e" * 64
    documents = template("onnxruntime", "1.37", "--set", f"image.digest={digest}")
    assert _container(documents)["image"] == f"registry.example.com/team/digits@{digest}"


def test_a_service_monitor_comes_only_where_it_is_known(template: Template) -> None:
    assert "ServiceMonitor" not in {d["kind"] for d in template("torchserve", "1.37")}
    known = ("--api-versions", "monitoring.coreos.com/v1/ServiceMonitor")
    monitor = _one(template("torchserve", "1.37", *known), "ServiceMonitor")
    assert monitor["spec"]["endpoints"][0]["port"] == "metrics"


@pytest.mark.parametrize(
    "wrong",
    ["replicaCount=3", "image.tag=latest", "model.backend=Triton", "image.server.port=http", "image.digest=sha256:abc"],
)
def test_values_that_are_wrong_are_refused(render_to: Render, run_tool: Callable[..., str], wrong: str) -> None:
    folder = render_to("onnxruntime")
    with pytest.raises(AssertionError, match="values don't meet the specifications"):
        run_tool(
            "helm", "template", "x", str(folder / "chart"), "--values", str(folder / "values.yaml"), "--set", wrong
        )


def test_values_that_repeat_the_charts_own_keys_do_not_win(template: Template) -> None:
    documents = template(
        "onnxruntime", "1.37", "--api-versions", "monitoring.coreos.com/v1/ServiceMonitor",
        "--set", "podAnnotations.mlo/model-digest=x", "--set", "podAnnotations.checksum/server=x",
        "--set", "podAnnotations.team=vision", "--set-string", "labels.mlo/backend=x",
        "--set-string", r"labels.app\.kubernetes\.io/name=x", "--set-string", "serviceMonitor.labels.team=metrics",
    )  # fmt: skip
    pod = _one(documents, "Deployment")["spec"]["template"]["metadata"]
    assert pod["annotations"].pop("team") == "vision"
    assert "x" not in {*pod["annotations"].values(), *pod["labels"].values()}
    assert pod["labels"]["app.kubernetes.io/name"] == "digits"


@pytest.mark.parametrize("release", ["1st", "a.b"])
def test_a_release_whose_service_would_have_no_legal_name_is_refused(
    render_to: Render, run_tool: Callable[..., str], release: str
) -> None:
    folder = render_to("onnxruntime")
    with pytest.raises(AssertionError, match=f'release name "{release}": a Service\'s name begins with a letter'):
        run_tool("helm", "template", release, str(folder / "chart"), "--values", str(folder / "values.yaml"))


def test_fewer_replicas_at_most_than_at_least_are_refused(render_to: Render, run_tool: Callable[..., str]) -> None:
    folder = render_to("onnxruntime")
    values = ("--values", str(folder / "values.yaml"), "--set", "replicas.min=5")
    with pytest.raises(AssertionError, match="min is 5 and max is 4; max must not be less"):
        run_tool("helm", "template", "x", str(folder / "chart"), *values)


def test_tensorflow_serving_is_ready_by_its_metadata_and_alive_by_its_port(template: Template) -> None:
    known = ("--api-versions", "monitoring.coreos.com/v1/ServiceMonitor")
    documents = template("tensorflow-serving", "1.37", *known)
    container = _container(documents)
    ready = {"path": "/v1/models/digits/labels/stable/metadata", "port": "http"}
    assert container["startupProbe"]["httpGet"] == container["readinessProbe"]["httpGet"] == ready
    assert container["livenessProbe"]["tcpSocket"] == {"port": "http"}
    assert "httpGet" not in container["livenessProbe"]
    # It ends at SIGTERM, whatever it is doing.
    assert container["lifecycle"]["preStop"] == {"sleep": {"seconds": 5}}
    assert container["ports"] == [{"name": "http", "containerPort": 8501, "protocol": "TCP"}]
    assert [port["name"] for port in _one(documents, "Service")["spec"]["ports"]] == ["http"], "gRPC is not offered"
    (endpoint,) = _one(documents, "ServiceMonitor")["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/monitoring/prometheus/metrics")


def test_the_test_of_tensorflow_serving_asks_with_bash_alone(template: Template) -> None:
    (container,) = _one(template("tensorflow-serving", "1.37"), "Pod")["spec"]["containers"]
    assert container["command"] == ["/bin/bash", "-c"]
    script, *arguments = container["args"]
    host = "$(PROD_DIGITS_SERVICE_HOST)"
    assert arguments == [host, "80", "/v1/models/digits/labels/stable/metadata", "prod-digits"]
    done = subprocess.run(["bash", "-n", "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kubernetes", ["1.25", "1.37"])
def test_grpc_is_a_port_of_the_container_the_service_and_the_network_policy(
    template: Template, kubernetes: str
) -> None:
    documents = template("onnxruntime", kubernetes, grpc=True)
    for document in documents:
        kubernetes_validate.validate(document, kubernetes, strict=True)
    assert {"name": "grpc", "containerPort": 8081, "protocol": "TCP"} in _container(documents)["ports"]
    (port,) = (each for each in _one(documents, "Service")["spec"]["ports"] if each["name"] == "grpc")
    assert (port["port"], port["targetPort"], port["appProtocol"]) == (8081, "grpc", "kubernetes.io/h2c")
    allowed = _one(documents, "NetworkPolicy")["spec"]["ingress"][0]["ports"]
    assert [each["port"] for each in allowed] == [8080, 8081]


@pytest.mark.parametrize("kubernetes", ["1.25", "1.37"])
def test_tokens_are_mounted_from_their_secret_and_sent_for_metrics(template: Template, kubernetes: str) -> None:
    auth = {"token_file": "/run/secrets/digits/token", "secret": "digits-token"}
    known = ("--api-versions", "monitoring.coreos.com/v1/ServiceMonitor")
    documents = template("onnxruntime", kubernetes, *known, auth=auth)
    for document in documents:
        if document["kind"] != "ServiceMonitor":
            kubernetes_validate.validate(document, kubernetes, strict=True)
    mount = _container(documents)["volumeMounts"][1]
    assert mount == {"name": "tokens", "mountPath": "/run/secrets/digits", "readOnly": True}
    volume = _one(documents, "Deployment")["spec"]["template"]["spec"]["volumes"][1]
    assert volume["secret"] == {
        "secretName": "digits-token",
        "defaultMode": 0o444,
        "items": [{"key": "token", "path": "token"}],
    }
    (endpoint,) = _one(documents, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "digits-token", "key": "token"}}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert _container(documents)[probe]["httpGet"]["path"].startswith("/v2/health/"), "which need no token"


def test_without_tokens_no_secret_is_mounted(template: Template) -> None:
    documents = template("onnxruntime", "1.37", "--api-versions", "monitoring.coreos.com/v1/ServiceMonitor")
    assert [mount["name"] for mount in _container(documents)["volumeMounts"]] == ["temporary"]
    assert "authorization" not in _one(documents, "ServiceMonitor")["spec"]["endpoints"][0]


def test_a_file_of_tokens_without_its_secret_is_refused(template: Template) -> None:
    with pytest.raises(AssertionError, match="tokenFile and secret belong together"):
        template("onnxruntime", "1.37", "--set", "auth.tokenFile=/run/secrets/digits/token")


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://collector.observability:4318", 4318),
        ("https://collector.example.com", 443),
        ("http://collector/otlp", 80),
        ("http://[2001:db8::1]:4318", 4318),
        ("http://[2001:db8::4318]", 80),
    ],
)
def test_spans_may_leave_the_pod_and_nothing_else(template: Template, endpoint: str, port: int) -> None:
    documents = template("onnxruntime", "1.37", traces={"endpoint": endpoint})
    for document in documents:
        kubernetes_validate.validate(document, "1.37", strict=True)
    collector, dns = _one(documents, "NetworkPolicy")["spec"]["egress"]
    assert collector == {"ports": [{"port": port, "protocol": "TCP"}]}
    assert dns == {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]}
    assert {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": endpoint} in _container(documents)["env"]


def test_spans_may_be_let_out_to_one_namespace_alone(template: Template) -> None:
    to = 'networkPolicy.tracesTo=[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}]'
    documents = template("onnxruntime", "1.37", "--set-json", to, traces={"endpoint": "http://collector:4318"})
    collector, _ = _one(documents, "NetworkPolicy")["spec"]["egress"]
    assert collector["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "observability"}}}]


def test_without_traces_nothing_leaves_the_pod(template: Template) -> None:
    documents = template("onnxruntime", "1.37")
    assert _one(documents, "NetworkPolicy")["spec"]["egress"] == []
    assert "env" not in _container(documents)


def test_a_candidate_is_selected_by_the_service_that_it_stands_beside_only_if_it_takes_traffic(
    template: Template,
) -> None:
    service = {"app.kubernetes.io/name": "digits", "app.kubernetes.io/instance": "live"}
    selectors = []
    for traffic in (False, True):
        documents = template(
            "onnxruntime", "1.33", "--set", f"candidate.of=live,candidate.traffic={str(traffic).lower()}"
        )
        spec = _one(documents, "Deployment")["spec"]
        labels = spec["template"]["metadata"]["labels"]
        selectors.append(spec["selector"]["matchLabels"])
        assert selectors[-1].items() <= labels.items()
        assert selectors[-1] == _one(documents, "Service")["spec"]["selector"]
        assert (service.items() <= labels.items()) is traffic
    assert selectors[0] == selectors[1], "the selector of a Deployment cannot be changed"
    live = _one(template("onnxruntime", "1.33"), "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert not selectors[0].items() <= live.items()
