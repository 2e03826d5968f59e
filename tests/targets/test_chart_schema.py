"""What a spec sets of the chart is checked when the spec is read: with line and caret, before anything is computed."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import yaml

from orchestrator.cli.diagnostics_text import render_text
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid
from orchestrator.spec.document import read_document, span_of
from orchestrator.spec.load import load_spec
from orchestrator.spec.yaml_tree import SPEC
from tests.spec.conftest import BASE
from tests.targets.test_cluster_settings import Cluster


def problems(tmp_path: Path, deploy: str) -> list[Diagnostic]:
    """Of a spec with this under `deploy:`."""
    file = tmp_path / "spec.yaml"
    file.write_text("deploy:\n" + "".join(f"  {line}\n" for line in deploy.splitlines()))
    root = read_document(file, SPEC).root
    section = Cluster.model_validate(yaml.safe_load(file.read_text())["deploy"])
    return list(section.problems(partial(span_of, root)))


def marked(found: Diagnostic) -> str:
    """What the caret is under."""
    assert found.span is not None
    return found.span.text[found.span.column - 1 : found.span.end_column - 1]


GOOD = """
pod:
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms: [{matchExpressions: [{key: pool, operator: In, values: [models]}]}]
  tolerations: [{key: gpu, operator: Exists, effect: NoSchedule}]
  topology_spread: [{topologyKey: zone, maxSkew: 1, whenUnsatisfiable: DoNotSchedule}]
  env: [{name: A, value: b}, {name: C, valueFrom: {secretKeyRef: {name: s, key: k}}}]
  env_from: [{configMapRef: {name: c}}]
  volumes: [{name: cache, persistentVolumeClaim: {claimName: cache}}]
  volume_mounts: [{name: cache, mountPath: /cache}]
  init_containers: [{name: wait, image: "busybox:1", command: [sleep, "1"]}]
  sidecars: [{name: proxy, image: "envoy:1", ports: [{containerPort: 9000}], securityContext: {runAsUser: 1000}}]
  egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 443}]}]
service: {requests_from: [{namespaceSelector: {}}], metrics_from: []}
ingress: {hosts: [digits.example.com], gateway: {name: public}}
values:
  podDisruptionBudget: {maxUnavailable: 50%}
  resources: {limits: {cpu: ""}}
  image: {pullPolicy: Always}
