"""A deployment with a certificate at a real Docker Engine, asked by clients of others, while it is replaced too."""

from __future__ import annotations

import json
import ssl
import tempfile
import threading
from collections.abc import Iterator
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import pytest

from tests.certificates import certificate
from tests.e2e.docker_engine import ON_ENGINE, Engine, engine
from tests.e2e.tls_case import REQUEST, curl, files_with, negated, put_model

if TYPE_CHECKING:
    from conftest import Mlo

pytestmark = [*ON_ENGINE, pytest.mark.timeout(900)]
NAME = "docker-tls-e2e"
_SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {{name: {name}}}
model:
  source: {{kind: onnx, weights: negative.onnx}}
  dims: {{batch: {{min: 1, max: 4}}}}
  samples: negative.npz
optimize: {{formats: [onnx], precisions: [fp32], time_budget: 30s}}
hardware: {{cpus: 1, memory: 1Gi}}
serving:
  backend: onnxruntime
  grpc: true
  limits: {{queue: {queue}}}
  tls: {{certificate: {folder}/tls.crt, key: {folder}/tls.key}}
deploy: {{target: docker}}
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, front: None) -> Iterator[Engine]:
    with engine(NAME, tmp_path_factory.mktemp("engine")) as there:
        yield there


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder of the engine's machine that a spec may name."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def put(place: Path) -> Path:
    """A new certificate and its key there; returns the certificate."""
    with tempfile.TemporaryDirectory(dir=place) as made:
        new, key = certificate(Path(made), "tls")
        key.chmod(0o444)
        key.replace(place / "tls.key")
        return new.replace(place / "tls.crt")


def spec(mlo: Mlo, place: Path, queue: int) -> str:
    """Another queue is another release of the same model."""
    put_model(mlo.folder)
    (mlo.folder / "spec.yaml").write_text(_SPEC.format(name=NAME, folder=place, queue=queue), encoding="utf-8")
    return str(mlo.folder / "spec.yaml")


class Asking:
    """Clients that ask without a pause, half of them on a connection that they keep as long as the server does."""

    def __init__(self, endpoint: str, trust: Path) -> None:
        self._port, self._context = urlsplit(endpoint).port, ssl.create_default_context(cafile=str(trust))
        self._over = threading.Event()
        self.answered, self.failed = 0, list[str]()
        self._threads = [threading.Thread(target=self._ask, args=(kept,)) for kept in (True, True, False, False)]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join(90)

    def _ask(self, kept: bool) -> None:
        connection = HTTPSConnection("localhost", self._port, timeout=60, context=self._context)
        while not self._over.is_set():
            try:
                connection.request("POST", f"/v2/models/{NAME}/infer", REQUEST)
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    self.answered += 1
                else:
                    self.failed.append(f"status {answer.status}")
            except (OSError, HTTPException) as error:
                self.failed.append(f"{'kept' if kept else 'new'} connection: {error!r}")
                connection.close()
            if not kept:
                connection.close()
        connection.close()


def test_the_engine_is_asked_for_the_certificate_before_anything_is_computed(
    mlo: Mlo, here: Engine, place: Path
) -> None:
    refused = mlo.run("apply", spec(mlo, place, 128), "--yes", code=1).stderr
    assert "error[E481]" in refused
    assert f"has no file {place}/tls.crt" in refused
    assert "convert.onnx" not in refused
    assert here.containers() == []


def test_it_is_served_over_tls_replaced_under_load_and_renewed(mlo: Mlo, here: Engine, place: Path) -> None:
    trust = put(place)
    told = mlo.run("apply", spec(mlo, place, 128), "--yes", "--json", timeout=600).stdout
    (deployed,) = json.loads(told)["deployments"]
    endpoint = deployed["endpoint"]
    assert endpoint.startswith("https://127.0.0.1:")
    (row,) = mlo.json("status", NAME, "--json")["deployments"]
    assert (row["endpoint"], row["health"]) == (endpoint, "healthy"), row["reason"]
    assert negated(mlo, NAME) == {"y": [[-1.0, -2.0, -3.0]]}
    assert curl(urlsplit(endpoint).port, NAME, trust) == "200"

    grpc = pytest.importorskip("grpc")
    health = pytest.importorskip("grpc_health.v1.health_pb2")
    stub = pytest.importorskip("grpc_health.v1.health_pb2_grpc").HealthStub
    known = grpc.ssl_channel_credentials(trust.read_bytes())
    with grpc.secure_channel(row["grpc"].replace("127.0.0.1", "localhost"), known) as channel:
        answer = stub(channel).Check(health.HealthCheckRequest(service=NAME), timeout=60, wait_for_ready=True)
    assert answer.status == health.HealthCheckResponse.SERVING

    with Asking(endpoint, trust) as asking:
        (again,) = mlo.json("apply", spec(mlo, place, 64), "--yes", "--json")["deployments"]
    assert asking.failed == []
    assert asking.answered > 50
    assert (again["endpoint"], again["revision"]) == (endpoint, deployed["revision"] + 1)

    former, trust = trust.read_bytes(), put(place)
    assert negated(mlo, NAME) == {"y": [[-1.0, -2.0, -3.0]]}  # right away: mlo waits for the server to see it
    assert curl(urlsplit(endpoint).port, NAME, trust) == "200"
    (mlo.folder / "former.crt").write_bytes(former)
    assert "SSL certificate problem" in curl(urlsplit(endpoint).port, NAME, mlo.folder / "former.crt")

    secret = (place / "tls.key").read_text().splitlines()[1]
    for name in here.containers():
        assert secret not in json.dumps(here.api.inspect_container(name))
        assert secret.encode() not in here.api.logs(name)
    assert not files_with(mlo.folder / "home", secret.encode())  # images are made of what is there
