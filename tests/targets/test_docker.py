"""The target `docker` without an engine: what it asks one for, and what it makes of the answers."""

from __future__ import annotations

import io
import json
import tarfile
from datetime import UTC, datetime
from typing import Any

import pytest
from docker.errors import APIError
from pydantic import ValidationError
from requests import Response

from orchestrator.containers.engine import EngineAddress
from orchestrator.errors import DeployFailed
from orchestrator.targets.docker.drift import differences
from orchestrator.targets.docker.failures import another_store
from orchestrator.targets.docker.front import Published, create_front
from orchestrator.targets.docker.log import FollowedLog
from orchestrator.targets.docker.marks import Marks
from orchestrator.targets.docker.models import ran_out_of_memory
from orchestrator.targets.docker.needs import make_network
from orchestrator.targets.docker.observing import find
from orchestrator.targets.docker.section import DockerDeploy

MARKS = Marks("digits", "one-store", "/home/a")
ENGINE = EngineAddress("unix:///var/run/docker.sock")


def refusal(status: int) -> APIError:
    response = Response()
    response.status_code = status
    return APIError("refused", response=response, explanation="the engine says no")


class FakeApi:
    """The calls of docker's API that a test needs; each records what it was called with."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            answer = self.answers.get(name)
            answer = answer(*args, **kwargs) if callable(answer) else answer
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    def called(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(args, kwargs) for each, args, kwargs in self.calls if each == name]


def code_of(call: Any) -> str:
    with pytest.raises(DeployFailed) as caught:
        call()
    return caught.value.diagnostics[0].code


def test_a_changed_environment_is_named_without_its_values() -> None:
    wanted, found = ["PATH=/bin", "TOKEN=hunter1"], ["HTTP_PROXY=http://user:hunter2@proxy", "PATH=/bin", "TOKEN=other"]
    container = {
        "Image": "sha256:1",
        "Mounts": [],
        "Config": {
            "Entrypoint": None,
            "Cmd": None,
            "Env": found,
            "User": "",
            "Labels": {"mlo.container": json.dumps({"facts": {"environment": wanted}})},
        },
        "HostConfig": {
            "Memory": 0,
            "MemoryReservation": 0,
            "NanoCpus": 0,
            "PidsLimit": 0,
            "ReadonlyRootfs": True,
            "CapDrop": [],
            "CapAdd": [],
            "Privileged": False,
            "SecurityOpt": [],
            "Tmpfs": {},
            "PortBindings": {},
        },
    }
    assert differences(container) == ["its environment has another HTTP_PROXY, TOKEN"]


def test_a_front_does_not_get_the_proxies_of_the_client() -> None:
    api = FakeApi(
        inspect_image={"Config": {"Entrypoint": None, "Cmd": None}},
        info={"LoggingDriver": "journald"},
        create_container={"Id": "f"},
    )
    create_front(api, MARKS, "sha256:1", Published("127.0.0.1", 1, False, "127.0.0.1"), "net", revision=1, state=None)
    ((_, asked),) = api.called("create_container")
    assert asked["use_config_proxy"] is False


def test_a_front_that_cannot_join_its_network_is_removed() -> None:
    api = FakeApi(
        inspect_image={"Config": {"Entrypoint": None, "Cmd": None}},
        info={"LoggingDriver": "journald"},
        create_container={"Id": "f"},
        connect_container_to_network=refusal(404),
    )
    published = Published("127.0.0.1", 1, False, "127.0.0.1")
    with pytest.raises(APIError):
        create_front(api, MARKS, "sha256:1", published, "net", revision=1, state=None)
    assert [args for args, _ in api.called("remove_container")] == [("f",)]


def test_what_was_removed_since_it_was_listed_is_looked_for_again() -> None:
    row = {"Id": "gone", "Labels": MARKS.labels("model", 1)}
    rows = iter([[row], []])
    api = FakeApi(containers=lambda **_: next(rows), inspect_container=refusal(404))
    assert dict(find(api, MARKS).models) == {}
    refused = FakeApi(containers=[row], inspect_container=refusal(500))
    with pytest.raises(APIError):
        find(refused, MARKS)


def test_whether_memory_ran_out_is_asked_by_the_clock_of_the_engine() -> None:
    api = FakeApi(info={"SystemTime": "2031-02-03T05:05:06.987654321+01:00"}, events=[])
    assert not ran_out_of_memory(api, {"Id": "m", "Created": "2031-02-03T04:00:00.1Z"})
    ((_, asked),) = api.called("events")
    assert asked["until"] == datetime(2031, 2, 3, 4, 5, 7, tzinfo=UTC), "the current second counts, too"


def network(labels: dict[str, str], *, name: str = "mlo-digits", internal: bool = True) -> FakeApi:
    return FakeApi(networks=[{"Name": name, "Labels": labels, "Internal": internal}])


def test_a_network_is_used_only_if_it_is_ours_and_of_the_right_kind() -> None:
    ours = network(MARKS.labels("network"))
    assert make_network(ours, ENGINE, MARKS, None, egress=False) == "mlo-digits"
    assert not ours.called("create_network")
    for labels, internal, code in (
        ({}, True, "E642"),
        (Marks("digits-out", "one-store", "/home/a").labels("network"), True, "E642"),
        (MARKS.labels("network"), False, "E642"),
        (Marks("digits", "another-store", "/home/b").labels("network"), True, "E641"),
    ):
        there = network(labels, internal=internal)
        assert code_of(lambda there=there: make_network(there, ENGINE, MARKS, None, egress=False)) == code


def test_no_other_deployment_has_a_network_of_the_same_name() -> None:
    assert MARKS.network(egress=True) != Marks("digits-out", "one-store", "/home/a").network(egress=False)


def test_the_remedy_for_another_store_removes_its_network_too() -> None:
    (problem,) = another_store("digits", {}).diagnostics
    assert "docker network rm" in str(problem.remedy)


@pytest.mark.parametrize("name", ["host", "bridge", "none", "default"])
def test_a_network_without_names_is_refused_in_the_spec(name: str) -> None:
    with pytest.raises(ValidationError, match="docker network create"):
        DockerDeploy.model_validate({"target": "docker", "network": name})


def test_a_log_goes_on_after_a_crash_and_ends_with_the_deployment() -> None:
    first, second = b"2031-01-01T00:00:01.000000001Z one\n", b"2031-01-01T00:00:01.000000002Z two\n"
    front = {
        "Id": "f",
        "State": {"Running": True},
        "Created": "1",
        "Name": "/mlo-digits-front-1",
    }
    model = {"Id": "m", "Name": "/mlo-digits-r1"}
    rows = [{"Id": "m", "Labels": MARKS.labels("model", 1)}]
    api = FakeApi(
        containers=lambda **_: [*rows],
        inspect_container=lambda name: {"f": front, "m": model}[name],
        get_archive=lambda *_: ([_routes()], {}),
        logs=first,
    )
    log = FollowedLog("digits", MARKS)
    assert code_of(lambda: list(log.last(api, 5))) == "E615", "no front sends the traffic there"
    rows.append({"Id": "f", "Labels": MARKS.labels("front", 1)})
    assert list(log.last(api, 5)) == ["one"]
    api.answers["logs"] = lambda *_, **__: (part for part in (first[:9], first[9:] + second))  # as closable as a stream
    assert list(log.more(api)) == ["two"], "after the crash, the first line is not given again"
    assert list(log.more(api)) == []
    rows.clear()
    assert code_of(lambda: list(log.more(api))) == "E615"


def _routes() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in {"slots": b"A_HOST=mlo-digits-r1\n", "routes.map": b"live a\n"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return packed.getvalue()
