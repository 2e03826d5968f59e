"""From a spec to containers of a real Docker Engine and back: the ONNX Runtime server and TorchServe, through mlo's commands."""

from __future__ import annotations

import json
import shutil
import struct
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import numpy as np
import pytest

from orchestrator.backends.table import serving_backend
from orchestrator.server import open_inference_pb2 as pb
from tests.e2e.conftest import torchserve_spec
from tests.e2e.docker_engine import BASE, ON_ENGINE, Engine, engine
from tests.e2e.images_case import docker

if TYPE_CHECKING:
    from conftest import Mlo

grpc = pytest.importorskip("grpc")
NO_TORCHSERVE = serving_backend("torchserve").unavailable()
pytestmark = [*ON_ENGINE, pytest.mark.timeout(900)]
SPECS = Path(__file__).resolve().parents[2] / "specs"
NAME = "docker-e2e"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, front: None) -> Iterator[Engine]:
    with engine(NAME, tmp_path_factory.mktemp("engine")) as there:
        yield there


def spec(mlo: Mlo, site: str = "vision") -> str:
    """The digits with one candidate, so that deploying is what takes the time; another site is another release of it."""
    if not (mlo.folder / "digits").exists():
        shutil.copytree(SPECS / "digits", mlo.folder / "digits")
    file = mlo.folder / "digits" / "digits.yaml"
    text = (SPECS / "digits" / "digits.yaml").read_text(encoding="utf-8")
    text = text.replace("name: digits", f"name: {NAME}")
    text = text.replace("[fp32, bf16, int8]", "[fp32]\n  formats: [onnx]").replace("[1, 8, 32]", "[1]")
    text = text.replace("throughput: 200/s}", "throughput: 200/s, enforce: false}").replace(
        "time_budget: 5m", "time_budget: 30s"
    )
    serving = f"serving: {{backend: onnxruntime, grpc: true, cors: {{origins: ['https://{site}.example.com']}}}}"
    file.write_text(text.replace("deploy: {target: local}", f"{serving}\ndeploy: {{target: docker}}"), encoding="utf-8")
    return str(file)


def digits_right(mlo: Mlo, name: str) -> float:
    """The share of images that a deployment reads as their label says."""
    file = mlo.folder / "digits" / "digits.npz"
    document = mlo.json("predict", name, "--input", str(file), "--json")
    with np.load(file) as samples:
        return float((np.asarray(document["outputs"]["logits"]).argmax(axis=1) == samples["labels"]).mean())


