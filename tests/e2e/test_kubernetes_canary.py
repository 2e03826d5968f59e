"""Canaries on a real cluster: what share they really get, and that they are promoted, taken back and settled by themselves."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import pytest

from orchestrator.errors import DeployFailed
from orchestrator.events import Event, Observer, StepEnded, StepProgress, ignore
from orchestrator.measure.load_connections import http_request
from orchestrator.measure.side_by_side import Allowed, Asked
from orchestrator.release.canary import CanaryRun
from orchestrator.store.state import Image
from orchestrator.targets.kubernetes.placement import KubernetesPlacement
from orchestrator.targets.kubernetes.target import KubernetesTarget
from orchestrator.targets.section import Canary
from orchestrator.targets.target import Release
from tests.e2e.kubernetes_cluster import TestCluster, built_images, missing, remove_images, rendered

if TYPE_CHECKING:
    from conftest import Mlo

_MISSING = missing()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.kubernetes,
    pytest.mark.timeout(600),
    # The kubeconfig of a test cluster may say that its certificate is not checked.
    pytest.mark.filterwarnings("ignore:Unverified HTTPS request"),
    pytest.mark.skipif(bool(_MISSING), reason=f"canaries on Kubernetes: {_MISSING}"),
]
NAME = "canary"
DIGITS = Path(__file__).resolve().parents[2] / "specs" / "digits"

_SERVER = """
import http.server, signal, threading, time
class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.say()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(SECONDS)
        self.say()
    def say(self):
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"VERSION")
    def log_message(self, *a): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
server = Server(("", 8080), Answer)
# It answers for a while after SIGTERM, until all nodes know that it gets no more connections.
signal.signal(signal.SIGTERM, lambda *a: threading.Timer(4.0, server.shutdown).start())
server.serve_forever()
"""

_CLIENT = """
import collections, http.client, json, threading, time
counts, failures = collections.Counter(), []
def ask():
    while True:
        try:
            connection = http.client.HTTPConnection("ADDRESS", 80, timeout=20)
            connection.request("POST", "/v2/models/canary/infer", b"{}")
            answer = connection.getresponse()
            counts[answer.read().decode()] += 1
            if answer.status != 200:
                failures.append(f"status {answer.status}")
            connection.close()
        except Exception as error:
            failures.append(repr(error))
        time.sleep(0.01)
for _ in range(2):
    threading.Thread(target=ask, daemon=True).start()
while True:
    time.sleep(0.25)
    print(json.dumps({"answers": counts, "failures": failures[:5], "failed": len(failures)}), flush=True)
"""


@pytest.fixture(scope="module")
def cluster() -> TestCluster:
    return TestCluster.current()


@pytest.fixture(scope="module")
def images() -> Iterator[dict[str, Image]]:
    # On a busy machine a call may take 0.1 s, whatever the server.
    servers = {"one": "0.002", "two": "0.002", "bad": "0.3"}
    programs = {
        version: _SERVER.replace("SECONDS", seconds).replace("VERSION", version) for version, seconds in servers.items()
    }
    with built_images("mlo-e2e-canary", programs) as built:
        yield built


@pytest.fixture(scope="module")
def namespace(cluster: TestCluster, images: dict[str, Image]) -> Iterator[str]:
    """Removed before the images of its pods are."""
    with cluster.namespace("mlo-canary") as name:
        yield name
    remove_images("digits-by-steps")


class Placed:
    """The deployment, and what `release/` does with it, with a server that answers its version instead of a model's outputs."""

    def __init__(self, cluster: TestCluster, namespace: str, images: dict[str, Image], folder: Path) -> None:
        place = KubernetesPlacement(
            context=cluster.context, server="", namespace=namespace, port=80, create_namespace=False, wait=60.0
        )
        self.target = KubernetesTarget(NAME, place)
        self.images, self.folder = images, folder

    def release(self, revision: int, image: str, *, share: float = 0.0) -> Release:
        changes: dict[str, Any] = {
            "replicas": {"min": 3, "max": 3},
            "shutdown": {"drainSeconds": 4, "requestSeconds": 2},
            "resources": {"requests": {"cpu": "10m"}},
        }
        folder = self.folder / f"{revision}"
        return Release(
            revision=revision,
            serving=rendered(folder, NAME, **changes),
            backend="onnxruntime",
            model=NAME,
            threads=1,
            startup_seconds=20,
            image=self.images[image],
            share=share,
        )

    def put(self, revision: int, image: str) -> None:
        self.target.prepare()
        with self.target.lock():
            self.target.start(self.release(revision, image))
            self.target.switch(revision)

    def put_by_steps(self, revision: int, image: str, steps: list[str], hold: str, observer: Observer = ignore) -> None:
        self.target.prepare()
        asked = cast("Any", _Questions())
        canary = Canary.model_validate({"steps": steps, "hold": hold})
        run = CanaryRun(
            canary,
            self.target,
            observer,
            scratch=self.folder,
            prove=lambda _: None,
            new=asked,
            old=asked,
            allowed=Allowed(1.25, 2.0),
        )
        with self.target.lock():
            try:
                self.target.start(self.release(revision, image, share=max(canary.steps)))
                run.run(revision)
                self.target.switch(revision)
            except BaseException:
                self.target.drop(revision)
                raise


