"""The target `docker` without an engine: what it asks one for, and what it makes of the answers."""

from __future__ import annotations

import io
import json
import ssl
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError
from pydantic import ValidationError
from requests import Response

from orchestrator.containers.engine import EngineAddress
from orchestrator.errors import DeployFailed
from orchestrator.steps.server_options import ServerTls
from orchestrator.store.state import Image
from orchestrator.targets.docker.certificate import read_certificate, require_certificate
from orchestrator.targets.docker.drift import differences
from orchestrator.targets.docker.failures import another_store
from orchestrator.targets.docker.front import (
    Published,
    Routes,
    create_front,
    order,
    ports_of,
    published_by,
    routes_of,
    switched,
)
from orchestrator.targets.docker.front_image import FrontImages
from orchestrator.targets.docker.log import FollowedLog
from orchestrator.targets.docker.marks import Marks
from orchestrator.targets.docker.models import ran_out_of_memory
from orchestrator.targets.docker.needs import image_at, make_network
from orchestrator.targets.docker.observing import find
from orchestrator.targets.docker.section import DockerDeploy
from tests.certificates import certificate

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
    create_front(
        api, MARKS, "sha256:1", Published("127.0.0.1", 1, False, False, "127.0.0.1"), "net", revision=1, state=None
    )
    ((_, asked),) = api.called("create_container")
    assert asked["use_config_proxy"] is False


def test_a_front_that_cannot_join_its_network_is_removed() -> None:
    api = FakeApi(
        inspect_image={"Config": {"Entrypoint": None, "Cmd": None}},
        info={"LoggingDriver": "journald"},
        create_container={"Id": "f"},
        connect_container_to_network=refusal(404),
    )
    published = Published("127.0.0.1", 1, False, False, "127.0.0.1")
    with pytest.raises(APIError):
        create_front(api, MARKS, "sha256:1", published, "net", revision=1, state=None)
    assert [args for args, _ in api.called("remove_container")] == [("f",)]


def test_a_front_that_crashes_takes_no_orders_and_is_named_with_what_to_do() -> None:
    crashing = FakeApi(exec_create=refusal(409))
    with pytest.raises(DeployFailed, match="refused an order") as caught:
        order(crashing, "f" * 64, "ping")
    (problem,) = caught.value.diagnostics
    assert (problem.code, problem.cause) == ("E646", "the engine cannot run `front ping` there: the engine says no")
    assert "docker rm --force --volumes ffffffffffff" in str(problem.remedy)


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
        # Both remedies name another way: another `metadata.name`.
        another = Marks("others", "one-store", "/home/a")
        there.answers["networks"] = []
        there.answers["create_network"] = {"Id": "n"}
        assert make_network(there, ENGINE, another, None, egress=False) == "mlo-others"


def test_an_image_that_was_removed_is_there_once_it_is_built_again() -> None:
    image = Image(name="digits:1", id="sha256:1", digest=None, platform="linux/amd64")
    api = FakeApi(inspect_image=refusal(404))
    with pytest.raises(DeployFailed) as caught:
        image_at(api, image, 3)
    (found,) = caught.value.diagnostics
    assert (found.code, found.remedy) == (
        "E648",
        "apply the spec that the revision was made from, which builds it again",
    )
    api.answers["inspect_image"] = {"Id": image.id}
    assert image_at(api, image, 3) == {"Id": image.id}


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
        get_archive=lambda *_: ([_packed({"slots": b"A_HOST=mlo-digits-r1\n", "routes.map": b"live a\n"})], {}),
        logs=first,
    )
    log = FollowedLog("digits", MARKS)
    assert code_of(lambda: list(log.last(api, 5))) == "E615", "no front sends the traffic there"
    rows.append({"Id": "f", "Labels": MARKS.labels("front", 1, {})})
    assert list(log.last(api, 5)) == ["one"]
    api.answers["logs"] = lambda *_, **__: (part for part in (first[:9], first[9:] + second))  # as closable as a stream
    assert list(log.more(api)) == ["two"], "after the crash, the first line is not given again"
    assert list(log.more(api)) == []
    rows.clear()
    assert code_of(lambda: list(log.more(api))) == "E615"


@pytest.mark.parametrize("grpc", [False, True])
@pytest.mark.parametrize("tls", [False, True])
def test_what_a_front_was_made_to_publish_is_read_back_from_its_label(tls: bool, grpc: bool) -> None:
    what = Published("10.0.0.7", 21000, grpc, tls, "127.0.0.1")
    api = FakeApi(
        inspect_image={"Config": {"Entrypoint": None, "Cmd": None}},
        info={"LoggingDriver": "journald"},
        create_container={"Id": "f"},
    )
    create_front(api, MARKS, "sha256:1", what, "net", revision=1, state=None)
    ((_, asked),) = api.called("create_container")
    ports = {"21999/tcp": [{"HostIp": "0.0.0.0", "HostPort": "21999"}], "8090/tcp": None}
    front = {"Config": {"Labels": asked["labels"]}, "HostConfig": {"PortBindings": ports}}
    assert published_by(front) == what, "whatever somebody has changed since"
    assert ports_of(front) == {21999}
    inside = {port for port, (_, number) in what.bindings().items() if number == 21000}
    assert inside == {"8443/tcp" if tls else "8080/tcp"}


