"""TorchServe in a pod of a real cluster, from a spec, through mlo's commands."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.backends.table import serving_backend
from tests.e2e.conftest import torchserve_spec
from tests.e2e.kubernetes_cluster import TestCluster, missing, remove_images
from tests.e2e.test_docker import digits_right

if TYPE_CHECKING:
    from conftest import Mlo

_MISSING = missing()
NO_TORCHSERVE = serving_backend("torchserve").unavailable()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.kubernetes,
    pytest.mark.timeout(900),
    # The kubeconfig of a test cluster may say that its certificate is not checked.
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
    pytest.mark.skipif(bool(_MISSING), reason=f"TorchServe on a cluster: {_MISSING}"),
    pytest.mark.skipif(NO_TORCHSERVE is not None, reason=f"TorchServe cannot be measured here: {NO_TORCHSERVE}"),
]
NAME = "torchserve-on-pods"


def test_torchserve_serves_from_a_pod(mlo: Mlo, wheelhouse: Path) -> None:
    namespace = f"mlo-torchserve-{os.getpid()}"
    deploy = (
        f"{{target: kubernetes, namespace: {namespace}, create_namespace: true, pod: {{requests: {{cpus: 100m}}}}}}"
    )
    file = torchserve_spec(mlo, NAME, deploy, wheelhouse)
    cluster = TestCluster.current()
    try:
        told = mlo.run("apply", str(file), "--yes", "--json", timeout=800).stdout  # the image is large
        (deployed,) = json.loads(told)["deployments"]
        assert (deployed["target"], deployed["backend"]) == ("kubernetes", "torchserve")
        assert digits_right(mlo, NAME) > 0.97
        (row,) = mlo.json("status", NAME, "--json")["deployments"]
        assert row["health"] == "healthy", row["reason"]
        assert mlo.run("logs", NAME).stdout
        (pod,) = cluster.pods(namespace)
        assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
        mlo.run("destroy", NAME, "--yes")
    finally:
        if cluster.cluster.find(f"/api/v1/namespaces/{namespace}") is not None:
            cluster.cluster.call("DELETE", f"/api/v1/namespaces/{namespace}")
        remove_images(NAME)