class _Questions:
    def to(self, url: str) -> Asked:
        port = urlsplit(url).port
        assert port is not None
        return Asked(port, [http_request(f"/v2/models/{NAME}/infer", {}, b"{}")], tls=False)


@pytest.fixture(scope="module")
def placed(
    cluster: TestCluster, namespace: str, images: dict[str, Image], tmp_path_factory: pytest.TempPathFactory
) -> Placed:
    """Revision 1 serves with three pods."""
    made = Placed(cluster, namespace, images, tmp_path_factory.mktemp("canary"))
    made.put(1, "one")
    return made


@pytest.fixture
def client(cluster: TestCluster, namespace: str, images: dict[str, Image], placed: Placed) -> Iterator[Any]:
    """Asks through the Service all the time; calling it gives what it has counted."""
    assert placed.target.observe().health == "healthy"
    address = cluster.cluster.get(f"/api/v1/namespaces/{namespace}/services/{NAME}")["spec"]["clusterIP"]
    cluster.start_client(namespace, images["one"].name, _CLIENT.replace("ADDRESS", address))

    def counted() -> dict[str, Any]:
        lines = cluster.log_of(namespace).splitlines()
        return dict(json.loads(lines[-1])) if lines else {"answers": {}, "failures": [], "failed": 0}

    deadline = time.monotonic() + 60
    while counted()["answers"].get("one", 0) < 20:
        assert time.monotonic() < deadline, cluster.log_of(namespace)
        time.sleep(0.25)
    yield counted
    cluster.cluster.call("DELETE", f"/api/v1/namespaces/{namespace}/pods/client")


def test_a_slow_version_is_taken_back_by_itself(placed: Placed, cluster: TestCluster, namespace: str) -> None:
    with pytest.raises(DeployFailed) as failed:
        placed.put_by_steps(2, "bad", ["25%"], "4s")
    (problem,) = failed.value.diagnostics
    print(problem.cause)
    assert problem.code == "E626"
    assert "25% (1 of 4 pods)" in problem.cause
    assert "its calls take" in problem.cause
    observed = placed.target.observe()
    assert (observed.health, observed.revision, observed.beside) == ("healthy", 1, None)
    assert cluster.cluster.find(f"/apis/apps/v1/namespaces/{namespace}/deployments/{NAME}-candidate") is None


