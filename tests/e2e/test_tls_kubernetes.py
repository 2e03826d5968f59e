"""A deployment with a certificate on a real cluster: from the Secret that is missing to pods that others ask, and its renewal."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.certificates import certificate
from tests.e2e.kubernetes_cluster import TestCluster, missing
from tests.e2e.tls_case import curl, files_with, negated, put_model

if TYPE_CHECKING:
    from conftest import Mlo

_MISSING = missing() or ("" if shutil.which("kubectl") else "kubectl is not on the PATH")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.kubernetes,
    pytest.mark.timeout(900),
    # The kubeconfig of a test cluster may say that its certificate is not checked.
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
    pytest.mark.skipif(bool(_MISSING), reason=f"a certificate on a cluster: {_MISSING}"),
]
NAME = "tls-on-pods"
_SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {{name: {name}}}
model:
  source: {{kind: onnx, weights: negative.onnx}}
  dims: {{batch: {{min: 1, max: 4}}}}
  samples: negative.npz
optimize: {{formats: [onnx], precisions: [fp32], time_budget: 30s}}
hardware: {{cpus: 1, memory: 512Mi}}
serving:
  backend: onnxruntime
  tls: {{certificate: /run/secrets/{name}/tls.crt, key: /run/secrets/{name}/tls.key}}
deploy: {{target: kubernetes, namespace: {namespace}, pod: {{requests: {{cpus: 100m}}}}}}
"""


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    with TestCluster.current().namespace("mlo-tls") as name:
        yield name


@pytest.fixture(scope="module")
def spec(mlo: Mlo, namespace: str) -> str:
    put_model(mlo.folder)
    (mlo.folder / "spec.yaml").write_text(_SPEC.format(name=NAME, namespace=namespace), encoding="utf-8")
    return "spec.yaml"


@contextmanager
def forwarded(namespace: str) -> Iterator[int]:
    """A port of this machine that leads to the Service, by kubectl."""
    words = ["kubectl", "port-forward", "--namespace", namespace, f"service/{NAME}", ":80"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"127\.0\.0\.1:([0-9]+)", process.stdout.readline())
            assert found is not None
            yield int(found[1])
        finally:
            process.terminate()


def test_a_missing_secret_is_made_as_told_and_pods_serve_over_tls(
    mlo: Mlo, spec: str, namespace: str, tmp_path: Path
) -> None:
    refused = " ".join(mlo.run("apply", spec, "--yes", code=1).stderr.split())
    assert f"error[E663]: there is no Secret `{NAME}-tls` in the namespace `{namespace}`" in refused
    told = re.search(r"`(kubectl create secret tls .*?)`", refused)
    assert told is not None, refused
    trust, _ = certificate(tmp_path, "tls")
    subprocess.run(shlex.split(told[1]), check=True, cwd=tmp_path, timeout=60)

    (deployed,) = json.loads(mlo.run("apply", spec, "--yes", "--json", timeout=600).stdout)["deployments"]
    assert deployed["endpoint"] == f"https://{NAME}.{namespace}.svc:80"
    (row,) = mlo.json("status", NAME, "--json")["deployments"]
    assert (row["endpoint"], row["health"]) == (deployed["endpoint"], "healthy"), row["reason"]
    assert negated(mlo, NAME) == {"y": [[-1.0, -2.0, -3.0]]}
    with forwarded(namespace) as port:
        assert curl(port, NAME, trust) == "200"
    assert "nothing to deploy" in mlo.run("apply", spec, "--yes").stdout

    cluster, former = TestCluster.current(), tmp_path / "former.crt"
    shutil.copy(trust, former)
    certificate(tmp_path, "tls")
    renewed = [*shlex.split(told[1]), "--dry-run=client", "--output", "yaml"]
    text = subprocess.run(renewed, check=True, cwd=tmp_path, timeout=60, capture_output=True).stdout
    subprocess.run(["kubectl", "apply", "--filename", "-"], input=text, check=True, timeout=60)
    pods = [pod["metadata"]["name"] for pod in cluster.pods(namespace)]
    # A kubelet looks at a Secret once a minute, and at once if its pod changes.
    subprocess.run(["kubectl", "annotate", "pod", *pods, "looked=at", "--namespace", namespace], check=True, timeout=60)
    assert negated(mlo, NAME) == {"y": [[-1.0, -2.0, -3.0]]}  # whichever of the two the pod shows
    with forwarded(namespace) as port:
        deadline = time.monotonic() + 150
        while curl(port, NAME, trust) != "200":
            assert time.monotonic() < deadline, "the renewed certificate is not shown"
            time.sleep(1)
        assert "SSL certificate problem" in curl(port, NAME, former)
    assert [pod["metadata"]["name"] for pod in cluster.pods(namespace)] == pods, "no pod was replaced for it"

    secret = (tmp_path / "tls.key").read_bytes().splitlines()[1]
    assert not files_with(mlo.folder / "home", secret)
