"""Commands that are killed or stopped while the published port changes hands, and what they leave, on a real Docker Engine."""

from __future__ import annotations

import signal
import tempfile
from http.client import HTTPException
from pathlib import Path

import pytest

from orchestrator.errors import DeployFailed
from tests.certificates import certificate
from tests.e2e.docker_engine import ON_ENGINE, Engine, ask, eventually

pytestmark = [*ON_ENGINE, pytest.mark.timeout(300)]


def _answers(endpoint: str, expected: str) -> bool:
    try:
        return ask(endpoint) == expected
    except (OSError, HTTPException):
        return False


def test_a_command_that_is_killed_while_nothing_has_the_port_leaves_the_new_revision_serving(here: Engine) -> None:
    """From TLS to HTTP: the front for one does not serve the other, so port and traffic change together."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        _, key = certificate(Path(folder), "tls")
        key.chmod(0o444)
        here.deploy(here.target(), 1, tls=folder)
        target = here.target()
        target.prepare()
        endpoint = target.start(here.release(2)).endpoint or ""
        here.killed_at("docker.front-stopped", 2)
        eventually(lambda: _answers(endpoint, "2"), 60.0)  # no other command has run

        assert here.target().observe().revision == 2, "so the next command goes on with it"
        here.target().switch(2)
        assert ask(endpoint) == "2"
        assert len(here.containers()) == 2


_STOPS = """
import os, signal
from orchestrator.targets.docker import fronts
fronts.crash_point = lambda point: point == "docker.front-stopped" and os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_command_that_is_stopped_while_nothing_has_the_port_leaves_the_new_revision_serving_and_goes_on(
    here: Engine,
) -> None:
    here.deploy(here.target(), 1)
    target = here.target(address="0.0.0.0")
    target.prepare()
    endpoint = target.start(here.release(2)).endpoint or ""
    with here.switching(2, "0.0.0.0", _STOPS) as command:
        try:
            eventually(lambda: _answers(endpoint, "2"), 60.0)
            assert command.poll() is None
        finally:
            command.send_signal(signal.SIGCONT)
        assert command.wait(60) == 0
    assert ask(endpoint) == "2"
    assert len(here.containers()) == 2


_INTERRUPTED_AND_KILLED = """
import os, signal
from orchestrator.targets.docker import fronts
def interrupted(point):
    if point == "docker.front-stopped":
        fronts.undo = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        raise KeyboardInterrupt
fronts.crash_point = interrupted
"""


def test_a_command_that_is_killed_while_it_takes_the_exchange_back_leaves_one_that_serves(here: Engine) -> None:
    here.deploy(here.target(), 1)
    target = here.target(address="0.0.0.0")
    target.prepare()
    endpoint = target.start(here.release(2)).endpoint or ""
    with here.switching(2, "0.0.0.0", _INTERRUPTED_AND_KILLED) as command:
        assert command.wait(120) == -signal.SIGKILL
    eventually(lambda: _answers(endpoint, "2"), 60.0)
    here.target(address="0.0.0.0").switch(2)
    assert ask(endpoint) == "2"
    assert len(here.containers()) == 2


@pytest.mark.parametrize("stopped", ["the revision", "the front"])
def test_a_revision_that_has_the_traffic_already_is_not_replaced_by_itself(here: Engine, stopped: str) -> None:
    """A rollback is killed after its switch; then somebody stops what serves, so that the next command does not see that it does."""
    first, target = here.release(1), here.target()
    endpoint = target.prepare()
    target.start(first)
    target.switch(1)
    second = here.release(2)
    target.start(second)
    here.killed_at("docker.switched", 2)
    front, _, model = here.containers()
    kept = here.api.inspect_container(model)["Id"]
    here.api.stop(model if stopped == "the revision" else front, timeout=1)
    assert here.target().observe().revision is None
    target = here.target()
    target.drop(2)  # as the next rollback to it does, and then:
    target.prepare(first)
    started = target.start(second)
    assert here.api.inspect_container(model)["Id"] == kept
    assert (started.url, ask(endpoint)) == (endpoint, "2")
    target.switch(2)
    eventually(lambda: target.observe().health == "healthy")
    assert here.containers() == [front, model]


def test_a_revision_that_fails_takes_its_network_along(here: Engine) -> None:
    endpoint = here.deploy(here.target(), 1)
    before = here.networks()
    with pytest.raises(DeployFailed):
        here.target().start(here.release(2, egress=True, exits=1))
    assert here.networks() == before
    assert ask(endpoint) == "1"
