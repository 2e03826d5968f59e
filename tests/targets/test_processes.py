"""Crashes, kills, restarts: the observed state is correct, and nothing is left behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from orchestrator.backends.backend import Unavailable
from orchestrator.errors import DeployFailed
from orchestrator.targets.local.control import CONTROL_SOCKET, ControlRefusedError, ControlVersionError, ask
from orchestrator.targets.local.messages import (
    PROTOCOL,
    Done,
    Launching,
    ReservedPort,
    RevisionStatus,
    StartRevision,
    Status,
)
from orchestrator.targets.local.ports import first_free, is_free
from orchestrator.targets.local.target import LocalTarget
from orchestrator.targets.target import Offers

if TYPE_CHECKING:
    from tests.targets.conftest import Deployment, StandIn

pytestmark = pytest.mark.processes

Eventually = Callable[[Callable[[], bool]], None]


def test_a_killed_server_is_restarted_and_requests_wait_for_it(deployment: Deployment) -> None:
    deployment.deploy(1, factor=3)
    before = deployment.target.observe().pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    assert deployment.ask() == 3.0
    after = deployment.target.observe()
    assert after.pid != before
    assert after.health == "healthy"
    log = "\n".join(deployment.target.logs(50))
    assert "revision 1: the server was killed by SIGKILL" in log


def test_a_request_that_kills_its_server_is_answered_502_once(deployment: Deployment) -> None:
    deployment.deploy(1)
    status, document = deployment.post("/die", {})
    assert status == 502
    assert "closed the connection before it answered" in document["error"]
    assert deployment.ask() == 1.0
    assert "\n".join(deployment.target.logs(50)).count("exited with code 9") == 1


def test_a_server_that_keeps_crashing_is_degraded_and_says_why(deployment: Deployment, eventually: Eventually) -> None:
    deployment.deploy(1)
    deployment.serving(1, exits=4)  # from now on it does not start any more
    deployment.post("/die", {})
    eventually(lambda: "exited with code 4" in "\n".join(deployment.target.logs(50)))
    observed = deployment.target.observe()
    assert (observed.running, observed.health, observed.revision) == (True, "degraded", 1)
    assert observed.reason == "revision 1 is restarting: the server exited with code 4"
    status, document = deployment.post("/v2/models/m/infer", {})
    assert status == 503
    assert document["error"] == "revision 1 is restarting: the server exited with code 4"


def test_a_supervisor_that_is_killed_takes_every_process_along(deployment: Deployment, eventually: Eventually) -> None:
    deployment.deploy(1, children=2)
    deployment.start(2, children=1)
    supervisor = deployment.supervisor()
    family = supervisor.children(recursive=True)
    assert len(family) == 7  # two guards, two servers, three children of servers in sessions of their own
    supervisor.kill()
    eventually(lambda: not any(_alive(process) for process in [supervisor, *family]))
    observed = deployment.target.observe()
    assert (observed.running, observed.health, observed.revision) == (False, "stopped", None)


def test_after_the_supervisor_was_killed_the_next_start_serves_the_same_revision_on_the_same_port(
    deployment: Deployment, eventually: Eventually
) -> None:
    deployment.deploy(1, factor=1)
    endpoint = deployment.deploy(2, factor=2)
    supervisor = deployment.supervisor()
    supervisor.kill()
    eventually(lambda: not deployment.target.observe().running)
    assert deployment.target.observe().endpoint == endpoint
    assert deployment.target.prepare(deployment.live) == endpoint
    assert deployment.ask(1.0, endpoint) == 2.0
    eventually(lambda: deployment.target.observe().health == "healthy")
    assert deployment.target.observe().revision == 2


def test_what_cannot_be_restored_does_not_stop_its_successor(deployment: Deployment, eventually: Eventually) -> None:
    deployment.deploy(1, factor=1)
    deployment.supervisor().kill()
    eventually(lambda: not deployment.target.observe().running)
    shutil.rmtree(deployment.serving(1))
    deployment.deploy(2, factor=2)
    assert deployment.ask() == 2.0
    assert deployment.target.observe().health == "healthy"


def test_a_killed_guard_takes_its_server_along_and_is_restarted(deployment: Deployment) -> None:
    deployment.deploy(1)
    (guard,) = deployment.supervisor().children()
    (server,) = guard.children()
    guard.kill()
    assert deployment.ask() == 1.0
    assert not _alive(server)


def test_stop_ends_every_process_and_frees_the_port(deployment: Deployment) -> None:
    endpoint = deployment.deploy(1, children=1)
    supervisor = deployment.supervisor()
    family = [supervisor, *supervisor.children(recursive=True)]
    deployment.target.stop()
    assert not any(_alive(process) for process in family)
    assert deployment.target.observe().health == "stopped"
    with socket.socket() as fresh:
        fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        fresh.bind(("127.0.0.1", int(endpoint.rpartition(":")[2])))
    assert list((deployment.folder / "scratch").iterdir()) == []
    deployment.target.stop()  # again is no error


def test_stop_answers_what_is_under_way(deployment: Deployment, eventually: Eventually) -> None:
    deployment.deploy(1, delay=1.0)
    answers: list[float] = []
    slow = threading.Thread(target=lambda: answers.append(deployment.ask()))
    slow.start()
    eventually(lambda: deployment.in_flight() == 1)
    deployment.target.stop()
    slow.join()
    assert answers == [1.0]


def test_a_supervisor_that_hangs_is_killed_by_stop(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment.deploy(1)
    supervisor = deployment.supervisor()
    family = supervisor.children(recursive=True)
    supervisor.suspend()
    monkeypatch.setattr("orchestrator.targets.local.lifetime._STOP_SECONDS", 0.5)
    monkeypatch.setattr("orchestrator.targets.local.lifetime._ASK_SECONDS", 0.5)
    deployment.target.stop()
    assert not _alive(supervisor)
    psutil.wait_procs(family, timeout=10)
    assert not any(_alive(process) for process in family)


def test_a_supervisor_that_does_not_start_starts_once_what_its_error_output_names_is_corrected(
    deployment: Deployment,
) -> None:
    (deployment.folder / "control.sock" / "in the way").mkdir(parents=True)
    with pytest.raises(DeployFailed) as failure:
        deployment.target.prepare()
    told = failure.value.diagnostics[0]
    assert (told.code, told.remedy.partition(";")[0]) == ("E601", "its error output ends with the reason")
    named = dict(note.split(": ", 1) for note in told.notes)["error output"]
    assert "control.sock" in Path(named).read_text(encoding="utf-8").strip().splitlines()[-1]
    shutil.rmtree(deployment.folder / "control.sock")
    deployment.deploy(1)
    assert deployment.ask() == 1.0


def test_a_supervisor_of_another_version_is_reported_and_ended_by_the_command_that_is_named(
    deployment: Deployment, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.deploy(1)
    supervisor = deployment.supervisor()
    monkeypatch.setattr("orchestrator.targets.local.control.PROTOCOL", PROTOCOL + 1)
    with pytest.raises(DeployFailed) as failure:
        deployment.target.prepare()
    told = failure.value.diagnostics[0]
    assert told.code == "E606"
    assert f"speaks protocol {PROTOCOL} on its control socket, this version protocol {PROTOCOL + 1}" in told.cause
    assert f"`kill {supervisor.pid}`" in told.remedy
    observed = deployment.target.observe()
    assert (observed.running, observed.health) == (True, "degraded")
    assert f"protocol {PROTOCOL}" in observed.reason
    command = re.findall(r"`(kill \d+)`", told.remedy)[0]
    subprocess.run(command.split(), check=True)
    psutil.wait_procs([supervisor], timeout=20)
    monkeypatch.undo()
    monkeypatch.setattr("orchestrator.targets.local.launching.serving_backend", lambda _: stand_in)
    deployment.deploy(1)
    assert deployment.ask() == 1.0


def test_a_supervisor_refuses_what_it_cannot_read(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment.target.prepare()
    with pytest.raises(ControlRefusedError, match="this is no OpenPort") as refused:
        ask(deployment.folder, "PUT", "/port", Done, Done())
    assert refused.value.status == 400
    monkeypatch.setattr("orchestrator.targets.local.control.PROTOCOL_HEADER", "Something-Else")
    with pytest.raises(ControlVersionError, match="no numbered protocol"):
        ask(deployment.folder, "GET", "/status", Status)


def test_a_supervisor_whose_folder_is_removed_ends(deployment: Deployment, eventually: Eventually) -> None:
    deployment.deploy(1)
    supervisor = deployment.supervisor()
    shutil.rmtree(deployment.folder)
    eventually(lambda: not _alive(supervisor))


def test_a_port_that_is_in_use_is_named(deployment: Deployment) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(DeployFailed, match=f"port {port} of 127.0.0.1 cannot be used") as failure:
            LocalTarget(deployment.folder, port).prepare()
        diagnostic = failure.value.diagnostics[0]
        assert diagnostic.code == "E618"
        assert "in use" in diagnostic.cause
        assert "deploy: port:" in diagnostic.remedy
        assert not deployment.target.observe().running
    assert LocalTarget(deployment.folder, port).prepare() == f"http://127.0.0.1:{port}"


def test_a_free_port_that_another_program_takes_just_then_is_left_to_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[socket.socket] = []

    def first(name: str) -> int:
        port = first_free(name)
        if not others:
            others.append(socket.create_server(("127.0.0.1", port)))
        return port

    monkeypatch.setattr("orchestrator.targets.local.target.first_free", first)
    endpoint = deployment.deploy(1, factor=2)
    with others[0]:
        assert endpoint != f"http://127.0.0.1:{others[0].getsockname()[1]}"
        assert deployment.ask(1.0, endpoint) == 2.0


def test_a_port_that_is_in_use_is_found_before_anything_is_computed(deployment: Deployment) -> None:
    with socket.socket() as other:
        port = next(each for each in range(21001, 22000, 2) if is_free(each) and is_free(each - 1))
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(DeployFailed, match=f"port {port} of 127.0.0.1 cannot be used") as failure:
            LocalTarget(deployment.folder, port).check()
        diagnostic = failure.value.diagnostics[0]
        assert (diagnostic.code, diagnostic.cause) == ("E618", "another program listens there")
        assert diagnostic.at == ("deploy", "port")
        LocalTarget(deployment.folder, port - 1).check()
        with pytest.raises(DeployFailed, match=f"port {port} of"):
            LocalTarget(deployment.folder, port - 1).check(Offers(grpc=True))
    assert not deployment.folder.exists(), "nothing was started or written"


def test_the_port_that_a_deployment_has_is_its_own_and_anybody_elses_after_it_stopped(deployment: Deployment) -> None:
    port = int(deployment.deploy(1).rpartition(":")[2])
    deployment.target.check()
    LocalTarget(deployment.folder, port).check()
    supervisor = deployment.supervisor()
    supervisor.kill()
    supervisor.wait(10)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(DeployFailed, match=f"port {port} of"):
            deployment.target.check()


def test_another_port_is_opened_first_and_the_former_closed_at_the_switch(deployment: Deployment) -> None:
    former = deployment.deploy(1, factor=1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = LocalTarget(deployment.folder, port).prepare()
    assert endpoint == f"http://127.0.0.1:{port}"
    assert deployment.ask(1.0, former) == deployment.ask(1.0, endpoint) == 1.0
    deployment.start(2, factor=2)
    deployment.target.switch(2)
    assert deployment.ask(1.0, endpoint) == 2.0
    with pytest.raises(ConnectionRefusedError):
        deployment.ask(1.0, former)
    assert deployment.target.observe().endpoint == endpoint


def test_another_port_is_forgotten_with_the_candidate_that_it_was_for(deployment: Deployment) -> None:
    former = deployment.deploy(1, factor=1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = LocalTarget(deployment.folder, port).prepare()
    deployment.start(2, factor=2)
    deployment.target.drop(2)
    assert deployment.ask(1.0, former) == 1.0
    with pytest.raises(ConnectionRefusedError):
        deployment.ask(1.0, endpoint)
    assert deployment.target.observe().endpoint == former
    assert deployment.target.prepare() == former


def test_another_port_is_forgotten_with_a_candidate_that_could_not_even_be_started(
    deployment: Deployment, stand_in: StandIn
) -> None:
    former = deployment.deploy(1, factor=1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    endpoint = LocalTarget(deployment.folder, port).prepare()
    stand_in.missing = Unavailable("no Java 17 on the PATH", "install Java")
    with pytest.raises(DeployFailed, match="cannot be started"):
        deployment.start(2)
    deployment.target.drop(2)
    assert deployment.ask(1.0, former) == 1.0
    with pytest.raises(ConnectionRefusedError):
        deployment.ask(1.0, endpoint)


def test_a_port_stays_reserved_although_another_one_of_the_order_is_not(deployment: Deployment) -> None:
    deployment.deploy(1)
    port = ask(deployment.folder, "POST", "/ports", ReservedPort).port
    serving = ask(deployment.folder, "GET", "/status", Status).serving
    assert serving is not None
    recipe = serving.recipe.model_copy(update={"revision": 2})
    launching = Launching(
        argv=(sys.executable, "-c", ""), env={}, cwd=recipe.serving, port=port, scratch=f"{deployment.folder}/scratch/2",
        ready_path="/ready",
    )  # fmt: skip
    without = StartRevision(recipe=recipe, launching=launching, takes_over=False)
    order = without.model_copy(update={"launching": launching.model_copy(update={"grpc_port": 1})})
    with pytest.raises(ControlRefusedError, match="port 1 is not reserved"):
        ask(deployment.folder, "PUT", "/revisions/2", RevisionStatus, order)
    assert ask(deployment.folder, "PUT", "/revisions/2", RevisionStatus, without).endpoint.endswith(f":{port}")


def test_a_folder_whose_path_is_longer_than_a_socket_may_be(
    new_deployment: Callable[[Path], Deployment], tmp_path: Path
) -> None:
    deep = tmp_path.joinpath(*["a-long-name-of-a-folder" for _ in range(10)], "digits")
    assert len(str(deep)) > 200
    deployment = new_deployment(deep)
    deployment.deploy(1, factor=4)
    assert deployment.ask() == 4.0


def test_the_control_socket_is_open_to_its_owner_only(deployment: Deployment) -> None:
    deployment.target.prepare()
    assert stat.S_IMODE((deployment.folder / CONTROL_SOCKET).stat().st_mode) == 0o600


def test_the_supervisor_outlives_the_command_that_started_it(deployment: Deployment) -> None:
    script = (
        "import sys; from pathlib import Path; from orchestrator.targets.local.target import LocalTarget;"
        "LocalTarget(Path(sys.argv[1])).prepare()"
    )
    subprocess.run([sys.executable, "-c", script, str(deployment.folder)], check=True, timeout=60)
    supervisor = deployment.supervisor()
    assert _alive(supervisor)
    assert os.getsid(supervisor.pid) != os.getsid(0)
    assert supervisor.cwd() == str(deployment.folder)


def test_the_log_can_be_followed(deployment: Deployment) -> None:
    with pytest.raises(DeployFailed, match="has no log"):
        next(deployment.target.logs())
    deployment.deploy(1)
    lines = deployment.target.logs(2, follow=True)
    assert "revision 1 takes the traffic" in [next(lines), next(lines)][-1]
    deployment.start(2)
    assert "revision 2 is started" in next(lines)
    assert next(lines) == "r2 | serving r2"


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
