"""From a spec to pods of a real cluster and back: the ONNX Runtime server, through mlo's commands."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from orchestrator.images.build import CONTEXT_LABEL
from orchestrator.images.context import context_digest
from tests.e2e.kubernetes_cluster import TestCluster, derived_image, missing

if TYPE_CHECKING:
    from conftest import Mlo

_MISSING = missing()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.kubernetes,
    pytest.mark.timeout(600),
    # The kubeconfig of a test cluster may say that its certificate is not checked.
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
    pytest.mark.skipif(bool(_MISSING), reason=f"deployments to Kubernetes: {_MISSING}"),
]
DIGITS = Path(__file__).resolve().parents[2] / "specs" / "digits"
NAME = "digits-on-pods"
NAMESPACE = f"mlo-e2e-{os.getpid()}"
OTHER = f"{NAMESPACE}-other"

_SPEC = """
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: NAME, labels: {release: RELEASE}}
model:
  source: {kind: pytorch, weights: digits.safetensors, factory: digits_model:DigitsNet}
  inputs: [{name: image, dtype: float32, shape: [batch, 1, 8, 8]}]
  outputs: [{name: logits, shape: [batch, 10]}]
  dims: {batch: {min: 1, max: 8}}
  samples: digits.npz
optimize: {formats: [onnx], precisions: [fp32], time_budget: 30s}
benchmark: {batch_sizes: [1]}
serving: {backend: onnxruntime}
hardware: {cpus: 1, memory: 512Mi}
deploy: {target: kubernetes, namespace: NAMESPACE, create_namespace: true, pod: {requests: {cpus: 100m}}}
environments:
  other:
    deploy: {target: kubernetes, namespace: NAMESPACE-other, create_namespace: true, pod: {requests: {cpus: 100m}}}
"""

_CLIENT = """
import http.client, json, threading, time
body = json.dumps({"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": [0.5] * 64}]})
counts, failures = [0, 0], []
def ask(kept):
    connection = None
    while True:
        try:
            if connection is None:
                connection = http.client.HTTPConnection("ADDRESS", 80, timeout=20)
            connection.request("POST", "/v2/models/NAME/infer", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            counts[0] += 1
            if answer.status != 200:
                failures.append(f"status {answer.status}")
            if not kept or answer.getheader("connection") == "close":
                connection.close()
                connection = None
        except Exception as error:
            failures.append(f"{'kept' if kept else 'new'} connection: {error!r}")
            connection = None
        time.sleep(0.02)
for kept in (False, True):
    threading.Thread(target=ask, args=(kept,), daemon=True).start()
while True:
    time.sleep(0.5)
    print(json.dumps({"answered": counts[0], "failed": len(failures), "failures": failures[:5]}), flush=True)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[TestCluster]:
    found = TestCluster.current()
    yield found
    for name in (NAMESPACE, OTHER):
        if found.cluster.find(f"/api/v1/namespaces/{name}") is not None:
            found.cluster.call("DELETE", f"/api/v1/namespaces/{name}")


def apply(mlo: Mlo, release: str, **env: str) -> Any:
    """One apply; its result, or its standard error where it is killed."""
    for file in ("digits.npz", "digits.safetensors", "digits_model.py"):
        if not (mlo.folder / file).exists():
            shutil.copy(DIGITS / file, mlo.folder / file)
    text = _SPEC
    for word, value in {"NAMESPACE": NAMESPACE, "NAME": NAME, "RELEASE": release}.items():
        text = text.replace(word, value)
    (mlo.folder / f"{NAME}.yaml").write_text(text, encoding="utf-8")
    if env:
        return mlo.run("apply", f"{NAME}.yaml", "--yes", code=-9, timeout=400, **env).stderr
    done = mlo.run("apply", f"{NAME}.yaml", "--yes", "--json", timeout=400)
    (deployment,) = json.loads(done.stdout)["deployments"]
    return dict(deployment)


def status(mlo: Mlo) -> dict[str, Any]:
    process = mlo.start("status", NAME, "--json")
    (row,) = json.loads(process.communicate(timeout=60)[0])["deployments"]
    return dict(row)


def right(mlo: Mlo) -> float:
    """The share of images that the pods read as their label says."""
    with np.load(DIGITS / "digits.npz") as samples:
        labels = samples["label" if "label" in samples.files else "labels"]
    answer = mlo.json("predict", NAME, "--input", str(DIGITS / "digits.npz"), "--json")
    return float((np.asarray(answer["outputs"]["logits"]).argmax(axis=1) == labels).mean())


def image(cluster: TestCluster) -> str:
    deployment = cluster.cluster.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}")
    return str(deployment["spec"]["template"]["spec"]["containers"][0]["image"])