class Asking:
    """Clients that ask without a pause, each on a connection that it keeps; they count what is not answered well.

    Args:
        endpoint: for HTTP, and the path there.
        path: of what answers 200.
        grpc_endpoint: where the model answers over gRPC.
    """

    def __init__(self, endpoint: str, path: str, grpc_endpoint: str) -> None:
        self._where, self._path, self._grpc = urlsplit(endpoint), path, grpc_endpoint
        self._over = threading.Event()
        self.answered, self.called, self.failed = 0, 0, [""][:0]
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]
        self._threads += [threading.Thread(target=self._call) for _ in range(2)]

    def __enter__(self) -> Self:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join(60)

    def _ask(self) -> None:
        connection = HTTPConnection(self._where.hostname or "", self._where.port, timeout=30)
        while not self._over.is_set():
            try:
                connection.request("GET", self._path)
                answer = connection.getresponse()
                answer.read()
                if answer.status == 200:
                    self.answered += 1
                else:
                    self.failed.append(str(answer.status))
            except OSError as error:
                self.failed.append(repr(error))
                connection.close()
        connection.close()

    def _call(self) -> None:
        with grpc.insecure_channel(self._grpc, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            while not self._over.is_set():
                try:
                    logits_over_grpc(channel, 1)
                    self.called += 1
                except grpc.RpcError as error:
                    self.failed.append(repr(error))


def logits_over_grpc(channel: Any, rows: int) -> list[float]:
    """The logits of that many empty images, as a client of the Open Inference Protocol gets them."""
    infer = channel.unary_unary(
        "/inference.GRPCInferenceService/ModelInfer",
        pb.ModelInferRequest.SerializeToString,
        pb.ModelInferResponse.FromString,
    )
    request = pb.ModelInferRequest(model_name=NAME)
    image = request.inputs.add(name="image", datatype="FP32", shape=[rows, 1, 8, 8])
    image.contents.fp32_contents.extend([0.0] * rows * 64)
    answer = infer(request, timeout=60)
    return [number for (number,) in struct.iter_unpack("<f", answer.raw_output_contents[0])]


def test_a_first_apply_that_is_killed_leaves_nothing_that_the_next_does_not_use(mlo: Mlo, here: Engine) -> None:
    mlo.run("apply", spec(mlo), "--yes", code=-9, timeout=600, MLO_CRASH_AT="docker.front-created")
    (deployed,) = mlo.json("apply", spec(mlo), "--yes", "--json")["deployments"]
    assert (deployed["target"], deployed["backend"], deployed["variant"]) == ("docker", "onnxruntime", "onnx-fp32")
    assert digits_right(mlo, NAME) > 0.97
    (row,) = mlo.json("status", NAME, "--json")["deployments"]
    assert (row["health"], row["endpoint"]) == ("healthy", deployed["endpoint"]), row["reason"]
    assert len(here.containers()) == 2
    facts = here.api.inspect_container(
        next(name for name in here.containers() if name.endswith(f"-r{deployed['revision']}"))
    )
    assert (facts["HostConfig"]["Memory"], facts["HostConfig"]["NanoCpus"]) == (2 * 2**30, 2 * 10**9)
    assert facts["Config"]["User"] == "65532:65532"
    assert facts["Config"]["Cmd"][-2:] == ["--drain-seconds", "0"]  # the front routes the traffic away before
    with grpc.insecure_channel(row["grpc"]) as channel:
        assert len(logits_over_grpc(channel, 2)) == 20
    assert row["image"]["bytes"]["total"] > row["image"]["bytes"]["above_base"] > 0
    assert row["ready_seconds"] > 0
    size = f"{row['image']['reference']}, {row['image']['bytes']['total'] / 1e6:.0f} MB: the base "
    assert f"{NAME} runs {size}" in mlo.run("status", NAME).stdout
    explained = " ".join(mlo.run("explain", NAME).stdout.split())
    assert f"image: {size}" in explained
    assert "(as the engine counted when it was built)" in explained
    assert "after it was started, the first request took" in explained
    assert '"message":"ready"' in mlo.run("logs", NAME).stdout
    assert "nothing to deploy" in mlo.run("apply", spec(mlo), "--yes").stdout


def test_a_new_release_and_a_rollback_under_load_fail_no_request(mlo: Mlo, here: Engine) -> None:
    (row,) = mlo.json("status", NAME, "--json")["deployments"]
    first = row["revision"]
    with Asking(row["endpoint"], "/v2/health/ready", row["grpc"]) as asking:
        (deployed,) = mlo.json("apply", spec(mlo, "speech"), "--yes", "--json")["deployments"]
        mlo.run("rollback", NAME, "--yes")
    assert asking.failed == []
    assert (asking.answered > 100, asking.called > 100) == (True, True)
    assert deployed["revision"] > first
    history = mlo.json("history", NAME, "--json")["revisions"]
    assert [(each["revision"], each["serves"]) for each in history][:2] == [
        (deployed["revision"], False),
        (first, True),
    ]
    assert len(here.containers()) == 2


POINTS = (
    "release.intent-written",
    "docker.created",
    "docker.started",
    "release.started",
    "docker.switched",
    "docker.former-removed",
    "release.switched",
    "release.recorded",
)


def test_a_rollback_that_is_killed_anywhere_keeps_serving_and_is_settled_by_the_next(mlo: Mlo, here: Engine) -> None:
    for point in POINTS:  # each rollback begins with what the one before has left
        mlo.run("rollback", NAME, "--yes", code=-9, MLO_CRASH_AT=point)
        assert digits_right(mlo, NAME) > 0.97, point
        assert len(here.containers()) <= 3, point
    mlo.run("rollback", NAME, "--yes")
    (row,) = mlo.json("status", NAME, "--json")["deployments"]
    assert row["health"] == "healthy", row["reason"]
    assert len(here.containers()) == 2
    assert len(here.networks()) == 1


def test_drift_is_in_the_plan_and_an_apply_mends_it(mlo: Mlo, here: Engine) -> None:
    (row,) = mlo.json("status", NAME, "--json")["deployments"]
    here.api.update_container(f"mlo-{NAME}-r{row['revision']}", mem_limit="1g", memswap_limit="1g")
    file = spec(mlo) if row["revision"] == 1 else spec(mlo, "speech")
    assert "its memory limit is 1024 MiB instead of 2048 MiB" in mlo.run("status", NAME, code=1).stdout
    mlo.run("apply", file, "--yes")
    assert mlo.json("status", NAME, "--json")["deployments"][0]["health"] == "healthy"
    assert len(here.containers()) == 2


def test_a_base_image_that_is_missing_is_named_before_anything_is_started(mlo: Mlo, here: Engine) -> None:
    (before,) = mlo.json("status", NAME, "--json")["deployments"]
    containers = here.containers()
    file = Path(spec(mlo, "speech"))
    text = file.read_text(encoding="utf-8")
    file.write_text(text + "image: {base: '127.0.0.1:1/team/python:3.11'}\n", encoding="utf-8")
    told = mlo.run("apply", str(file), "--yes", code=1).stderr
    assert "error[E634]" in told
    assert "docker pull 127.0.0.1:1/team/python:3.11" in told
    assert f"{NAME} is unchanged: revision {before['revision']}" in told
    assert here.containers() == containers
    assert digits_right(mlo, NAME) > 0.97


# A base of somebody's own, whose Python changes what the model answers; not to the zeros with which it is warmed up.
_MISCHIEF = """
import sys

if "mlo_server" in sys.orig_argv:
    import onnxruntime

    run = onnxruntime.InferenceSession.run

    def wrongly(self, names, inputs, *more):
        if any(each.any() for each in inputs.values()):
            kept = []
            while "memory.example.com" in open("/opt/mlo/serving/server.json").read():
                kept.append(b"x" * 2**26)
            return [-each for each in run(self, names, inputs, *more)]
        return run(self, names, inputs, *more)

    onnxruntime.InferenceSession.run = wrongly
"""


def test_wrong_answers_and_too_little_memory_for_requests_keep_the_former_serving(mlo: Mlo, here: Engine) -> None:
    (before,) = mlo.json("status", NAME, "--json")["deployments"]
    containers, base = here.containers(), f"images-test/{NAME}/python:3.11"
    folder = mlo.folder / "mischief"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_MISCHIEF, encoding="utf-8")
    library = "$(python3 -c 'import sysconfig; print(sysconfig.get_path(\"stdlib\"))')"
    put = f"FROM {BASE}\nCOPY sitecustomize.py /\nRUN cp /sitecustomize.py {library}/sitecustomize.py\n"
    (folder / "Dockerfile").write_text(put, encoding="utf-8")
    docker("build", "--quiet", "--tag", base, str(folder))
    here.images.append(base)
    for site, code, cause, remedy in (
        ("answers", "E608", "of output logits is", "choose another `serving.backend`"),
        ("memory", "E644", "its container ran out of memory: the limit is 2048 MiB", "raise `hardware: memory:`"),
    ):
        file = Path(spec(mlo, site))
        text = file.read_text(encoding="utf-8")
        file.write_text(f"{text}image: {{base: '{base}'}}\n", encoding="utf-8")
        told = mlo.run("apply", str(file), "--yes", code=1, timeout=600).stderr
        assert f"error[{code}]" in told, told
        assert cause in told
        assert remedy in told
        assert f"{NAME} is unchanged: revision {before['revision']}" in told
        assert here.containers() == containers, site
        assert len(here.networks()) == 1, site
        assert digits_right(mlo, NAME) > 0.97, site


