"""The target `docker` on a real Docker Engine: switches under load, drift, and everything that may go wrong there."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from orchestrator.errors import DeployFailed
from orchestrator.store.home import Home
from orchestrator.store.store import Store
from orchestrator.targets.docker import front
from orchestrator.targets.docker.target import DockerTarget
from orchestrator.targets.target import Site
from tests.e2e.docker_engine import BASE, Engine, ask, engine, eventually, relay, why_no_engine

MISSING = why_no_engine()
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.containers,
    pytest.mark.timeout(300),
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]
_NUMBERS = itertools.count()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Engine]:
    with engine(f"docker-test-{os.getpid()}-{next(_NUMBERS)}", tmp_path) as there:
        yield there


def failure(call: Callable[[], object]) -> Any:
    with pytest.raises(DeployFailed) as caught:
        call()
    diagnostic = caught.value.diagnostics[0]
    assert diagnostic.remedy
    return diagnostic


def test_switches_under_load_fail_no_request_and_leave_one_container_and_the_front(here: Engine) -> None:
    target = here.target()
    endpoint = here.deploy(target, 1)
    over = threading.Event()

    def keep_asking() -> list[str]:
        where = urlsplit(endpoint)
        connection = HTTPConnection(where.hostname or "", where.port, timeout=30)
        answers = []
        while not over.is_set():
            connection.request("POST", "/infer", b"x")
            answer = connection.getresponse()
            answers.append(f"{answer.status} {answer.read().decode()}")
        connection.close()
        return answers

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(keep_asking) for _ in range(8)]
        try:
            for revision in (2, 3):
                here.deploy(target, revision)
        finally:
            over.set()
        answers = [client.result() for client in clients]
    assert {each for client in answers for each in client} == {"200 1", "200 2", "200 3"}
    for client in answers:
        assert client == sorted(client), "no request went back to a former revision"
    observed = target.observe()
    assert (observed.health, observed.revision, observed.endpoint) == ("healthy", 3, endpoint), observed.reason
    assert len(here.containers()) == 2
    assert target.history() == (3,)


def test_a_request_in_flight_is_finished_by_the_former_revision(here: Engine) -> None:
    target = here.target()
    endpoint = here.deploy(target, 1, delay=2.0)
    target.start(here.release(2))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, endpoint)
        time.sleep(0.3)
        target.switch(2)
        assert slow.result() == "1"
    assert ask(endpoint) == "2"


def test_a_container_has_the_limits_and_no_rights(here: Engine) -> None:
    target = here.target()
    here.deploy(target, 1)
    facts = here.api.inspect_container(f"mlo-{here.name}-r1")
    host = facts["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["NanoCpus"], host["PidsLimit"]) == (2**26, 2**26, 10**9, 64)
    assert (host["ReadonlyRootfs"], host["CapDrop"], host["Privileged"]) == (True, ["ALL"], False)
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert facts["Config"]["User"] == "65532:65532"
    assert not facts["NetworkSettings"]["Ports"].get("8080/tcp"), "only the front is published"
    (network,) = here.api.networks(names=[f"mlo-{here.name}"])
    assert network["Internal"], "there is no way out"
    front = next(name for name in here.containers() if "-front-" in name)
    bindings = here.api.inspect_container(front)["HostConfig"]["PortBindings"]
    assert {each["HostIp"] for there in bindings.values() for each in there} == {"127.0.0.1"}


DRIFT: dict[str, tuple[Callable[[Engine, str, str], object], Callable[[Engine, str, str], object] | None, str, str]] = {
    "another limit": (
        lambda e, model, _: e.api.update_container(model, mem_limit="80m", memswap_limit="80m"),
        lambda e, model, _: e.api.update_container(model, mem_limit="64m", memswap_limit="64m"),
        "degraded",
        "its memory limit is 80 MiB instead of 64 MiB",
    ),
    "another restart policy": (
        lambda e, model, _: e.api.update_container(model, restart_policy={"Name": "no"}),
        lambda e, model, _: e.api.update_container(model, restart_policy={"Name": "unless-stopped"}),
        "degraded",
        "its restart policy is no instead of unless-stopped",
    ),
    "off the network": (
        lambda e, model, _: e.api.disconnect_container_from_network(model, f"mlo-{e.name}"),
        lambda e, model, _: e.api.connect_container_to_network(model, f"mlo-{e.name}"),
        "degraded",
        "it is not in the network",
    ),
    "paused": (lambda e, model, _: e.api.pause(model), None, "degraded", "is paused"),
    "stopped": (lambda e, model, _: e.api.stop(model, timeout=1), None, "stopped", "was stopped"),
    "removed": (lambda e, model, _: e.api.remove_container(model, force=True), None, "stopped", "was removed"),
    "front stopped": (
        lambda e, _, front: e.api.stop(front, timeout=1),
        None,
        "stopped",
        "which publishes the port, was stopped",
    ),
    "front removed": (
        lambda e, _, front: e.api.remove_container(front, force=True, v=True),
        None,
        "stopped",
        "the container that publishes its port was removed",
    ),
}
"""What somebody does by hand, how it is undone by hand, and what is then said; without an undoing, the next command mends it."""


def test_drift_is_named_and_mended_by_the_next_command(here: Engine) -> None:
    target = here.target()
    first = here.release(1)
    endpoint = target.prepare()
    target.start(first)
    target.switch(1)
    model = f"mlo-{here.name}-r1"
    front = next(name for name in here.containers() if "-front-" in name)
    for kind, (change, undo, health, reason) in DRIFT.items():
        change(here, model, front)
        observed = target.observe()
        assert (observed.health, reason in observed.reason) == (health, True), f"{kind}: {observed.reason}"
        if undo is not None:
            undo(here, model, front)
        assert target.prepare(first) == endpoint, kind
        eventually(lambda: target.observe().health == "healthy")
        assert ask(endpoint) == "1", kind
        assert len(here.containers()) == 2, kind


def test_another_image_and_command_under_the_same_name_are_drift(here: Engine) -> None:
    target = here.target()
    here.deploy(target, 1)
    name = f"mlo-{here.name}-r1"
    labels = here.api.inspect_container(name)["Config"]["Labels"]
    here.api.remove_container(name, force=True)
    other = here.image(answer=7)
    host = here.api.create_host_config(network_mode=f"mlo-{here.name}", restart_policy={"Name": "unless-stopped"})
    made = here.api.create_container(
        other.id, name=name, labels=labels, host_config=host, command=["--more"], user="0:0", ports=[8080]
    )
    here.api.start(made)
    reason = target.observe().reason
    assert f"its image is {other.id[7:19]} instead of" in reason
    assert "its command is python3 /server.py --more instead of python3 /server.py" in reason
    assert "its read-only file system is off instead of on" in reason
    assert "its memory limit is none instead of 64 MiB" in reason


FAILURES: dict[str, tuple[dict[str, Any], str, str]] = {
    "exits": ({"exits": 3}, "E603", "exited with code 3"),
    "never ready": ({"never_ready": True, "startup_seconds": -12}, "E604", "was not ready after 3 s"),
    "out of memory": ({"megabytes": 100}, "E644", "its container ran out of memory: the limit is 64 MiB"),
}


def test_a_revision_that_does_not_come_up_leaves_nothing_and_the_former_serving(here: Engine) -> None:
    target = here.target()
    endpoint = here.deploy(target, 1)
    before = here.containers()
    for kind, (behaviour, code, cause) in FAILURES.items():
        release = here.release(2, **behaviour)
        found = failure(partial(target.start, release))
        assert (found.code, cause in found.cause) == (code, True), f"{kind}: {found.cause}"
        assert "serving 2" in found.cause
        assert here.containers() == before, kind
        assert ask(endpoint) == "1", kind
        assert target.observe().health == "healthy", kind


def test_a_live_container_that_runs_out_of_memory_is_named_as_such(here: Engine) -> None:
    target = here.target()
    here.deploy(target, 1)
    name = f"mlo-{here.name}-r1"
    # The kernel ends the largest process, which is not the server.
    run = here.api.exec_create(name, ["python3", "-c", "b = bytearray(90 << 20); b[::4096] = bytes(len(b[::4096]))"])
    here.api.exec_start(run["Id"])
    here.api.kill(name, "SIGSTOP")  # what does not answer, is asked why
    eventually(lambda: "it has run out of memory, the limit is 64 MiB" in target.observe().reason)


def test_a_taken_port_is_refused_before_anything_is_made(here: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        found = failure(here.target(port=port).check)
        assert (found.code, found.cause) == ("E618", "another program listens there")
    other = here.image(answer=0)
    host = here.api.create_host_config(port_bindings={8080: ("127.0.0.1", port)})
    made = here.api.create_container(
        other.id, name=f"{here.name}-holds", labels={"mlo.deployment": f"{here.name}-x"}, ports=[8080], host_config=host
    )
    try:
        here.api.start(made)
        found = failure(here.target(port=port).check)
        assert (found.code, found.cause) == ("E618", f"the container {here.name}-holds publishes it")
        # One that the engine refuses, because it was taken in the meantime.
        target = here.target(port=port)
        target._chosen = port
        found = failure(lambda: target.start(here.release(1)))
        assert (found.code, "already" in found.cause) == ("E618", True)
    finally:
        here.api.remove_container(made, force=True)
    target.stop()
    assert (here.containers(), here.networks()) == ([], [])


def test_a_front_whose_base_is_missing_is_named_and_leaves_nothing(here: Engine) -> None:
    target = here.target()
    target.prepare()
    found = failure(lambda: target.start(here.release(1, base="127.0.0.1:1/team/python:3.11")))
    assert (found.code, "127.0.0.1:1/team/python:3.11" in found.remedy) == ("E645", True)
    assert here.containers() == []
    target.stop()
    assert here.networks() == []


def test_a_new_port_takes_over_at_the_switch_with_the_routes_of_the_former(here: Engine) -> None:
    first = here.deploy(here.target(), 1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    target = here.target(port=port)
    assert target.difference(first) == f"moves from {first} to port {port}"
    second = target.prepare()
    before = here.containers()
    failure(lambda: target.start(here.release(2, exits=1)))
    assert here.containers() == before, "a revision that fails takes the new port's front with it"
    target.start(here.release(2))
    assert (ask(first), ask(second)) == ("1", "1"), "the new port serves what the former does until the switch"
    target.switch(2)
    assert ask(second) == "2"
    with pytest.raises(ConnectionRefusedError):
        ask(first)
    assert len(here.containers()) == 2
    assert target.observe().endpoint == second


def test_another_address_at_the_same_port_says_how_long_it_refused_connections(here: Engine) -> None:
    endpoint = here.deploy(here.target(), 1)
    target = here.target(address="0.0.0.0")
    assert target.difference(endpoint) == "moves from the address 127.0.0.1 to 0.0.0.0"
    target.prepare()
    target.start(here.release(2))
    (note,) = target.switch(2)
    assert "connections were refused for" in note
    assert ask(endpoint) == "2"
    assert target.difference(endpoint) is None
    assert (target.observe().health, len(here.containers())) == ("healthy", 2)


def test_an_address_that_the_machine_does_not_have_is_found_out_before_the_switch(here: Engine) -> None:
    endpoint = here.deploy(here.target(), 1)
    before = here.containers()
    target = here.target(address="192.0.2.7")  # reserved for documentation
    target.prepare()
    target.start(here.release(2))
    found = failure(lambda: target.switch(2))
    assert (found.code, "deploy: address:" in found.remedy) == ("E643", True)
    assert ask(endpoint) == "1"
    target.drop(2)
    assert here.containers() == before
    assert (here.target().observe().health, here.target().observe().revision) == ("healthy", 1)
    here.deploy(here.target(), 3)
    assert ask(endpoint) == "3"


_SWITCH = """
import sys
from pathlib import Path
from orchestrator.store.home import Home
from orchestrator.store.store import Store
from orchestrator.targets.docker.target import DockerTarget
from orchestrator.targets.target import Site
DockerTarget(Site(Store.open(Home(Path(sys.argv[1]))), sys.argv[2]), None, None, "0.0.0.0", None).switch(2)
"""


@pytest.mark.parametrize("point", ["docker.front-replacing", "docker.front-stopped"])
def test_a_command_that_dies_while_it_replaces_the_front_leaves_one_that_the_next_one_starts(
    here: Engine, point: str
) -> None:
    endpoint = here.deploy(here.target(), 1)
    target = here.target(address="0.0.0.0")
    target.prepare()
    target.start(here.release(2))
    switch = [sys.executable, "-c", _SWITCH, str(here.folder / "home"), here.name]
    died = subprocess.run(switch, check=False, env={**os.environ, "MLO_CRASH_AT": point}, timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert len(here.containers()) == 4
    target.drop(2)
    here.deploy(here.target(), 3)  # with the former address
    assert ask(endpoint) == "3"
    observed = here.target().observe()
    assert (observed.health, observed.revision) == ("healthy", 3), observed.reason
    port = urlsplit(endpoint).port
    assert here.containers() == [f"mlo-{here.name}-front-{port}", f"mlo-{here.name}-r3"]


def test_what_takes_the_port_of_a_stopped_front_is_named(here: Engine) -> None:
    endpoint = here.deploy(here.target(), 1)
    port = urlsplit(endpoint).port or 0
    before = here.containers()
    here.api.stop(f"mlo-{here.name}-front-{port}", timeout=1)
    with socket.create_server(("127.0.0.1", port)):
        assert failure(here.target().check).code == "E618"
        assert failure(here.target().prepare).code == "E618"
    assert here.containers() == before
    here.target().prepare()
    eventually(lambda: here.target().observe().health == "healthy")


def test_a_front_of_another_version_is_renewed_at_the_switch(here: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    files = front._context

    def older(base: str) -> dict[str, bytes]:
        now = files(base)
        return {**now, "haproxy.cfg": now["haproxy.cfg"] + b"# as before\n"}

    with monkeypatch.context() as before:
        before.setattr(front, "_context", older)
        endpoint = here.deploy(here.target(), 1)
        made_of = here.api.inspect_container(here.containers()[0])["Image"]
    try:
        target = here.target()
        target.prepare()
        target.start(here.release(2))
        (note,) = target.switch(2)
        assert "the front is renewed, so connections were refused for" in note
        assert ask(endpoint) == "2"
        assert here.api.inspect_container(here.containers()[0])["Image"] != made_of
        target.start(here.release(3))
        assert target.switch(3) == (), "once"
    finally:
        here.clean()
        here.api.remove_image(made_of, force=True)


def test_a_network_of_the_spec_is_used_and_stays(here: Engine) -> None:
    found = failure(lambda: here.target(network=f"{here.name}-net").start(here.release(1)))
    assert (found.code, f"it has no network {here.name}-net" in found.cause) == ("E643", True)
    here.api.create_network(f"{here.name}-net")
    try:
        target = here.target(network=f"{here.name}-net")
        here.deploy(target, 1)
        run = here.api.exec_create(
            f"mlo-{here.name}-r1",
            ["python3", "-c", f"import urllib.request as u; print(u.urlopen('http://{here.name}:8080/ready').status)"],
        )
        assert here.api.exec_start(run["Id"]).strip() == b"200", "other containers reach it by its name"
        target.stop()
        assert here.api.networks(names=[f"{here.name}-net"])
    finally:
        here.api.remove_network(f"{here.name}-net")


def test_the_same_name_from_another_store_is_refused(here: Engine, tmp_path: Path) -> None:
    endpoint = here.deploy(here.target(), 1)
    other = Site(Store.open(Home(tmp_path / "other")), here.name)
    target = DockerTarget(other, None, None, "127.0.0.1", None)
    found = failure(target.check)
    assert (found.code, str(here.folder / "home") in found.cause) == ("E641", True)
    target.stop()
    assert ask(endpoint) == "1", "nothing of the other store is touched"


def test_a_container_of_somebody_else_with_our_name_is_not_touched(here: Engine) -> None:
    target = here.target()
    name = f"mlo-{here.name}-r1"
    made = here.api.create_container(BASE, name=name, command=["sleep", "1"])
    try:
        target.prepare()
        found = failure(lambda: target.start(here.release(1)))
        assert (found.code, name in found.message) == ("E642", True)
        assert here.api.inspect_container(name)["Id"] == made["Id"]
    finally:
        here.api.remove_container(made, force=True)


def test_an_engine_that_is_gone_is_named_before_anything_is_done(here: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    target = here.target()
    found = failure(target.check)
    assert (found.code, "nothing listens" in found.cause) == ("E640", True)
    observed = target.observe()
    assert (observed.health, "does not respond" in observed.reason) == ("degraded", True)


def test_an_engine_that_goes_away_half_way_leaves_the_former_serving_and_the_next_command_cleans_up(
    here: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = here.deploy(here.target(), 1)
    release = here.release(2, never_ready=True)
    with relay() as way:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{way.port}")
        target = here.target()
        target.prepare()
        cut = threading.Timer(4.0, way.cut)
        cut.start()
        found = failure(lambda: target.start(release))
        cut.join()
    assert found.code == "E640"
    assert ask(endpoint) == "1"
    monkeypatch.undo()
    again = here.target()
    assert again.history() == (1, 2)
    again.drop(2)
    assert again.history() == (1,)
    assert (again.observe().health, ask(endpoint)) == ("healthy", "1")


def test_a_deployment_is_found_at_its_engine_whatever_the_environment_names_now(
    here: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = here.target()
    here.deploy(target, 1)
    with relay() as way:
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{way.port}")
        assert DockerTarget.placed(target.placement, here.site).observe().revision == 1
        assert here.target().is_at(target.placement), "it is the same engine by another way"
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    assert DockerTarget.placed(target.placement, here.site).observe().revision == 1
    assert not here.target().is_at(target.placement)


def test_it_serves_again_after_its_containers_were_killed_and_restarted(here: Engine) -> None:
    target = here.target()
    endpoint = here.deploy(target, 1)
    front = next(name for name in here.containers() if "-front-" in name)
    here.api.restart(front, timeout=0)
    here.api.restart(f"mlo-{here.name}-r1", timeout=0)
    assert ask(endpoint) == "1"
    assert target.observe().health == "healthy"


def test_the_log_is_that_of_the_revision_with_the_traffic_and_is_followed_across_a_switch(here: Engine) -> None:
    target = here.target()
    assert failure(lambda: next(target.logs(5, follow=False))).code == "E615"
    here.deploy(target, 1)
    assert list(target.logs(5, follow=False)) == ["serving 1"]
    lines = target.logs(5, follow=True)
    assert next(lines) == "serving 1"
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, lines)
        here.deploy(target, 2)
        assert following.result(30) == "serving 2"


def test_stop_removes_only_what_is_ours(here: Engine) -> None:
    target = here.target()
    bystander = here.api.create_container(BASE, name=f"{here.name}-bystander", command=["sleep", "600"])
    try:
        here.deploy(target, 1)
        here.api.connect_container_to_network(bystander, f"mlo-{here.name}")
        here.api.start(bystander)
        assert target.stop() == (f"except for the network mlo-{here.name}, which other containers use",)
        assert here.containers() == []
        assert here.api.inspect_container(bystander)["State"]["Running"]
    finally:
        here.api.remove_container(bystander, force=True)
    assert target.stop() == ()
    assert here.networks() == []
    assert target.observe().health == "stopped"