def candidates(cluster: TestCluster) -> list[str]:
    """Pods in which a revision is proven, and which have not been removed."""
    names = [str(pod["metadata"]["name"]) for pod in cluster.pods(NAMESPACE)]
    return [name for name in names if "candidate" in name]


def counted(cluster: TestCluster) -> dict[str, Any]:
    """What the client has counted until now."""
    lines = cluster.log_of(NAMESPACE).splitlines()
    return dict(json.loads(lines[-1])) if lines else {"answered": 0, "failed": 0, "failures": []}


def test_a_spec_is_served_by_a_pod(mlo: Mlo, cluster: TestCluster) -> None:
    deployed = apply(mlo, "one")
    assert (deployed["target"], deployed["revision"]) == ("kubernetes", 1)
    assert deployed["endpoint"] == f"http://{NAME}.{NAMESPACE}.svc"
    assert status(mlo)["health"] == "healthy"
    assert right(mlo) > 0.98
    assert '"message":"ready"' in mlo.run("logs", NAME).stdout
    assert len(cluster.pods(NAMESPACE)) == 1
    assert f"{NAME}: as revision 1 was deployed" in mlo.run("diff", NAME).stdout
    assert "nothing to deploy" in mlo.run("apply", f"{NAME}.yaml", "--yes").stdout


def test_no_request_fails_while_a_new_revision_takes_over_and_while_it_is_rolled_back(
    mlo: Mlo, cluster: TestCluster, record_property: Callable[[str, object], None]
) -> None:
    first, (before,) = image(cluster), cluster.pods(NAMESPACE)
    address = cluster.cluster.get(f"/api/v1/namespaces/{NAMESPACE}/services/{NAME}")["spec"]["clusterIP"]
    cluster.start_client(NAMESPACE, first, _CLIENT.replace("ADDRESS", address).replace("NAME", NAME))
    following = mlo.start("logs", NAME, "--follow")
    try:
        deadline = time.monotonic() + 60
        while counted(cluster)["answered"] < 50:
            assert time.monotonic() < deadline, cluster.log_of(NAMESPACE)
            time.sleep(0.5)
        assert apply(mlo, "two")["revision"] == 2
        assert "revision 1" in mlo.run("rollback", NAME, "--yes", timeout=400).stdout
        assert image(cluster) == first
        time.sleep(3)
        told = counted(cluster)
    finally:
        following.terminate()
        lines = following.communicate(timeout=30)[0].splitlines()
        cluster.cluster.call("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods/client")
    ready = {line.partition(":")[0] for line in lines if '"message":"ready"' in line}
    assert ready - {before["metadata"]["name"]}, "the log of a pod that came later is shown too"
    requests = f"{told['answered']} requests answered during an update and a rollback on Kubernetes"
    record_property("measured", f"{requests}, {told['failed']} failed")
    assert told["failed"] == 0, told
    assert told["answered"] > 500
    rows = mlo.json("history", NAME, "--json")["revisions"]
    assert [(row["revision"], row["serves"], row["kept"]) for row in rows] == [(2, False, True), (1, True, True)]


def test_what_somebody_else_changed_is_told(mlo: Mlo, cluster: TestCluster) -> None:
    service = f"/api/v1/namespaces/{NAMESPACE}/services/{NAME}"
    found = cluster.cluster.get(service)
    found["metadata"]["labels"]["release"] = "by-hand"
    cluster.cluster.call("PUT", service, found)
    told = mlo.json("diff", NAME, "--json", code=1)["differences"]
    assert told == [f"Service {NAME}: metadata.labels.release is by-hand, was deployed as one"]
    row = status(mlo)
    assert row["health"] == "degraded"
    assert "by-hand" in row["reason"]


def test_an_apply_that_is_killed_at_any_point_is_settled_by_the_next_one(mlo: Mlo, cluster: TestCluster) -> None:
    before = status(mlo)["revision"]
    for point in ("installed", "proven", "upgraded"):
        apply(mlo, point, MLO_CRASH_AT=f"kubernetes.{point}")
        assert right(mlo) > 0.98
        assert (status(mlo)["revision"] == before) is (point != "upgraded"), point
    told = apply(mlo, "upgraded")
    row = status(mlo)
    assert (row["health"], row["revision"]) == ("healthy", told["revision"])
    assert row["revision"] > before
    assert not candidates(cluster)
    service = cluster.cluster.get(f"/api/v1/namespaces/{NAMESPACE}/services/{NAME}")
    assert service["metadata"]["labels"]["release"] == "upgraded", "what somebody had set by hand is undone"


