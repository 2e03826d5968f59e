"""A deployment with a certificate, from its spec to answers, and what of the key is left anywhere: nothing."""

from __future__ import annotations

import ssl
import tempfile
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.certificates import certificate
from tests.e2e.tls_case import files_with, negated, put_model

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

_SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: serving-tls}
model:
  source: {kind: onnx, weights: negative.onnx}
  dims: {batch: {min: 1, max: 4}}
  samples: negative.npz
optimize: {formats: [onnx], precisions: [fp32], time_budget: 30s}
hardware: {cpus: 1, memory: 1Gi}
serving:
  backend: onnxruntime
"""


@pytest.fixture(scope="module")
def spec(mlo: Mlo) -> Path:
    put_model(mlo.folder)
    written: Path = mlo.folder / "spec.yaml"
    return written


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that a spec may name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def test_it_is_asked_over_tls_and_no_key_is_kept(mlo: Mlo, spec: Path, place: Path) -> None:
    trust, key = certificate(place, "server")
    spec.write_text(f"{_SPEC}  tls: {{certificate: {trust}, key: {key}}}\n", encoding="utf-8")
    (deployment,) = mlo.json("apply", str(spec), "--yes", "--json")["deployments"]
    endpoint = deployment["endpoint"]
    assert endpoint.startswith("https://127.0.0.1:")
    assert mlo.json("status", "serving-tls", "--json")["deployments"][0]["endpoint"] == endpoint
    assert negated(mlo, "serving-tls") == {"y": [[-1.0, -2.0, -3.0]]}
    context = ssl.create_default_context(cafile=str(trust))
    with urllib.request.urlopen(f"{endpoint}/v2/health/ready", context=context, timeout=30) as answer:
        assert answer.status == 200

    secret = key.read_bytes().splitlines()[1]
    assert not files_with(mlo.folder / "home", secret)

    certificate(place, "server", ends=timedelta(minutes=-1))
    refused = mlo.run("plan", str(spec), code=65)
    assert "error[E481]" in refused.stderr
    assert "has expired" in refused.stderr
