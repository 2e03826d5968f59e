"""What a release on a real cluster does when something is wrong: it says so, and what serves keeps serving."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.errors import Busy, DeployFailed
from orchestrator.store.state import Image
from orchestrator.targets.kubernetes.connection import kubeconfig_files
from orchestrator.targets.kubernetes.helm import Helm
from orchestrator.targets.kubernetes.placement import KubernetesPlacement
from orchestrator.targets.kubernetes.target import KubernetesTarget
from orchestrator.targets.target import Release
from tests.e2e.kubernetes_cluster import TestCluster, built_images, cut_off, missing, rendered

_MISSING = missing()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.kubernetes,
    pytest.mark.timeout(300),
    # The kubeconfig of a test cluster may say that its certificate is not checked.
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
    pytest.mark.skipif(bool(_MISSING), reason=f"deployments to Kubernetes: {_MISSING}"),
]

_SERVER = """
import http.server, os, signal, sys
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(STATUS if "ready" in self.path else 200)
        self.end_headers()
        self.wfile.write(b"VERSION")
    def log_message(self, *a): pass
signal.signal(signal.SIGTERM, lambda *a: sys.exit(0))
print("version VERSION is up")
http.server.ThreadingHTTPServer(("", 8080), Answer).serve_forever()
"""
_CRASHING = "print('loading'); print('the model file is damaged'); raise SystemExit(3)"
_HUNGRY = "print('loading'); kept = [bytearray(b'x' * (1 << 24)) for _ in range(200)]"

Start = Callable[..., Release]


@pytest.fixture(scope="module")
def cluster() -> TestCluster:
    return TestCluster.current()


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, Image]]:
    programs = {
        "one": _SERVER.replace("VERSION", "one").replace("STATUS", "200"),
        "two": _SERVER.replace("VERSION", "two").replace("STATUS", "200"),
        "unready": _SERVER.replace("VERSION", "unready").replace("STATUS", "503"),
        "crashing": _CRASHING,
        "hungry": _HUNGRY,
    }
    with built_images("mlo-e2e-kubernetes", programs) as built:
        yield {**built, "nowhere": Image(name="mlo-e2e-nowhere:1", id="sha256:0", platform="linux/amd64")}


@pytest.fixture(scope="module")
def namespace(cluster: TestCluster, images: dict[str, Image]) -> Iterator[str]:
    """Removed before the images of its pods are."""
    with cluster.namespace("mlo-faults") as name:
        yield name


def placed(cluster: TestCluster, namespace: str, name: str, wait: float = 60.0) -> KubernetesTarget:
    place = KubernetesPlacement(
        context=cluster.context, server="", namespace=namespace, port=80, create_namespace=False, wait=wait
    )
    return KubernetesTarget(name, place)


@pytest.fixture
def release(images: dict[str, Image], tmp_path: Path) -> Start:
    def release(revision: int, image: str, name: str = "faulty", **values: Any) -> Release:
        return Release(
            revision=revision,
            serving=rendered(tmp_path / f"{name}-{revision}", name, **values),
            backend="onnxruntime",
            model=name,
            threads=1,
            startup_seconds=20,
            image=images[image],
        )

    return release


def put(target: KubernetesTarget, release: Release, said: list[str] | None = None) -> None:
    """Take a release live, as `release/` does."""
    target.prepare()
    with target.lock():
        target.start(release, (said if said is not None else []).append)
        target.switch(release.revision)


def asked(target: KubernetesTarget) -> str:
    with urllib.request.urlopen(target.url() + "/", timeout=20) as answer:
        return str(answer.read().decode())


@pytest.fixture(scope="module")
def serving(
    cluster: TestCluster, namespace: str, images: dict[str, Image], tmp_path_factory: pytest.TempPathFactory
) -> KubernetesTarget:
    """Revision 1, which must keep serving in all that follows."""
    target = placed(cluster, namespace, "faulty")
    folder = tmp_path_factory.mktemp("one") / "rendered"
    put(
        target,
        Release(1, rendered(folder, "faulty"), "onnxruntime", "faulty", 1, 20, images["one"]),
    )
    return target


def still_serves(target: KubernetesTarget) -> None:
    observed = target.observe()
    assert (observed.health, observed.revision) == ("healthy", 1), observed
    assert asked(target) == "one"


@pytest.mark.parametrize(
    ("image", "values", "wait", "code", "expected", "remedy"),
    [
        ("nowhere", {}, 8.0, "E656", ["mlo-e2e-nowhere:1 cannot be pulled"], "image: registry:"),
        (
            "two",
            {"resources": {"requests": {"cpu": "900"}, "limits": {"cpu": "900"}}},
            5.0,
            "E657",
            ["no node takes the pod", "Insufficient cpu"],
            "hardware: {cpus, memory}",
        ),
        ("crashing", {}, 60.0, "E658", ["exited with code 3", "the model file is damaged"], "docker run"),
        ("hungry", {}, 60.0, "E659", ["limit of 64Mi", "OOMKilled"], "hardware: memory:"),
        (
            "two",
            {"envFrom": [{"secretRef": {"name": "not-there"}}]},
            5.0,
            "E663",
            ['secret "not-there" not found'],
            "Secret",
        ),
    ],
    ids=["image", "cpu", "crash", "memory", "secret"],
)
def test_a_revision_that_does_not_come_up_says_why_and_the_last_one_keeps_serving(
    serving: KubernetesTarget,
    cluster: TestCluster,
    namespace: str,
    release: Start,
    image: str,
    values: dict[str, Any],
    wait: float,
    code: str,
    expected: list[str],
    remedy: str,
) -> None:
    target, said = placed(cluster, namespace, "faulty", wait), list[str]()
    with pytest.raises(DeployFailed) as failed:
        put(target, release(2, image, **values), said)
    (problem,) = failed.value.diagnostics
    assert problem.code == code, problem
    assert all(text in problem.cause for text in expected), problem
    assert remedy in problem.remedy
    assert any(line.startswith("pod faulty-candidate-") for line in said), (
        f"the live view tells what the pod does: {said}"
    )
    still_serves(serving)
    assert not [pod for pod in cluster.pods(namespace) if "candidate" in pod["metadata"]["name"]]
    assert "faulty-candidate" not in cluster.helm(namespace, "list", "--short").split()


def test_a_quota_that_is_used_up_is_named(
    serving: KubernetesTarget, cluster: TestCluster, namespace: str, release: Start
) -> None:
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    cluster.cluster.call("POST", path, {"metadata": {"name": "team"}, "spec": {"hard": {"limits.memory": "80Mi"}}})
    while "used" not in cluster.cluster.get(f"{path}/team").get("status", {}):
        time.sleep(0.2)
    try:
        with pytest.raises(DeployFailed) as failed:
            put(placed(cluster, namespace, "faulty", 8.0), release(2, "two"))
    finally:
        cluster.cluster.call("DELETE", f"{path}/team")
    (problem,) = failed.value.diagnostics
    assert problem.code == "E657"
    assert problem.cause.startswith(
        "`limits.memory` of the quota `team` is 80Mi: "
    )  # pods that end are counted as well
    assert problem.cause.endswith("are used, and up to 64Mi more are needed")
    assert "kubectl describe quota" in problem.remedy
    still_serves(serving)
    assert not [pod for pod in cluster.pods(namespace) if "candidate" in pod["metadata"]["name"]]


def test_an_upgrade_that_fails_is_rolled_back(
    serving: KubernetesTarget, cluster: TestCluster, namespace: str, images: dict[str, Image], release: Start
) -> None:
    target = placed(cluster, namespace, "faulty", 20.0)
    good = release(2, "two")
    with target.lock():
        target.start(good)
        target._releases[2] = Release(2, good.serving, "onnxruntime", "faulty", 1, 20, images["crashing"])
        with pytest.raises(DeployFailed) as failed:
            target.switch(2)
    assert failed.value.diagnostics[0].code == "E658"
    assert not getattr(failed.value, "__notes__", [])
    still_serves(serving)


def test_what_a_killed_client_left_is_settled_by_the_next_one(
    serving: KubernetesTarget, cluster: TestCluster, namespace: str, release: Start
) -> None:
    broken = release(2, "unready")
    upgrading = subprocess.Popen(
        [
            *("helm", "upgrade", "--install", "faulty", str(broken.rendered / "chart"), "--namespace", namespace),
            *("--values", str(broken.rendered / "values.yaml"), "--wait", "--set", "fullnameOverride=faulty"),
            *("--set", "image.repository=mlo-e2e-kubernetes,image.tag=unready,model.revision=2"),
        ]
    )
    deadline = time.monotonic() + 60
    while serving.observe().revision != 2:
        assert time.monotonic() < deadline
        time.sleep(0.3)
    upgrading.kill()
    upgrading.wait()
    observed = serving.observe()
    assert observed.health == "degraded"
    assert "pending-upgrade" in observed.reason
    assert asked(serving) == "one", "the old pod serves while the new one is not ready"
    with serving.lock():
        pass
    still_serves(serving)


def test_another_command_is_refused_while_one_deploys(
    serving: KubernetesTarget, cluster: TestCluster, namespace: str
) -> None:
    other = placed(cluster, namespace, "faulty")
    with serving.lock(), pytest.raises(Busy) as busy, other.lock():
        pass
    assert "holds the Lease mlo-faulty" in busy.value.diagnostics[0].cause


def test_deployments_of_one_namespace_do_not_touch_each_other(
    serving: KubernetesTarget, cluster: TestCluster, namespace: str, release: Start
) -> None:
    other = placed(cluster, namespace, "faulty-too")
    put(other, release(1, "two", "faulty-too"))
    assert asked(other) == "two"
    still_serves(serving)
    assert other.stop() is not None
    assert other.observe().health == "stopped"
    still_serves(serving)
    with pytest.raises(DeployFailed) as refused:
        placed(cluster, namespace, "faulty-candidate").check()
    assert refused.value.diagnostics[0].code == "E655"


def test_a_release_of_somebody_else_is_left_alone(cluster: TestCluster, namespace: str, tmp_path: Path) -> None:
    chart = tmp_path / "theirs"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("{apiVersion: v2, name: theirs, version: 1.0.0}", encoding="utf-8")
    (chart / "templates" / "map.yaml").write_text(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: theirs}}", encoding="utf-8"
    )
    cluster.helm(namespace, "install", "taken", str(chart))
    target = placed(cluster, namespace, "taken")
    for refused_action in (target.check, target.stop):
        with pytest.raises(DeployFailed) as refused:
            refused_action()
        assert refused.value.diagnostics[0].code == "E662"
        assert "theirs-1.0.0" in refused.value.diagnostics[0].cause
    assert "taken" in cluster.helm(namespace, "list", "--short")


def test_a_namespace_that_does_not_exist_is_named(cluster: TestCluster) -> None:
    with pytest.raises(DeployFailed) as refused:
        placed(cluster, "mlo-not-there", "faulty").check()
    assert refused.value.diagnostics[0].code == "E655"
    assert "kubectl create namespace mlo-not-there" in refused.value.diagnostics[0].remedy


def test_a_cluster_without_kserve_is_refused_where_the_spec_asks_for_it(cluster: TestCluster, namespace: str) -> None:
    kind = "inferenceservices.serving.kserve.io"
    if cluster.cluster.find(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind}") is not None:
        pytest.skip("this cluster has KServe")
    place = KubernetesPlacement(
        context=cluster.context,
        server="",
        namespace=namespace,
        port=80,
        create_namespace=False,
        wait=10.0,
        settings={"inferenceService": {"enabled": True}},
    )
    with pytest.raises(DeployFailed) as refused:
        KubernetesTarget("kserved", place).check()
    (problem,) = refused.value.diagnostics
    assert problem.code == "E665"
    assert kind in problem.remedy


def test_a_cluster_that_goes_away_is_named_and_its_pods_keep_serving(
    serving: KubernetesTarget,
    cluster: TestCluster,
    namespace: str,
    release: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tmp_path / "config"
    config.write_bytes(kubeconfig_files()[0].read_bytes())
    with cut_off(config) as (behind, cut):
        monkeypatch.setenv("KUBECONFIG", str(behind))
        target = placed(cluster, namespace, "faulty")
        target.check()
        threading.Timer(2.0, cut.set).start()
        with pytest.raises(DeployFailed) as gone:
            put(target, release(2, "unready"))
        assert gone.value.diagnostics[0].code in {"E652", "E661"}, gone.value.diagnostics
        with pytest.raises(DeployFailed) as unseen:
            target.observe()
        assert unseen.value.diagnostics[0].code == "E652"
        assert "kubectl cluster-info" in unseen.value.diagnostics[0].remedy
    monkeypatch.undo()
    with serving.lock():  # settles the candidate
        pass
    still_serves(serving)


def test_a_user_with_few_rights_is_told_which_are_missing(
    cluster: TestCluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = cluster.cluster
    api.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": "reader"}})
    secret = {
        "metadata": {"name": "reader-token", "annotations": {"kubernetes.io/service-account.name": "reader"}},
        "type": "kubernetes.io/service-account-token",
    }
    api.call("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
    token = ""
    deadline = time.monotonic() + 30
    while not token and time.monotonic() < deadline:
        found = api.get(f"/api/v1/namespaces/{namespace}/secrets/reader-token")
        token = base64.b64decode(found.get("data", {}).get("token", "")).decode()
        time.sleep(0.3)
    assert token
    document = yaml.safe_load(kubeconfig_files()[0].read_text("utf-8"))
    document["users"] = [{"name": each["name"], "user": {"token": token}} for each in document["users"]]
    config = tmp_path / "config"
    config.write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(config))
    with pytest.raises(DeployFailed) as refused:
        placed(cluster, namespace, "faulty").check()
    (problem,) = refused.value.diagnostics
    assert problem.code == "E654"
    assert "get secrets" in problem.cause
    assert "docs/kubernetes.md" in problem.remedy
    document["users"] = [{"name": each["name"], "user": {"token": "wrong"}} for each in document["users"]]
    config.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DeployFailed) as unknown:
        placed(cluster, namespace, "faulty").check()
    assert "log in again" in unknown.value.diagnostics[0].remedy


def test_a_release_that_is_unknown_has_an_empty_history(cluster: TestCluster, namespace: str) -> None:
    assert Helm(cluster.context, namespace).history("never") == ()
    target = placed(cluster, namespace, "never")
    assert (target.observe().health, target.history(), target.stop()) == ("stopped", (), ())