def test_a_good_version_gets_its_share_takes_over_and_no_request_fails(
    placed: Placed, client: Any, record_property: Callable[[str, object], None]
) -> None:
    ended: list[str] = []
    seen: dict[str, list[dict[str, int]]] = {"1 of 4 pods": [], "3 of 6 pods": []}

    def observe(event: Event) -> None:
        if isinstance(event, StepEnded):
            ended.append(event.detail)
        elif isinstance(event, StepProgress) and "s left" in event.message:
            beside = placed.target.observe().beside
            assert beside is not None
            assert beside.how in event.message
            seen[beside.how].append(client()["answers"])

    placed.put_by_steps(3, "two", ["25%", "50%"], "6s", observe)
    time.sleep(2)
    told = client()
    requests = f"{sum(told['answers'].values())} requests answered while a new version got its share and took over on Kubernetes"
    record_property("measured", f"{requests}, {told['failed']} failed")
    assert told["failed"] == 0, told
    assert "really 25% (1 of 4 pods): not worse" in ended[0]
    assert "really 50% (3 of 6 pods): not worse" in ended[1]
    for (how, counts), wanted in zip(seen.items(), (0.25, 0.5), strict=True):
        new, old = (counts[-1].get(version, 0) - counts[0].get(version, 0) for version in ("two", "one"))
        record_property("measured", f"{how}: {new} of {new + old} answers came from the new version")
        assert abs(new / (new + old) - wanted) < 0.12
    observed = placed.target.observe()
    assert (observed.health, observed.revision, observed.beside) == ("healthy", 3, None)


_SPEC = """
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: digits-by-steps, labels: {release: RELEASE}}
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
deploy:
  target: kubernetes
  namespace: NAMESPACE
  pod: {requests: {cpus: 50m}}
  strategy: {canary: {steps: [10%, 50%], hold: HOLD}}
"""


class Spec:
    """A spec that is applied by the command line."""

    def __init__(self, mlo: Mlo, namespace: str) -> None:
        self.mlo, self.namespace = mlo, namespace
        for file in ("digits.npz", "digits.safetensors", "digits_model.py"):
            shutil.copy(DIGITS / file, mlo.folder / file)

    def written(self, release: str, hold: str = "5s") -> str:
        text = _SPEC.replace("RELEASE", release).replace("NAMESPACE", self.namespace).replace("HOLD", hold)
        (self.mlo.folder / "spec.yaml").write_text(text, encoding="utf-8")
        return "spec.yaml"

    def apply(self, release: str, code: int = 0, **env: str) -> str:
        return str(self.mlo.run("apply", self.written(release), "--yes", code=code, timeout=400, **env).stderr)

    def status(self) -> dict[str, Any]:
        process = self.mlo.start("status", "digits-by-steps", "--json")
        (row,) = json.loads(process.communicate(timeout=60)[0])["deployments"]
        return dict(row)


@pytest.fixture(scope="module")
def spec(mlo: Mlo, namespace: str) -> Spec:
    """Revision 1 serves with one pod; a first release has no steps."""
    made = Spec(mlo, namespace)
    assert "canary: started" not in made.apply("one")
    return made


def test_a_killed_canary_is_seen_and_settled_and_the_next_apply_promotes(spec: Spec) -> None:
    spec.apply("two", code=-9, MLO_CRASH_AT="kubernetes.split")
    row = spec.status()
    assert row["revision"] == 1
    assert row["canary"] == {"revision": 2, "share": 0.5, "how": "1 of 2 pods"}
    for command in ("status", "history"):
        told = spec.mlo.start(command, "digits-by-steps").communicate(timeout=60)[0]
        assert "digits-by-steps: revision 2 takes 50% of the traffic (1 of 2 pods) as a canary" in told
    said = spec.apply("two")
    print(said)
    first, second = [line for line in said.splitlines() if line.startswith("canary: done")]
    assert (
        "10% of the traffic: really 50% (1 of 2 pods), which only more replicas bring nearer: not worse: p50" in first
    )
    assert second.endswith("really 50% (1 of 2 pods): as in the step before")
    row = spec.status()
    assert (row["health"], row["canary"]) == ("healthy", None)
    assert row["revision"] > 1


def test_ctrl_c_while_a_step_is_held_takes_the_new_revision_back(spec: Spec) -> None:
    before = spec.status()["revision"]
    process = spec.mlo.start("apply", spec.written("three", hold="300s"), "--yes")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("canary: ") and "really" in line:  # what is told of a step after its share was given
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=120)[1]
    assert process.returncode == 130, rest
    assert "interrupted; the new revision is taken back" in rest
    row = spec.status()
    assert (row["revision"], row["health"], row["canary"]) == (before, "healthy", None)
