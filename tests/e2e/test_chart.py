"""The chart on a real cluster: installed, tested by `helm test`, upgraded and removed, with what platform teams set."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.backends.onnxruntime.backend import ONNXRUNTIME
from orchestrator.backends.versions import installed_closure
from tests.render.conftest import render_to
from tests.render.served import negative

__all__ = ["render_to"]

pytestmark = [pytest.mark.e2e, pytest.mark.kubernetes, pytest.mark.timeout(900)]

RELEASE = "digits"
READY = "180s"


def tool(*argv: str, code: int = 0, stdin: str = "", seconds: float = 300) -> str:
    """Run a program; what it prints."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds, check=False, input=stdin)
    assert (done.returncode == 0) is (code == 0), f"{' '.join(argv)}\n{done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Namespace:
    """A namespace of its own on the cluster."""

    name: str

    def kubectl(self, *argv: str, stdin: str = "") -> str:
        return tool("kubectl", "--namespace", self.name, *argv, stdin=stdin)

    def helm(self, *argv: str, code: int = 0) -> str:
        return tool("helm", "--namespace", self.name, *argv, code=code)

    def there(self, kind: str) -> list[dict[str, Any]]:
        found = json.loads(
            self.kubectl("get", kind, "--selector", f"app.kubernetes.io/instance={RELEASE}", "-o", "json")
        )
        items: list[dict[str, Any]] = found["items"]
        return items

    def pod(self) -> dict[str, Any]:
        """The pod that serves, and none that ends."""
        until = time.monotonic() + 120
        while True:
            pods = [each for each in self.there("pods") if "deletionTimestamp" not in each["metadata"]]
            if len(pods) == 1 or time.monotonic() > until:
                (pod,) = pods
                return pod
            time.sleep(0.5)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    for program in ("docker", "helm", "kubectl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not on the PATH, so the chart was not tried on a Kubernetes cluster")
    if "KUBECONFIG" not in os.environ:
        pytest.skip("KUBECONFIG is not set, so the chart was not tried on a Kubernetes cluster")
    nodes = json.loads(tool("kubectl", "get", "nodes", "-o", "json"))["items"]
    if not all(each["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("docker:") for each in nodes):
        pytest.skip(
            "the nodes of this Kubernetes cluster do not use the Docker Engine's images, so the chart was not tried on it"
        )
    mine = Namespace(f"mlo-chart-{secrets.token_hex(3)}")
    tool("kubectl", "create", "namespace", mine.name)
    try:
        yield mine
    finally:
        tool("kubectl", "delete", "namespace", mine.name, "--wait=false")


@dataclass(frozen=True)
class Chart:
    """What was rendered for a model that negates its input, with its image built."""

    folder: Path
    image: str

    def arguments(self, values: dict[str, Any] | None = None, *, wait: bool = True) -> list[str]:
        """Of `helm install` and `helm upgrade`."""
        repository, _, tag = self.image.rpartition(":")
        mine = self.folder.parent / f"mine-{secrets.token_hex(3)}.yaml"
        image = {"repository": repository, "tag": tag, "pullPolicy": "Never"}
        mine.write_text(yaml.safe_dump({**(values or {}), "image": image}))
        files = ("--values", str(self.folder / "values.yaml"), "--values", str(mine))
        return [RELEASE, str(self.folder / "chart"), *files, *(("--wait", "--timeout", READY) if wait else ())]


@pytest.fixture
def built(render_to: Callable[..., Path]) -> Iterator[Callable[..., Chart]]:
    images = []

    def build(**changes: Any) -> Chart:
        folder = render_to(
            "onnxruntime", model=negative(), tools=installed_closure(ONNXRUNTIME.tools), registry=None,
            cpus=0.25, memory=2**28, cpu_request=0.1, memory_request=2**26, max_replicas=1, **changes,
        )  # fmt: skip
        image = f"mlo-chart/digits:{secrets.token_hex(4)}"
        tool(
            "docker", "build", "--file", str(folder / "docker" / "Dockerfile"), "--tag", image, str(folder), seconds=840
        )
        images.append(image)
        return Chart(folder, image)

    yield build
    for image in images:
        subprocess.run(["docker", "rmi", image], capture_output=True, timeout=60, check=False)  # a pod may still use it


def test_it_is_installed_tested_upgraded_and_removed(namespace: Namespace, built: Callable[..., Chart]) -> None:
    chart = built()
    namespace.helm("install", *chart.arguments())
    assert "Succeeded" in namespace.helm("test", RELEASE, "--timeout", "90s")
    before = namespace.pod()
    spec = before["spec"]
    assert spec["terminationGracePeriodSeconds"] == 40
    assert not {"runAsUser", "fsGroup"} & spec["securityContext"].keys()
    assert namespace.kubectl("exec", before["metadata"]["name"], "--", "id", "-u").strip() == "65532", "the image's own"
    assert namespace.there("networkpolicy")
    assert not namespace.there("poddisruptionbudget")

    namespace.helm("upgrade", *chart.arguments({"replicas": {"min": 2, "max": 2}}))
    changed = {"shutdown": {"drainSeconds": 7}, "podLabels": {"example.com/tier": "gold"}, "replicas": {"max": 3}}
    namespace.helm("upgrade", *chart.arguments(changed))
    assert "Succeeded" in namespace.helm("test", RELEASE, "--timeout", "90s")
    assert "replicas: 2" in namespace.helm("get", "manifest", RELEASE), "the autoscaler goes on from what there is"
    assert json.loads(namespace.kubectl("get", "deployment", RELEASE, "-o", "json"))["spec"]["replicas"] == 2
    namespace.kubectl("scale", f"deployment/{RELEASE}", "--replicas", "1")
    after = namespace.pod()
    assert after["metadata"]["labels"]["example.com/tier"] == "gold"
    (server,) = after["spec"]["containers"]
    assert server["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "2"], "the server answers for 5 by itself"
    assert namespace.there("poddisruptionbudget")
    (autoscaler,) = namespace.there("horizontalpodautoscaler")
    assert autoscaler["spec"]["maxReplicas"] == 3

    namespace.kubectl("scale", f"deployment/{RELEASE}", "--replicas", "2")  # as the autoscaler does
    namespace.helm("upgrade", *chart.arguments({**changed, "podLabels": {}}, wait=False))
    assert namespace.there("deployment")[0]["spec"]["replicas"] == 2, "an upgrade resets what the autoscaler has set"

    namespace.kubectl("scale", f"deployment/{RELEASE}", "--replicas", "0")
    until = time.monotonic() + 60
    while namespace.kubectl("get", "endpoints", RELEASE, "-o", "jsonpath={.subsets}"):
        assert time.monotonic() < until, "a pod that stops still gets requests"
        time.sleep(0.5)
    namespace.helm("test", RELEASE, "--timeout", "60s", code=1)

    namespace.kubectl("delete", "pod", f"{RELEASE}-ready")  # Helm keeps what failed, for its log
    namespace.helm("uninstall", RELEASE, "--wait", "--timeout", "90s")
    kinds = "deployment,service,serviceaccount,networkpolicy,poddisruptionbudget,horizontalpodautoscaler"
    assert namespace.there(kinds) == []
    assert all("deletionTimestamp" in each["metadata"] for each in namespace.there("pods"))


def test_what_platform_teams_set_reaches_the_pod(namespace: Namespace, built: Callable[..., Chart]) -> None:
    chart = built()
    namespace.kubectl("create", "secret", "generic", "keys", "--from-literal=key=from-a-secret")
    namespace.kubectl("create", "configmap", "settings", "--from-literal=REGION=from-a-configmap")
    node = json.loads(tool("kubectl", "get", "nodes", "-o", "json"))["items"][0]["metadata"]["labels"][
        "kubernetes.io/hostname"
    ]
    same = {"image": chart.image, "imagePullPolicy": "Never"}
    shared = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    values = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "tolerations": [{"key": "models", "operator": "Exists"}],
        "env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "key"}}}],
        "envFrom": [{"configMapRef": {"name": "settings"}}],
        "volumes": [{"name": "shared", "emptyDir": {}}],
        **shared,
        "initContainers": [
            {"name": "write", **same, **shared, "command": ["/bin/bash", "-c", "echo written > /shared/first"]}
        ],
        "sidecars": [{"name": "beside", **same, "command": ["sleep", "600"]}],
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/models"}},
        "service": {"annotations": {"example.com/internal": "true"}},
        "ingress": {"enabled": True, "hosts": ["digits.example.com"], "className": "nginx"},
        "shutdown": {"drainSeconds": 5, "requestSeconds": 1},
    }
    namespace.helm("install", *chart.arguments(values))
    assert "Succeeded" in namespace.helm("test", RELEASE, "--timeout", "90s")
    pod = namespace.pod()
    seen = namespace.kubectl(
        "exec", pod["metadata"]["name"], "--container", "server", "--",
        "/bin/bash", "-c", "echo $KEY $REGION; cat /shared/first",
    )  # fmt: skip
    assert seen.split() == ["from-a-secret", "from-a-configmap", "written"]
    assert {each["name"]: each["ready"] for each in pod["status"]["containerStatuses"]} == {
        "server": True,
        "beside": True,
    }
    (account,) = namespace.there("serviceaccount")
    assert account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].endswith("role/models")
    (ingress,) = namespace.there("ingress.networking.k8s.io")
    assert ingress["spec"]["rules"][0]["host"] == "digits.example.com"


def test_it_runs_as_a_user_that_the_cluster_assigns_and_reads_its_tokens(
    namespace: Namespace, built: Callable[..., Chart]
) -> None:
    """As under OpenShift's restricted-v2: a user of the namespace's range, and group 0. It adds a file-system group, too."""
    token = secrets.token_hex(16)
    chart = built(auth={"token_file": "/run/secrets/digits/token", "secret": "digits-token"})
    namespace.kubectl("create", "secret", "generic", "digits-token", f"--from-literal=token={token}")
    user = {"podSecurityContext": {"runAsUser": 1000660000, "runAsGroup": 0}, "shutdown": {"requestSeconds": 1}}
    namespace.helm("install", *chart.arguments(user))
    pod = namespace.pod()["metadata"]["name"]
    assert namespace.kubectl("exec", pod, "--", "id", "-u").strip() == "1000660000"
    assert "Succeeded" in namespace.helm("test", RELEASE, "--timeout", "90s")
    assert [status(namespace, pod, each) for each in (token, "another-token-of-16")] == [200, 401]


def status(namespace: Namespace, pod: str, token: str) -> int:
    """What the server answers to a request with this token, asked by Python in its own pod."""
    script = (
        "import json, sys, urllib.error, urllib.request\n"
        "body = json.dumps({'inputs': [{'name': 'x', 'datatype': 'FP32', 'shape': [1, 3], 'data': [1, 2, 3]}]}).encode()\n"
        "asked = urllib.request.Request('http://localhost:8080/v2/models/digits/infer', body,\n"
        "                               {'Authorization': 'Bearer ' + sys.argv[1], 'Content-Type': 'application/json'})\n"
        "try:\n"
        "    print(urllib.request.urlopen(asked, timeout=10).status)\n"
        "except urllib.error.HTTPError as error:\n"
        "    print(error.code)\n"
    )
    return int(namespace.kubectl("exec", pod, "--", "/opt/venv/bin/python", "-c", script, token))
