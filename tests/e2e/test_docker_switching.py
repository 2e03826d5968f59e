"""Switches of traffic at a real Docker Engine: under load, and to another port, address or network."""

from __future__ import annotations

import socket
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.certificates import certificate
from tests.e2e.docker_engine import ON_ENGINE, Engine, ask, failure

pytestmark = [*ON_ENGINE, pytest.mark.timeout(300)]


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
    expected = target.certificate(Path("/etc/ssl/certs/ca-certificates.crt"), endpoint)
    assert expected.read is not None
    certificate = expected.read()
    target.start(here.release(2))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(ask, endpoint)
        time.sleep(0.3)
        target.switch(2)
        assert slow.result() == "1"
    assert ask(endpoint) == "2"
    assert expected.read() == certificate, "it is the one of the container that has the traffic now"
    target.stop()
    assert "no revision" in failure(expected.read).cause


def test_a_request_over_tls_is_waited_for_when_the_front_is_replaced(here: Engine) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        _, key = certificate(Path(folder), "tls")
        key.chmod(0o444)
        here.deploy(here.target(), 1, tls=folder, delay=8.0)
        target = here.target(address="0.0.0.0")
        endpoint = target.prepare()
        target.start(here.release(2, tls=folder))
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(ask, endpoint)
            time.sleep(0.5)
            (note,) = target.switch(2)
            assert slow.result() == "1"
        assert "connections were refused for" in note
        assert ask(endpoint) == "2"


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
    facts = here.api.inspect_container(before[0])
    target = here.target(address="192.0.2.7")  # reserved for documentation
    target.prepare()
    found = failure(lambda: target.start(here.release(2)))
    assert (found.code, "deploy: address:" in found.remedy) == ("E643", True)
    assert ask(endpoint) == "1"
    assert here.containers() == before
    assert here.api.inspect_container(before[0])["State"] == facts["State"], "the front has run all the time"
    assert (here.target().observe().health, here.target().observe().revision) == ("healthy", 1)
    here.deploy(here.target(), 3)
    assert ask(endpoint) == "3"


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
