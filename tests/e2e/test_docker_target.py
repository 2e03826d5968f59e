"""The target `docker` on a real Docker Engine: what a container may do, whose it is, and what goes wrong before it serves."""

from __future__ import annotations

import socket
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.store.home import Home
from orchestrator.store.store import Store
from orchestrator.targets.docker.target import DockerTarget
from orchestrator.targets.target import Site
from tests.e2e.docker_engine import BASE, ON_ENGINE, Engine, ask, failure, relay

pytestmark = [*ON_ENGINE, pytest.mark.timeout(300)]


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
        if code == "E644":
            assert found.remedy == "raise `hardware: memory:` in the spec, or allow smaller batches"
    here.deploy(target, 2)
    assert ask(endpoint) == "2"


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
    assert "or `mlo destroy`, from that store" in found.remedy
    here.target().stop()
    target.check()


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
    assert found.remedy.startswith("remove or rename it")
    target.start(here.release(1))


def test_an_engine_that_is_gone_is_named_before_anything_is_done(here: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    target = here.target()
    found = failure(target.check)
    assert (found.code, "nothing listens" in found.cause) == ("E640", True)
    observed = target.observe()
    assert (observed.health, "does not respond" in observed.reason) == ("degraded", True)
    assert "or choose another one with DOCKER_HOST" in found.remedy
    monkeypatch.undo()
    here.target().check()


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