@contextmanager
def wrong_image(mlo: Mlo, cluster: TestCluster) -> Iterator[None]:
    """For the block, the engine has an image for the spec as it is now, whose model has other weights than was verified."""
    import onnx
    from onnx import numpy_helper

    mlo.run("render", f"{NAME}.yaml", "--output", "rendered", timeout=400)
    rendered = mlo.folder / "rendered"
    model = onnx.load(rendered / "serving" / "model.onnx")
    for weights in model.graph.initializer:
        array = numpy_helper.to_array(weights)
        if array.dtype.kind == "f":
            weights.CopyFrom(numpy_helper.from_array(array * np.float32(0.9), weights.name))
    content = model.SerializeToString()
    settings = (rendered / "serving" / "server.json").read_text("utf-8")
    right_digest = hashlib.sha256((rendered / "serving" / "model.onnx").read_bytes()).hexdigest()
    assert right_digest in settings
    files = {
        "/opt/mlo/serving/model.onnx": content,
        "/opt/mlo/serving/server.json": settings.replace(right_digest, hashlib.sha256(content).hexdigest()).encode(),
    }
    digest = context_digest(rendered)
    name = f"{image(cluster).rpartition(':')[0]}:{digest[:16]}"
    with derived_image(image(cluster), name, files, {CONTEXT_LABEL: f"sha256:{digest}"}):
        yield
    shutil.rmtree(rendered)


def test_wrong_answers_are_refused_and_the_last_revision_keeps_serving(mlo: Mlo, cluster: TestCluster) -> None:
    before, image_before = status(mlo)["revision"], image(cluster)
    file = mlo.folder / f"{NAME}.yaml"
    text = file.read_text("utf-8")
    other = "serving: {backend: onnxruntime, cors: {origins: ['https://wrong.example.com']}}"
    file.write_text(text.replace("serving: {backend: onnxruntime}", other), encoding="utf-8")
    with wrong_image(mlo, cluster):
        told = mlo.run("apply", f"{NAME}.yaml", "--yes", code=1, timeout=400).stderr
    file.write_text(text, encoding="utf-8")
    assert "error[E608]" in told
    assert "help:" in told
    assert f"{NAME} is unchanged: revision {before}" in told
    assert (status(mlo)["health"], status(mlo)["revision"], image(cluster)) == ("healthy", before, image_before)
    assert right(mlo) > 0.98
    assert not candidates(cluster)
    assert f"{NAME}-candidate" not in cluster.helm(NAMESPACE, "list", "--short").split()
    assert "nothing to deploy" in mlo.run("apply", f"{NAME}.yaml", "--yes").stdout


def test_other_settings_of_pods_are_another_release_of_the_same_image(mlo: Mlo, cluster: TestCluster) -> None:
    first = image(cluster)
    file = mlo.folder / f"{NAME}.yaml"
    text = file.read_text("utf-8")
    text = text.replace("pod: {requests: {cpus: 100m}}", "pod: {requests: {cpus: 50m}, labels: {tier: gold}}")
    file.write_text(text, encoding="utf-8")
    assert "`deploy` sets other values of the chart" in mlo.run("plan", f"{NAME}.yaml").stdout
    mlo.run("apply", f"{NAME}.yaml", "--yes", timeout=400)
    (pod,) = cluster.pods(NAMESPACE)
    assert pod["metadata"]["labels"]["tier"] == "gold"
    assert pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "50m"
    assert image(cluster) == first
    assert "nothing to deploy" in mlo.run("apply", f"{NAME}.yaml", "--yes").stdout


def test_an_environment_is_a_namespace_of_its_own(mlo: Mlo, cluster: TestCluster) -> None:
    other = ("--environment", "other")
    assert f"{NAME}.{OTHER}.svc" in mlo.run("plan", f"{NAME}.yaml", *other).stdout
    mlo.run("apply", f"{NAME}.yaml", "--yes", *other, timeout=400)
    assert status(mlo)["endpoint"] == f"http://{NAME}.{OTHER}.svc"
    assert right(mlo) > 0.98
    assert cluster.cluster.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments")["items"] == [], "it has moved"


def test_destroy_removes_what_mlo_made_and_nothing_else(mlo: Mlo, cluster: TestCluster) -> None:
    path = f"/api/v1/namespaces/{OTHER}/configmaps"
    cluster.cluster.call("POST", path, {"metadata": {"name": "theirs"}, "data": {"kept": "yes"}})
    assert f"{NAME}: removed from the namespace {OTHER}" in mlo.run("destroy", NAME, "--yes").stdout
    for kind in ("services", "serviceaccounts", "secrets"):
        found = cluster.cluster.get(f"/api/v1/namespaces/{OTHER}/{kind}")["items"]
        names = [each["metadata"]["name"] for each in found]
        assert not [each for each in names if NAME in each and "token" not in each], kind
    assert cluster.cluster.get(f"/apis/apps/v1/namespaces/{OTHER}/deployments")["items"] == []
    assert cluster.cluster.find(f"{path}/theirs") is not None
