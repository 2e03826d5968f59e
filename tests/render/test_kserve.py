"""The chart as an InferenceService of KServe, as its schema and the other objects of a release see it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
SCHEMAS = [above / "shared" / "schemas" for above in ROOT.parents[:3]]
"""Beside the project, or beside a folder with several of its work trees."""


@pytest.fixture
def template(render_to: Callable[..., Path], run_tool: Callable[..., str]) -> Callable[..., list[dict[str, Any]]]:
    """`template("torchserve", "--set", ..., max_replicas=4)`: the objects of a release with KServe."""

    def run(backend: str, *more: str, **changes: Any) -> list[dict[str, Any]]:
        folder = render_to(backend, **changes)
        text = run_tool(
            "helm", "template", "digits", str(folder / "chart"), "--values", str(folder / "values.yaml"),
            "--namespace", "models", "--kube-version", "1.29.0", "--set", "inferenceService.enabled=true", *more,
        )  # fmt: skip
        return [document for document in yaml.safe_load_all(text) if document]

    return run


def service_of(documents: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (each for each in documents if each["kind"] == "InferenceService")
    return found


def strict(schema: Any) -> Any:
    """The same schema, which refuses keys that it does not know wherever it names some."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    refused = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return {**refused, **{key: strict(value) for key, value in schema.items()}}


@pytest.fixture(scope="module")
def kserve() -> Any:
    """A validator of KServe's own schema; to check that schema itself would take seconds and is not for these tests to do."""
    name = "serving.kserve.io_inferenceservice_v1beta1.json"
    schema = next((folder / name for folder in SCHEMAS if (folder / name).is_file()), None)
    if schema is None:
        pytest.skip("the schema of KServe's InferenceService is not in ../shared/schemas")
    own = json.loads(schema.read_text())
    return jsonschema.validators.validator_for(own)(strict(own))


@pytest.mark.parametrize("backend", ["onnxruntime", "torchserve", "tensorflow-serving"])
def test_an_inference_service_fits_kserves_schema(template: Callable[..., Any], kserve: Any, backend: str) -> None:
    settings = {
        "nodeSelector.disk": "fast",
        "priorityClassName": "high",
        "image.pullSecrets[0]": "registry",
        "env[0].name": "A",
        "env[0].value": "b",
        "traces.endpoint": "http://collector.observability:4318",
    }
    document = service_of(
        template(backend, *(part for key in settings for part in ("--set", f"{key}={settings[key]}")))
    )
    kserve.validate(document)
    broken = json.loads(json.dumps(document))
    broken["spec"]["predictor"]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError):
        kserve.validate(broken)


def test_it_takes_the_place_of_what_kserve_brings(template: Callable[..., Any]) -> None:
    documents = template("onnxruntime", min_replicas=2, max_replicas=4)
    kinds = {each["kind"] for each in documents}
    assert kinds == {"InferenceService", "NetworkPolicy", "PodDisruptionBudget", "Pod", "ServiceAccount"}
    predictor = service_of(documents)["spec"]["predictor"]
    selectors = [each["spec"] for each in documents if each["kind"] in {"NetworkPolicy", "PodDisruptionBudget"}]
    for spec in selectors:
        wanted = (spec.get("podSelector") or spec["selector"])["matchLabels"]
        assert wanted.items() <= predictor["labels"].items(), "they find the pods"
    (asking,) = (each for each in documents if each["kind"] == "Pod")
    assert asking["spec"]["containers"][0]["args"][1:3] == ["digits-predictor", "80"]


def test_the_predictor_is_the_pod_of_a_deployment(
    template: Callable[..., Any], run_tool: Callable[..., str], tmp_path: Path
) -> None:
    predictor = service_of(template("onnxruntime"))["spec"]["predictor"]
    text = run_tool(
        "helm", "template", "digits", str(tmp_path / "rendered" / "chart"),
        "--values", str(tmp_path / "rendered" / "values.yaml"), "--namespace", "models", "--kube-version", "1.29.0",
    )  # fmt: skip
    (deployment,) = (each for each in yaml.safe_load_all(text) if each and each["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,), (served) = predictor["containers"], pod["containers"][0]
    for key in ("image", "resources", "securityContext", "volumeMounts"):
        assert container[key] == served[key]
    for key in ("securityContext", "volumes", "topologySpreadConstraints", "terminationGracePeriodSeconds"):
        assert predictor[key] == pod[key]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"].pop("port") == "http1"
        served[probe]["httpGet"].pop("port")
        assert container[probe] == served[probe]
    assert container["name"] == "kserve-container"
    assert container["ports"] == [{"name": "http1", "containerPort": 8080, "protocol": "TCP"}]


def test_replicas_and_their_target_are_kserves_own_keys(template: Callable[..., Any]) -> None:
    scaled = service_of(template("onnxruntime", min_replicas=2, max_replicas=4))
    assert scaled["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "hpa"
    predictor = scaled["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"], predictor["scaleMetric"]) == (2, 4, "cpu")
    assert 0 < predictor["scaleTarget"] <= 100


def test_replicas_that_do_not_scale_have_no_autoscaler(template: Callable[..., Any]) -> None:
    fixed = service_of(template("onnxruntime", max_replicas=1))
    assert "serving.kserve.io/autoscalerClass" not in fixed["metadata"]["annotations"]
    assert "scaleTarget" not in fixed["spec"]["predictor"]


@pytest.mark.parametrize(("backend", "protocol"), [("torchserve", ["v2"]), ("tensorflow-serving", [])])
def test_only_a_server_of_the_open_inference_protocol_is_said_to_speak_it(
    template: Callable[..., Any], backend: str, protocol: list[str]
) -> None:
    (container,) = service_of(template(backend))["spec"]["predictor"]["containers"]
    assert [each["value"] for each in container.get("env", []) if each["name"] == "PROTOCOL"] == protocol


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (["ingress.enabled=true", "ingress.hosts[0]=a.b"], "KServe brings the route"),
        (
            ["tls.certificate=/run/s/tls.crt", "tls.key=/run/s/tls.key", "tls.secret=s"],
            "KServe's routes send plain HTTP",
        ),
    ],
)
def test_a_route_or_a_certificate_of_its_own_is_refused(
    render_to: Callable[..., Path], run_tool: Callable[..., str], values: list[str], says: str
) -> None:
    folder = render_to("onnxruntime")
    run_tool("helm", "version")
    done = subprocess.run(
        ["helm", "template", "digits", str(folder / "chart"), "--values", str(folder / "values.yaml"),
         "--set", "inferenceService.enabled=true", *(word for value in values for word in ("--set", value))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert says in done.stderr