def test_what_a_front_keeps_is_switched_for_the_one_that_follows_it() -> None:
    slots = b"A_HOST=digits-r1\nA_PORT=8080\nB_HOST=digits-r2\nB_PORT=8080\n"
    kept = _packed({"./slots": slots, "./routes.map": b"live a\ncandidate b\n"})

    def routes(state: bytes) -> Routes:
        return routes_of(FakeApi(get_archive=([state], {})), "f")

    assert routes(kept) == Routes("digits-r1", "digits-r2")
    assert routes(switched(kept, "digits-r2")) == Routes("digits-r2", None)
    assert switched(kept, "digits-r3") == kept


@pytest.mark.parametrize("gone", [False, True])
def test_a_front_that_cannot_be_completed_is_removed_and_what_fails_there_is_added_to_the_error(gone: bool) -> None:
    removed: list[str] = []

    def remove(container: str, **_: object) -> None:
        if gone:
            raise ConnectionError("the engine is gone")
        removed.append(container)

    api = FakeApi(
        inspect_image={"Config": {"Entrypoint": ["front"], "Cmd": None}},
        info={"LoggingDriver": "journald"},
        create_container={"Id": "f" * 64},
        connect_container_to_network=refusal(500),
        remove_container=remove,
    )
    published = Published("10.0.0.7", 21000, grpc=False, tls=False, trial="127.0.0.1")
    with pytest.raises(APIError, match="the engine says no") as failed:
        create_front(api, MARKS, "sha256:1", published, "mlo-digits", revision=1, state=None)
    notes = ["removing the container ffffffffffff also failed: the engine is gone"] if gone else []
    assert (removed, getattr(failed.value, "__notes__", [])) == ([] if gone else ["f" * 64], notes)


@pytest.mark.parametrize(
    ("names", "removed"),
    [
        (["mlo-front:0011"], ["mlo-front:0011"]),
        ([], ["sha256:1"]),
        (["mlo-front:0011", "registry.example.com/front:kept"], []),
    ],
)
def test_the_image_of_a_renewed_front_goes_unless_it_has_a_name_of_somebody_else(
    names: list[str], removed: list[str]
) -> None:
    api = FakeApi(inspect_image={"RepoTags": names})
    FrontImages(api).remove("sha256:1")
    assert [args for args, _ in api.called("remove_image")] == [(each,) for each in removed]
    used = FakeApi(inspect_image={"RepoTags": names}, remove_image=refusal(409))
    FrontImages(used).remove("sha256:1")


TLS = ServerTls("/run/digits-tls/tls.crt", "/run/digits-tls/tls.key", "digits-tls")


def test_a_certificate_is_read_from_a_container_through_links(tmp_path: Path) -> None:
    """As a kubelet and others lay out files that are replaced at once; the key is not asked for."""
    pem = certificate(tmp_path, "server")[0].read_bytes()
    files = {
        "/run/digits-tls/tls.crt": _packed({}, link="..data/tls.crt"),
        "/run/digits-tls/..data/tls.crt": _packed({"tls.crt": pem + pem}),
        "/run/digits-tls/empty": _packed({"empty": b""}),
    }
    api = FakeApi(get_archive=lambda _, path: ([files[path]], {}) if path in files else refusal(404))
    assert read_certificate(api, "r1", Path(TLS.certificate)) == ssl.PEM_cert_to_DER_cert(pem.decode())
    assert {args[1] for args, _ in api.called("get_archive")} == {*files} - {"/run/digits-tls/empty"}
    for missing in ("/run/digits-tls/none", "/run/digits-tls/empty"):
        assert code_of(lambda missing=missing: read_certificate(api, "r1", Path(missing))) == "E482"


def test_the_engines_machine_is_asked_for_a_certificate_that_clients_take(tmp_path: Path) -> None:
    good = certificate(tmp_path, "good")[0].read_bytes()
    expired = certificate(tmp_path, "old", ends=timedelta(minutes=-1))[0].read_bytes()

    def asked(**answers: Any) -> FakeApi:
        return FakeApi(**{"images": ["sha256:1"], "create_container": {"Id": "c"}, **answers})

    there = asked(get_archive=([_packed({"tls.crt": good})], {}))
    require_certificate(there, TLS, ENGINE)
    assert not there.called("start")
    assert [args for args, _ in there.called("remove_container")] == [("c",)]
    answers: list[Any] = [([_packed({"tls.crt": each})], {}) for each in (expired, b"none")]
    for answer in [*answers, refusal(404)]:
        there = asked(get_archive=answer)
        assert code_of(lambda there=there: require_certificate(there, TLS, ENGINE)) == "E481"
        assert there.called("remove_container")
    gone = refusal(400)
    gone.explanation = 'invalid mount config for type "bind": bind source path does not exist: /run/digits-tls'
    assert code_of(lambda: require_certificate(asked(create_container=gone), TLS, ENGINE)) == "E481"
    empty = asked(images=[])
    require_certificate(empty, TLS, ENGINE)
    assert not empty.called("create_container")


def _packed(files: dict[str, bytes], link: str | None = None) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        if link is not None:
            member = tarfile.TarInfo("link")
            member.type, member.linkname = tarfile.SYMTYPE, link
            archive.addfile(member)
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return packed.getvalue()
