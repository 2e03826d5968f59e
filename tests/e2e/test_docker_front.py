"""The front, which publishes the port at a real Docker Engine: when it fails, dies half-way, or is renewed."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from orchestrator.targets.docker import front_image
from orchestrator.targets.docker.front_image import FrontImages
from tests.e2e.docker_engine import BASE, ON_ENGINE, Engine, ask, eventually, failure
from tests.e2e.images_case import docker

pytestmark = [*ON_ENGINE, pytest.mark.timeout(300)]


def test_a_front_whose_base_is_missing_is_named_and_leaves_nothing(here: Engine) -> None:
    target = here.target()
    target.prepare()
    found = failure(lambda: target.start(here.release(1, base="127.0.0.1:1/team/python:3.11")))
    assert (found.code, "127.0.0.1:1/team/python:3.11" in found.remedy) == ("E645", True)
    assert here.containers() == []
    target.stop()
    assert here.networks() == []


def test_a_front_that_takes_no_orders_is_removed_by_the_command_that_is_named(here: Engine) -> None:
    here.deploy(here.target(), 1)
    front = here.containers()[0]
    docker("exec", front, "rm", "/run/front/control.sock")
    target = here.target()
    target.prepare()
    found = failure(lambda: target.start(here.release(2)))
    assert found.code == "E646"
    (command,) = re.findall(r"\(docker (rm .+?)\)", found.remedy)
    docker(*command.split())
    assert ask(here.deploy(here.target(), 2)) == "2"
    assert len(here.containers()) == 2


@pytest.mark.parametrize("point", ["docker.front-replacing", "docker.front-stopped"])
def test_a_command_that_dies_while_it_replaces_the_front_leaves_one_that_the_next_one_starts(
    here: Engine, point: str
) -> None:
    endpoint = here.deploy(here.target(), 1)
    target = here.target(address="0.0.0.0")
    target.prepare()
    target.start(here.release(2))
    here.killed_at(point, 2, address="0.0.0.0")
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
    files = front_image._context

    def older(base: str) -> dict[str, bytes]:
        now = files(base)
        return {**now, "haproxy.cfg": now["haproxy.cfg"] + b"# as before\n"}

    with monkeypatch.context() as before:
        before.setattr(front_image, "_context", older)
        endpoint = here.deploy(here.target(), 1)
        made_of = here.api.inspect_container(here.containers()[0])["Image"]
    target = here.target()
    target.prepare()
    target.start(here.release(2))
    (note,) = target.switch(2)
    assert "the front is renewed, so connections were refused for" in note
    assert ask(endpoint) == "2"
    assert not FrontImages(here.api).is_renewable(here.api.inspect_container(here.containers()[0])), "once"
    assert made_of not in [each["Id"] for each in here.api.images()], "nothing uses it any more"


def test_a_front_whose_base_was_updated_is_renewed_at_the_switch(here: Engine, tmp_path: Path) -> None:
    base = f"images-test/updated-base:{here.name}"
    usual = FrontImages(here.api).on(BASE, lambda _: None)  # it has HAProxy, so nothing is installed

    def update(line: str) -> None:
        (tmp_path / "Dockerfile").write_text(f"FROM {usual}\nUSER root\n{line}", encoding="utf-8")
        docker("build", "--quiet", "--tag", base, str(tmp_path))

    update("")
    endpoint, images = here.deploy(here.target(), 1, base=base), FrontImages(here.api)
    before = here.api.inspect_container(here.containers()[0])
    assert not images.is_renewable(before)
    try:
        update("RUN echo a security update >/etc/updated\n")
        target = here.target()
        target.start(here.release(2, base=base))
        (note,) = target.switch(2)
        assert "the front is renewed, so connections were refused for" in note
        assert ask(endpoint) == "2"
        after = here.api.inspect_container(here.containers()[0])
        assert after["Image"] != before["Image"]
        assert not images.is_renewable(after), "once"
        assert before["Image"] not in [each["Id"] for each in here.api.images()], "it is not left without a name"
        target.stop()
        assert after["Image"] not in [each["Id"] for each in here.api.images()], "no deployment is left that uses it"
    finally:
        here.clean()
        docker("rmi", "--force", base)
