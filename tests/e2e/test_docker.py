"""From a spec to containers of a real Docker Engine and back: the ONNX Runtime server and TorchServe, through mlo's commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import numpy as np
import pytest

from orchestrator.backends.table import serving_backend
from orchestrator.backends.versions import cpu_indexes, installed_closure
from orchestrator.images.settings import BuildSettings
from orchestrator.images.wheels import fetch_wheels
from tests.e2e.docker_engine import Engine, engine, why_no_engine

if TYPE_CHECKING:
    from conftest import Mlo

MISSING = why_no_engine()
NO_TORCHSERVE = serving_backend("torchserve").unavailable()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.containers,
    pytest.mark.timeout(900),
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]
SPECS = Path(__file__).resolve().parents[2] / "specs"
NAME = "docker-e2e"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
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
    text = text.replace("throughput: 200/s}", "throughput: 20/s, enforce: false}").replace(
        "time_budget: 5m", "time_budget: 1m"
    )
    serving = f"serving: {{backend: onnxruntime, cors: {{origins: ['https://{site}.example.com']}}}}"
    file.write_text(text.replace("deploy: {target: local}", f"{serving}\ndeploy: {{target: docker}}"), encoding="utf-8")
    return str(file)


def digits_right(mlo: Mlo, name: str) -> float:
    """The share of images that a deployment reads as their label says."""
    file = mlo.folder / "digits" / "digits.npz"
    document = mlo.json("predict", name, "--input", str(file), "--json")
    with np.load(file) as samples:
        return float((np.asarray(document["outputs"]["logits"]).argmax(axis=1) == samples["labels"]).mean())


def fill_wheelhouse(folder: Path, tools: tuple[str, ...]) -> None:
    """The wheels that an image needs, fetched by this machine's pip: its build does not reach every index that pip does."""
    pins = installed_closure(tools)
    folder.mkdir()
    wanted = folder.with_suffix(".txt")
    lines = [f"--extra-index-url {index}" for index in cpu_indexes(pins)]
    wanted.write_text("\n".join([*lines, *(f"{name}=={version}" for name, version in pins.items())]), encoding="utf-8")
    fetch_wheels(wanted, BuildSettings(NAME, wheelhouse=folder), "linux/amd64", folder)


class Asking:
    """Clients that ask without a pause, each on a connection that it keeps; they count what is not answered with 200."""

    def __init__(self, endpoint: str, path: str) -> None:
        self._where, self._path = urlsplit(endpoint), path
        self._over = threading.Event()
        self.answered, self.failed = 0, [""][:0]
        self._threads = [threading.Thread(target=self._ask) for _ in range(4)]

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
    assert '"message":"ready"' in mlo.run("logs", NAME).stdout
    assert "nothing to deploy" in mlo.run("apply", spec(mlo), "--yes").stdout


def test_a_new_release_and_a_rollback_under_load_fail_no_request(mlo: Mlo, here: Engine) -> None:
    (row,) = mlo.json("status", NAME, "--json")["deployments"]
    first = row["revision"]
    with Asking(row["endpoint"], "/v2/health/ready") as asking:
        (deployed,) = mlo.json("apply", spec(mlo, "speech"), "--yes", "--json")["deployments"]
        mlo.run("rollback", NAME, "--yes")
    assert asking.failed == []
    assert asking.answered > 100
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


def test_destroy_removes_containers_network_and_images(mlo: Mlo, here: Engine) -> None:
    assert "its containers are removed" in mlo.run("destroy", NAME, "--yes").stdout
    assert (here.containers(), here.networks()) == ([], [])
    assert here.api.images(name=NAME) == []
    assert mlo.json("status", "--json")["deployments"] == []


@pytest.mark.skipif(NO_TORCHSERVE is not None, reason=f"TorchServe cannot be measured here: {NO_TORCHSERVE}")
def test_torchserve_serves_from_a_container(mlo: Mlo) -> None:
    for name in ("digits", "archives"):
        if not (mlo.folder / name).exists():
            shutil.copytree(SPECS / name, mlo.folder / name)
    subprocess.run([sys.executable, mlo.folder / "archives" / "make.py"], check=True, timeout=120)
    file = mlo.folder / "archives" / "torchscript.yaml"
    text = file.read_text(encoding="utf-8").replace("name: digits-script", "name: docker-e2e-ts")
    text = text.replace("throughput: 200/s}", "throughput: 20/s, enforce: false}")
    text = text.replace("  time_budget: 5m", "  precisions: [fp32]\n  formats: [torchscript]\n  time_budget: 1m")
    text = text.replace("deploy: {target: local}", "deploy: {target: docker}") + "serving: {backend: torchserve}\n"
    wheelhouse = mlo.folder / "wheelhouse"
    fill_wheelhouse(wheelhouse, serving_backend("torchserve").tools)
    file.write_text(f"{text}image: {{build: {{wheelhouse: {wheelhouse}}}}}\n", encoding="utf-8")
    with engine("docker-e2e-ts", mlo.folder) as there:
        told = mlo.run("apply", str(file), "--yes", "--json", timeout=800).stdout  # the image is large
        (deployed,) = json.loads(told)["deployments"]
        assert (deployed["target"], deployed["backend"]) == ("docker", "torchserve")
        assert digits_right(mlo, deployed["name"]) > 0.97
        (row,) = mlo.json("status", "docker-e2e-ts", "--json")["deployments"]
        assert row["health"] == "healthy", row["reason"]
        mlo.run("destroy", "docker-e2e-ts", "--yes")
        assert (there.containers(), there.networks()) == ([], [])
