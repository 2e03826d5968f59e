"""Deployments of a stand-in server, cleaned up after each test, and a Git repository to deploy into."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from orchestrator.backends.backend import InProcess, Launch, ServingBackend, ServingSettings, Unavailable
from orchestrator.targets.gitops.target import GitopsTarget
from orchestrator.targets.local.control import ask
from orchestrator.targets.local.messages import Status
from orchestrator.targets.local.target import LocalTarget
from orchestrator.targets.target import Release
from tests.render.conftest import Render, render_to  # noqa: F401 - a fixture
from tests.targets.gitops_case import Repository

if TYPE_CHECKING:
    from orchestrator.spec.signature import Signature

_SCRIPT = Path(__file__).with_name("stand_in_server.py")


class StandIn(ServingBackend):
    """A backend that serves with `stand_in_server.py`."""

    name = "stand-in"
    runtimes: Mapping[str, InProcess] = MappingProxyType({})
    options: frozenset[str] = frozenset()
    tools: tuple[str, ...] = ()
    least_startup = 1
    missing: Unavailable | None = None
    present_for = 0
    """With how many devices it can be started."""

    def unavailable(self, devices: int = 0) -> Unavailable | None:
        if devices != self.present_for:
            return Unavailable(f"there is no image for {devices} GPUs", "build one")
        return self.missing

    def devices(self, folder: Path) -> int:
        behaviour: dict[str, Any] = json.loads((folder / "behaviour.json").read_text())
        return int(behaviour.get("devices", 0))

    def signature(self, folder: Path, name: str) -> Signature:
        raise NotImplementedError

    def write_folder(self, settings: ServingSettings, variant: Path, folder: Path) -> None:
        raise NotImplementedError

    def launch(self, folder: Path, *, port: int, scratch: Path, threads: int) -> Launch:
        argv = (sys.executable, str(_SCRIPT), str(folder), str(port))
        return Launch(argv=argv, env={"THREADS": str(threads)}, cwd=scratch)

    def ready_path(self, name: str) -> str:
        return "/ready"


class Deployment:
    """A deployment's target, and shorthands for what tests do with it."""

    def __init__(self, folder: Path, servings: Path) -> None:
        self.folder = folder
        self.target = LocalTarget(folder)
        self.live: Release | None = None
        self.endpoint = ""
        self._servings = servings

    def serving(self, revision: int, **behaviour: Any) -> Path:
        folder = self._servings / f"r{revision}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "behaviour.json").write_text(json.dumps(behaviour))
        return folder

    def start(self, revision: int, *, startup_seconds: int = 30, **behaviour: Any) -> str:
        started = self.target.start(self.release(revision, startup_seconds, **behaviour))
        assert started.url is not None
        return started.url

    def release(self, revision: int, startup_seconds: int = 30, **behaviour: Any) -> Release:
        return Release(revision, self.serving(revision, **behaviour), "stand-in", "m", 1, startup_seconds)

    def deploy(self, revision: int, **behaviour: Any) -> str:
        self.endpoint = self.target.prepare(self.live)
        self.start(revision, **behaviour)
        self.target.switch(revision)
        self.live = self.release(revision, **behaviour)
        return self.endpoint

    def ask(self, x: float = 1.0, endpoint: str | None = None) -> float:
        """The one number that the server answers for x."""
        tensor = {"name": "x", "datatype": "FP64", "shape": [1], "data": [x]}
        answer = self.post("/v2/models/m/infer", {"inputs": [tensor]}, endpoint)
        return float(answer[1]["outputs"][0]["data"][0])

    def post(self, path: str, document: Any, endpoint: str | None = None) -> tuple[int, Any]:
        endpoint = endpoint or self.target.observe().endpoint
        assert endpoint is not None
        connection = HTTPConnection(endpoint.removeprefix("http://"), timeout=30)
        try:
            connection.request("POST", path, json.dumps(document), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def in_flight(self) -> int:
        """Requests that the server has not answered yet."""
        serving = ask(self.folder, "GET", "/status", Status).serving
        assert serving is not None
        return serving.in_flight

    def supervisor(self) -> psutil.Process:
        return psutil.Process(int((self.folder / "supervisor.lock").read_text()))


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The stand-in backend, found under every name."""
    backend = StandIn()
    monkeypatch.setattr("orchestrator.targets.local.launching.serving_backend", lambda _: backend)
    return backend


@pytest.fixture
def new_deployment(stand_in: StandIn, tmp_path: Path) -> Iterator[Callable[[Path], Deployment]]:
    """Makes deployments in folders; stops them all at the end."""
    made: list[Deployment] = []

    def make(folder: Path) -> Deployment:
        made.append(Deployment(folder, tmp_path / "servings"))
        return made[-1]

    yield make
    for deployment in made:
        deployment.target.stop()


@pytest.fixture
def deployment(new_deployment: Callable[[Path], Deployment], tmp_path: Path) -> Deployment:
    """A deployment that was never started."""
    return new_deployment(tmp_path / "deployments" / "digits")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Deployment]]:
    """Deployments whose first revision serves with this behaviour, for all tests of a module that only send requests."""
    made: dict[str, Deployment] = {}
    backend = StandIn()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.targets.local.launching.serving_backend", lambda _: backend)

        def serve(**behaviour: Any) -> Deployment:
            key = json.dumps(behaviour, sort_keys=True)
            if key not in made:
                folder = tmp_path_factory.mktemp("served")
                # A name of its own: no name is served from two stores.
                made[key] = Deployment(folder / "deployments" / f"digits-{len(made)}", folder / "servings")
                made[key].deploy(1, **behaviour)
            return made[key]

        yield serve
        for deployment in made.values():
            deployment.target.stop()


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Waits until a condition holds, 30 s at most."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "it did not become true within 30 s"
            time.sleep(0.02)

    return wait


@pytest.fixture
def repository(tmp_path: Path, render_to: Render) -> Repository:  # noqa: F811
    """A Git repository to deploy into."""
    return Repository(tmp_path / "repository", render_to)


@pytest.fixture
def target(repository: Repository) -> GitopsTarget:
    """The deployment in it."""
    return repository.target()
