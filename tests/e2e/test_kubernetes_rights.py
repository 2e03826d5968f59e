"""A release by a user who has exactly the Role of docs/kubernetes.md, on a real cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.store.state import Image
from orchestrator.targets.kubernetes.connection import kubeconfig_files
from orchestrator.targets.kubernetes.placement import KubernetesPlacement
from orchestrator.targets.kubernetes.preflight import check_cluster
from orchestrator.targets.kubernetes.target import KubernetesTarget
from orchestrator.targets.target import Release
from tests.e2e.kubernetes_cluster import TestCluster, built_images, missing, rendered
from tests.e2e.test_kubernetes_faults import _SERVER, put
from tests.targets.test_kubernetes import role_of_the_manual

_MISSING = missing()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.kubernetes,
    pytest.mark.timeout(300),
    # The kubeconfig of a test cluster may say that its certificate is not checked.
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
    pytest.mark.skipif(bool(_MISSING), reason=f"a release with the Role of the manual: {_MISSING}"),
]
_RBAC = "/apis/rbac.authorization.k8s.io/v1/namespaces"


@pytest.fixture
def image() -> Iterator[Image]:
    program = _SERVER.replace("VERSION", "one").replace("STATUS", "200")
    with built_images("mlo-e2e-rights", {"one": program}) as built:
        yield built["one"]


@pytest.fixture
def namespace(image: Image) -> Iterator[str]:
    """Removed before the image of its pods is."""
    del image
    with TestCluster.current().namespace("mlo-rights") as name:
        yield name


@pytest.fixture
def deployer(namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KubernetesTarget:
    """A target whose user is a service account with that Role alone."""
    cluster = TestCluster.current()
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    cluster.cluster.call("POST", account, {"metadata": {"name": "deployer"}})
    cluster.cluster.call("POST", f"{_RBAC}/{namespace}/roles", role_of_the_manual())
    binding = {
        "metadata": {"name": "deployer"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "mlo-deployer"},
        "subjects": [{"kind": "ServiceAccount", "name": "deployer", "namespace": namespace}],
    }
    cluster.cluster.call("POST", f"{_RBAC}/{namespace}/rolebindings", binding)
    token = cluster.cluster.call("POST", f"{account}/deployer/token", {"spec": {"expirationSeconds": 3600}})

    (mine, *_) = (yaml.safe_load(file.read_text("utf-8")) for file in kubeconfig_files() if file.is_file())
    context = next(each for each in mine["contexts"] if each["name"] == cluster.context)
    context["context"]["user"] = "deployer"
    mine["users"] = [{"name": "deployer", "user": {"token": token["status"]["token"]}}]
    mine["contexts"], mine["current-context"] = [context], cluster.context
    file = tmp_path / "kubeconfig"
    file.write_text(yaml.safe_dump(mine), encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(file))
    # The second candidate only uses the account that the first release has brought.
    place = KubernetesPlacement(
        context=cluster.context,
        server="",
        namespace=namespace,
        port=80,
        create_namespace=False,
        wait=60.0,
        settings={"serviceAccount": {"name": "server"}},
    )
    return KubernetesTarget("limited", place)


def test_the_role_of_the_manual_is_enough_to_release_to_release_again_and_to_remove(
    deployer: KubernetesTarget, namespace: str, image: Image, tmp_path: Path
) -> None:
    user = TestCluster.current()
    check_cluster(user.cluster, namespace, {}, create=False)
    everything: dict[str, Any] = {
        "replicas": {"min": 1, "max": 2},
        "podDisruptionBudget": {"enabled": True},
        "ingress": {"enabled": True, "hosts": ["limited.example.com"]},
    }
    for revision in (1, 2):
        serving = rendered(tmp_path / f"limited-{revision}", "limited", **everything)
        put(deployer, Release(revision, serving, "onnxruntime", "limited", 1, 20, image))
        assert deployer.observe().revision == revision
    released = {each["kind"] for each in yaml.safe_load_all(user.helm(namespace, "get", "manifest", "limited")) if each}
    assert {"Ingress", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount"} <= released
    assert list(deployer.logs())
    deployer.stop()
    assert deployer.observe().health == "stopped"