"""


def test_what_platform_teams_set_passes(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("deploy", "message", "caret", "hint"),
    [
        ("values: {replicaCount: 3}", "the chart has no value `replicaCount`", "replicaCount", "replicas"),
        ("values: {tolerationz: []}", "the chart has no value `tolerationz`", "tolerationz", "did you mean `tolerations`?"),
        ("values: {shutdown: {drain: 5}}", "`shutdown` has no key `drain`", "drain", "drainSeconds"),
        ("values: {shutdown: {drainSeconds: 5s}}", "`shutdown.drainSeconds` must be a whole number, not `5s`", "5s", ""),
        ("values: {shutdown: {drainSeconds: -1}}", "`shutdown.drainSeconds` must be at least 0, not `-1`", "-1", ""),
        ("values: {podLabels: {a b: c}}", "`a b` is not a valid key of `podLabels`", "a b", "example.com/team"),
        ("values: {resources: {limits: {memory: 1GB}}}", "`1GB` is not a valid value for `resources.limits.memory`", "1GB", "matches"),
        ("pod: {tolerations: [{opperator: Exists}]}", "`pod.tolerations[0]` has no key `opperator`", "opperator", "did you mean `operator`?"),
        ("pod: {tolerations: [{operator: Is}]}", "`pod.tolerations[0].operator` must be one of `Exists`, `Equal`, not `Is`", "Is", ""),
        ("pod: {env: [{value: b}]}", "`pod.env[0]` lacks `name`", "{value: b}", "add it"),
        ("pod: {env: [{name: A, value: 1}]}", "`pod.env[0].value` must be text, not `1`", "1", ""),
        ("pod: {volumes: [{name: v, hostPath: {path: /}}]}", "`pod.volumes[0]` has no key `hostPath`", "hostPath", "persistentVolumeClaim"),
        ("pod: {volumes: [{name: v}]}", "`pod.volumes[0]` must have at least 2 entries, not 1", "{name: v}", ""),
        ("pod: {topology_spread: [{topologyKey: z}]}", "`pod.topology_spread[0]` lacks `maxSkew`", "{topologyKey: z}", ""),
        ("pod: {sidecars: [{name: p, image: i, securityContext: {privileged: true}}]}",
         "`pod.sidecars[0].securityContext` has no key `privileged`", "privileged", "runAsUser"),
        ("pod: {sidecars: [{name: server, image: i}]}", "`pod.sidecars[0].name` must not be `server`", "server", ""),
        ("pod: {egress: [{to: [{}]}]}", "`pod.egress[0].to[0]` must have at least 1 entry, not 0", "{}", ""),
        ("service: {requests_from: [{pods: {}}]}", "`service.requests_from[0]` has no key `pods`", "pods", "podSelector"),
        ("pod: {tolerations: []}\nvalues: {tolerations: [{key: 1}]}", "`tolerations[0].key` must be text, not `1`", "1", ""),
    ],
)  # fmt: skip
def test_what_the_chart_does_not_take_is_shown_where_the_spec_says_it(
    tmp_path: Path, deploy: str, message: str, caret: str, hint: str
) -> None:
    first, *_ = problems(tmp_path, deploy)
    assert (first.code, first.message) == ("E280", message)
    assert marked(first) == caret
    assert hint in f"{first.label} {first.remedy}"


@pytest.mark.parametrize("value", ["image: {digest: x}", "image: {server: {port: 1}}", "model: {name: other}"])
def test_what_was_measured_and_proven_cannot_be_set(tmp_path: Path, value: str) -> None:
    found = problems(tmp_path, f"values: {{{value}}}")
    assert found[0].code == "E281"
    assert found[0].cause == "it says what was measured and proven"


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("fullnameOverride: other", "metadata: name:"),
        ("service: {port: 8080}", "deploy: service: port:"),
        ("inferenceService: {enabled: true}", "deploy: as:"),
        ("candidate: {traffic: true}", "deploy: strategy:"),
    ],
)
def test_what_another_key_sets_cannot_be_set_as_a_value(tmp_path: Path, value: str, key: str) -> None:
    found, *_ = problems(tmp_path, f"values: {{{value}}}")
    assert found.code == "E283"
    assert f"`{key}`" in found.remedy


@pytest.mark.parametrize(
    ("deploy", "caret"),
    [
        ("service: {type: LoadBalancer}", "type"),
        ("service: {type: NodePort}", "type"),
        ("ingress: {hosts: [a.example.com]}", "ingress"),
        ("ingress: {hosts: [a.example.com], gateway: {name: public}}", "ingress"),
        ("ingress: {hosts: [a.example.com], from_namespace: edge}", ""),
        ("service: {type: LoadBalancer, requests_from: [{ipBlock: {cidr: 10.0.0.0/8}}]}", ""),
        ("service: {type: LoadBalancer}\nvalues: {networkPolicy: {enabled: false}}", ""),
        ("service: {port: 8080}", ""),
    ],
)
def test_requests_that_the_network_policy_keeps_out_are_warned_of(tmp_path: Path, deploy: str, caret: str) -> None:
    found = problems(tmp_path, deploy)
    assert [(each.code, each.severity, marked(each)) for each in found] == (
        [("W105", "warning", caret)] if caret else []
    )


@pytest.mark.parametrize("key", ["class_name: nginx", "tls_secret: digits"])
def test_an_http_route_has_no_keys_of_an_ingress(tmp_path: Path, key: str) -> None:
    (found,) = problems(
        tmp_path, f"ingress: {{hosts: [a.example.com], from_namespace: edge, gateway: {{name: public}}, {key}}}"
    )
    assert found.code == "E282"
    assert marked(found) == key.partition(":")[0]


def test_it_is_an_error_of_the_spec(tmp_path: Path) -> None:
    (tmp_path / "digits.safetensors").write_bytes(b"weights")
    (tmp_path / "spec.yaml").write_text(
        BASE
        + "image: {registry: registry.example.com}\n"
        + "deploy:\n  target: gitops\n  path: out\n  pod:\n    tolerations:\n      - {key: gpu, effect: NoSchedul}\n"
    )
    with pytest.raises(SpecInvalid) as refused:
        load_spec(tmp_path / "spec.yaml")
    (found,) = refused.value.diagnostics
    assert marked(found) == "NoSchedul"
    assert "E280" in render_text([found], color=False, width=100)