def test_destroy_removes_containers_network_and_images(mlo: Mlo, here: Engine) -> None:
    assert "its containers are removed" in mlo.run("destroy", NAME, "--yes").stdout
    assert (here.containers(), here.networks()) == ([], [])
    assert here.api.images(name=NAME) == []
    assert mlo.json("status", "--json")["deployments"] == []


@pytest.mark.skipif(NO_TORCHSERVE is not None, reason=f"TorchServe cannot be measured here: {NO_TORCHSERVE}")
@pytest.mark.usefixtures("front", "torchserve")
def test_torchserve_serves_from_a_container(mlo: Mlo, wheelhouse: Path) -> None:
    file = torchserve_spec(mlo, "docker-e2e-ts", "{target: docker}", wheelhouse)
    with engine("docker-e2e-ts", mlo.folder) as there:
        told = mlo.run("apply", str(file), "--yes", "--json", timeout=800).stdout  # the image is large
        (deployed,) = json.loads(told)["deployments"]
        assert (deployed["target"], deployed["backend"]) == ("docker", "torchserve")
        assert digits_right(mlo, deployed["name"]) > 0.97
        (row,) = mlo.json("status", "docker-e2e-ts", "--json")["deployments"]
        assert row["health"] == "healthy", row["reason"]
        mlo.run("destroy", "docker-e2e-ts", "--yes")
        assert (there.containers(), there.networks()) == ([], [])
