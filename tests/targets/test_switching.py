"""A new revision takes the traffic without a failed request; one that fails leaves the former serving."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import TYPE_CHECKING, NoReturn

import psutil
import pytest

from orchestrator.backends.backend import Unavailable
from orchestrator.errors import Busy, DeployFailed
from orchestrator.targets.local.control import FAILED_ON_THE_WAY, ControlRefusedError
from orchestrator.targets.target import Release

if TYPE_CHECKING:
    from tests.targets.conftest import Deployment, StandIn

pytestmark = pytest.mark.processes

Eventually = Callable[[Callable[[], bool]], None]


def test_the_first_revision_serves_on_the_endpoint(deployment: Deployment) -> None:
    for code, call in (("E619", deployment.target.url), ("E615", lambda: list(deployment.target.logs(1)))):
        with pytest.raises(DeployFailed) as not_yet:
            call()
        assert (not_yet.value.diagnostics[0].code, not_yet.value.diagnostics[0].remedy) == (
            code,
            "run `mlo apply` with its spec",
        )
    endpoint = deployment.deploy(1, factor=10)
    assert deployment.target.url() == endpoint
    assert list(deployment.target.logs(1))
    assert deployment.ask(2.0, endpoint) == 20.0
    observed = deployment.target.observe()
    assert (observed.running, observed.health, observed.revision) == (True, "healthy", 1)
    assert (observed.endpoint, observed.backend) == (endpoint, "stand-in")
    assert observed.pid is not None
    assert "stand_in_server.py" in " ".join(psutil.Process(observed.pid).cmdline())
    assert observed.since is not None


def test_five_switches_under_load_fail_no_request(deployment: Deployment) -> None:
    endpoint = deployment.deploy(1, factor=1, delay=0.01)
    body = json.dumps({"inputs": [{"name": "x", "datatype": "FP64", "shape": [1], "data": [1.0]}]})
    over = threading.Event()

    def keep_asking() -> list[tuple[int, float]]:
        connection = HTTPConnection(endpoint.removeprefix("http://"), timeout=30)
        answers: list[tuple[int, float]] = []
        while not over.is_set() or len(answers) < 50:
            connection.request("POST", "/v2/models/m/infer", body)
            response = connection.getresponse()
            answers.append((response.status, json.loads(response.read())["outputs"][0]["data"][0]))
        connection.close()
        return answers

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(keep_asking) for _ in range(8)]
        for revision in range(2, 7):
            deployment.deploy(revision, factor=revision, delay=0.01)
        over.set()
        answers = [future.result() for future in clients]

    assert {status for client in answers for status, _ in client} == {200}
    assert {factor for client in answers for _, factor in client} >= {1, 2, 3, 4, 5}
    for client in answers:
        factors = [factor for _, factor in client]
        assert factors == sorted(factors)  # no request went back to a former revision
        assert len(factors) >= 50
    assert deployment.ask() == 6.0


def test_a_request_in_flight_is_finished_by_the_former_revision(deployment: Deployment, eventually: Eventually) -> None:
    deployment.deploy(1, factor=1, delay=2.0)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(deployment.ask)
        eventually(lambda: deployment.in_flight() == 1)
        deployment.deploy(2, factor=2)
        assert deployment.ask() == 2.0
        assert not slow.done()
        assert slow.result() == 1.0
    eventually(lambda: len(_servers(deployment)) == 1)


@pytest.mark.parametrize(
    ("behaviour", "code", "cause"),
    [
        ({"exits": 3}, "E603", "exited with code 3"),
        ({"never_ready": True}, "E604", "was not ready after 1 s"),
    ],
)
def test_a_new_revision_that_does_not_start_leaves_the_previous_one_serving(
    deployment: Deployment, behaviour: dict[str, object], code: str, cause: str
) -> None:
    deployment.deploy(1, factor=1)
    with pytest.raises(DeployFailed) as failure:
        deployment.start(2, startup_seconds=1 if code == "E604" else 30, **behaviour)
    diagnostic = failure.value.diagnostics[0]
    assert diagnostic.code == code
    assert cause in diagnostic.cause
    assert "serving r2" in diagnostic.cause
    assert diagnostic.notes == (f"log: {deployment.folder / 'serving.log'}",)
    assert deployment.ask() == 1.0
    assert deployment.target.observe().health == "healthy"
    assert len(_servers(deployment)) == 1
    told = {
        "E603": "correct what its log ends with; if that is nothing of yours, choose another `serving.backend`",
        "E604": "if the machine was busy, run the same command again; if not, its log says what the server waits for",
    }
    assert diagnostic.remedy == told[code]
    deployment.deploy(2, factor=3)
    assert deployment.ask() == 3.0


def test_a_failed_revisions_last_log_lines_are_shown(deployment: Deployment) -> None:
    deployment.target.prepare()
    with pytest.raises(DeployFailed) as failure:
        deployment.start(1, exits=3)
    assert "RuntimeError: the weights are gone" in failure.value.diagnostics[0].cause
    # The same number may be tried again.
    deployment.deploy(1, factor=5)
    assert deployment.ask() == 5.0


def test_a_candidate_takes_no_traffic_before_the_switch_and_none_after_a_drop(deployment: Deployment) -> None:
    deployment.deploy(1, factor=1)
    private = deployment.start(2, factor=2)
    assert deployment.ask() == 1.0
    assert deployment.ask(endpoint=private) == 2.0
    deployment.target.drop(2)
    with pytest.raises(ConnectionRefusedError):
        deployment.ask(endpoint=private)
    with pytest.raises(DeployFailed, match="not switched") as failure:
        deployment.target.switch(2)
    assert failure.value.diagnostics[0].code == "E607"
    assert failure.value.diagnostics[0].remedy.startswith("run the same command again, which starts the revision anew")
    assert deployment.ask() == 1.0
    assert [path.name.partition("-")[0] for path in (deployment.folder / "scratch").iterdir()] == ["r1"]
    deployment.deploy(2, factor=2)
    assert deployment.ask() == 2.0


def test_a_switch_that_failed_on_the_way_is_not_called_refused(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> NoReturn:
        raise ControlRefusedError(FAILED_ON_THE_WAY, "no space left on device")

    monkeypatch.setattr("orchestrator.targets.local.target.answered", full)
    with pytest.raises(DeployFailed, match="to revision 2 failed on the way") as failure:
        deployment.target.switch(2)
    assert failure.value.diagnostics[0].code == "E607"


def test_the_serving_revision_cannot_be_dropped(deployment: Deployment) -> None:
    deployment.deploy(1)
    with pytest.raises(DeployFailed, match="cannot be dropped"):
        deployment.target.drop(1)


def test_two_applies_at_once_start_one_supervisor_and_one_of_them_wins(
    deployment: Deployment, eventually: Eventually
) -> None:
    with ThreadPoolExecutor(2) as pool:
        endpoints = set(pool.map(lambda revision: deployment.deploy(revision, factor=revision), [1, 2]))
    assert len(endpoints) == 1
    assert deployment.ask() in {1.0, 2.0}
    eventually(lambda: len(_servers(deployment)) == 1)


def test_the_same_revision_from_the_same_folder_is_started_once(deployment: Deployment) -> None:
    deployment.target.prepare()
    with ThreadPoolExecutor(2) as pool:
        private = set(pool.map(lambda _: deployment.start(1), range(2)))
    assert len(private) == 1
    assert len(list((deployment.folder / "scratch").iterdir())) == 1


def test_the_same_revision_from_another_folder_is_refused_as_busy(deployment: Deployment) -> None:
    deployment.deploy(1)
    with pytest.raises(Busy, match="another command"):
        deployment.target.start(Release(1, deployment.serving(7), "stand-in", "m", 1, 30))
    assert len(list((deployment.folder / "scratch").iterdir())) == 1, "only that of the revision that serves"


def test_a_missing_backend_is_reported_before_anything_starts(deployment: Deployment, stand_in: StandIn) -> None:
    deployment.target.prepare()
    stand_in.missing = Unavailable("no Java 17 on the PATH", "install Java")
    with pytest.raises(DeployFailed) as failure:
        deployment.start(1)
    found = failure.value.diagnostics[0]
    assert (found.code, found.cause) == ("E616", "no Java 17 on the PATH")
    assert found.remedy.startswith("install Java; ")
    stand_in.missing = None
    assert deployment.start(1)


def test_a_backend_is_checked_for_the_devices_of_its_folder(deployment: Deployment, stand_in: StandIn) -> None:
    deployment.target.prepare()
    stand_in.present_for = 2
    with pytest.raises(DeployFailed) as failure:
        deployment.start(1)
    assert failure.value.diagnostics[0].cause == "there is no image for 0 GPUs"
    assert deployment.start(2, devices=2).startswith("http://127.0.0.1:")


def _servers(deployment: Deployment) -> list[psutil.Process]:
    """The guards under the supervisor, one for each server."""
    return deployment.supervisor().children()
