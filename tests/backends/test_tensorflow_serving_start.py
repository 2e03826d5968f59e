"""What is missing to start TensorFlow Serving, and the commands that start it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from orchestrator.backends.backend import Program, ServingSettings, Unavailable
from orchestrator.backends.tensorflow_serving.backend import TENSORFLOW_SERVING
from orchestrator.backends.tensorflow_serving.config import read_models_config
from orchestrator.backends.tensorflow_serving.local import container_options, local_image, program_command
from orchestrator.containers import attached
from orchestrator.process.environment import inherited_environment
from tests.fake_engine import NO_ENGINE, FakeEngine, fake_engine

Put = Callable[[str, str], None]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """A Docker Engine, which has no images at first."""
    with fake_engine() as running:
        monkeypatch.setenv("DOCKER_HOST", running.host)
        yield running


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """`put("tensorflow_model_server", "echo x")`: a program on a PATH that holds nothing else; there is no Docker Engine."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("DOCKER_HOST", NO_ENGINE)

    def write(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return write


@pytest.fixture
def folder(settings_for: Callable[..., ServingSettings], placeholder_variant: Path, tmp_path: Path) -> Path:
    made = tmp_path / 'a, "b"'
    TENSORFLOW_SERVING.write_folder(settings_for("tensorflow-serving"), placeholder_variant, made)
    return made


def test_the_program_on_the_path_is_enough(put: Put) -> None:
    put("tensorflow_model_server", "exit 1")
    assert TENSORFLOW_SERVING.unavailable() is None


@pytest.mark.usefixtures("put")
def test_without_program_and_engine_both_are_named() -> None:
    assert TENSORFLOW_SERVING.unavailable() == Unavailable(
        "tensorflow_model_server is not on the PATH, and there is no Docker Engine to run its image "
        f"(there is no Docker Engine at {NO_ENGINE})",
        "install one of them",
    )


@pytest.mark.usefixtures("put")
def test_an_engine_that_does_not_respond_is_reported(engine: FakeEngine) -> None:
    engine.refuses = "the daemon is shutting down"
    told = TENSORFLOW_SERVING.unavailable()
    assert told is not None
    assert told.reason.endswith("did not list its images: the daemon is shutting down")


@pytest.mark.usefixtures("put")
@pytest.mark.parametrize(
    ("images", "chosen"),
    [
        ([], None),
        (["tensorflow/serving:2.20.0-devel", "tensorflow/serving:2.20.0-gpu", "tensorflow/serving:<none>"], None),
        (["tensorflow/serving:latest", "tensorflow/serving:2.20.0"], "tensorflow/serving:2.20.0"),
        (["tensorflow/serving:latest-devel", "tensorflow/serving:2.19.1"], "tensorflow/serving:2.19.1"),
    ],
)
def test_an_image_in_the_engine_is_used_and_none_is_pulled(
    engine: FakeEngine, images: list[str], chosen: str | None
) -> None:
    engine.images = dict.fromkeys(images, "sha256:12ab")
    assert local_image() == chosen
    told = TENSORFLOW_SERVING.unavailable()
    assert (told is None) == (chosen is not None)
    assert told is None or told.reason.endswith("has no image of it")
    assert told is None or told.remedy == "docker pull tensorflow/serving:2.20.0"


def test_the_version_of_the_program_is_the_one_it_prints(put: Put) -> None:
    put("tensorflow_model_server", "echo 'TensorFlow ModelServer: 2.19.1-rc0+dev.sha.12ab'; echo 'Library: 2.19.1'")
    assert TENSORFLOW_SERVING.program() == Program("tensorflow_model_server", "2.19.1-rc0+dev.sha.12ab", rendered=False)


@pytest.mark.parametrize(
    ("said", "rendered"),
    [("2.20.0", True), ("2.20.0-rc1+dev.sha.12ab", True), ("2.20.01", False), ("2.2", False), ("", False)],
)
def test_a_program_is_the_rendered_one_if_its_version_matches(put: Put, said: str, rendered: bool) -> None:
    put("tensorflow_model_server", f"echo 'TensorFlow ModelServer: {said}'")
    found = TENSORFLOW_SERVING.program()
    assert found is not None
    assert found.rendered is rendered


@pytest.mark.usefixtures("put")
def test_an_image_is_identified_by_its_id(engine: FakeEngine) -> None:
    engine.images = {"tensorflow/serving:latest": "sha256:12ab"}
    assert TENSORFLOW_SERVING.program() == Program("tensorflow/serving:latest", "sha256:12ab", rendered=False)


@pytest.mark.usefixtures("put")
def test_the_engine_is_queried_once_with_a_short_timeout(engine: FakeEngine) -> None:
    engine.silent = True
    began = time.monotonic()
    for _ in range(3):
        told = TENSORFLOW_SERVING.unavailable()
        assert told is not None
        assert told.reason.endswith("did not list its images: no answer within 2 s")
        assert TENSORFLOW_SERVING.program() is None
    assert time.monotonic() - began < 5
    assert len(engine.asked) == 1
    (note,) = TENSORFLOW_SERVING.notes()
    assert "no answer within 2 s" in note


def test_a_program_that_listens_on_all_interfaces_is_noted_and_a_container_is_not(put: Put, engine: FakeEngine) -> None:
    engine.images = {"tensorflow/serving:2.20.0": "sha256:12ab"}
    assert TENSORFLOW_SERVING.notes() == ()
    put("tensorflow_model_server", "exit 1")
    (note,) = TENSORFLOW_SERVING.notes()
    assert "listens on all interfaces and can be reached past the gateway" in note


def test_the_program_gets_the_folder_where_it_lies(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.chdir(scratch)
    program, *flags = program_command("/bin/server", folder, 18501, 3)
    assert program == "/bin/server"
    assert {"--rest_api_port=18501", "--tensorflow_intra_op_parallelism=3", "--port=0"} <= set(flags)
    assert "--model_config_file=models.config" in flags
    assert f"--batching_parameters_file={folder}/batching.config" in flags
    assert "--grpc_socket_path=grpc.sock" in flags, "a short path, whatever the folder is called"
    assert read_models_config((scratch / "models.config").read_text()).base == f"{folder}/models/tiny-model"
    assert not any("/opt/mlo" in flag for flag in flags)


def test_the_server_learns_where_the_engine_is_and_others_do_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "tcp://engine:2376")
    monkeypatch.setenv("DOCKER_CONFIG", "/config")
    launch = TENSORFLOW_SERVING.launch(folder, port=18501, scratch=tmp_path, threads=1)
    assert (launch.env["DOCKER_HOST"], launch.env["DOCKER_CONFIG"]) == ("tcp://engine:2376", "/config")
    assert "DOCKER_HOST" not in inherited_environment()


class FakeContainer:
    """A container as the engine's client shows it, which notes what is done with it."""

    def __init__(self, told: list[str]) -> None:
        self.id = "c1"
        self.told = told

    def attach_socket(self, params: dict[str, int]) -> None:
        del params

    def wait(self, **_: Any) -> dict[str, int]:
        return {"StatusCode": 143}

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: self.told.append(name)


class FakeClient:
    """Creates one container; `interrupts` says at which call SIGTERM comes."""

    def __init__(self, interrupts: str) -> None:
        self.containers = self
        self.api = FakeLeft({})
        self.told: list[str] = []
        self.interrupts = interrupts

    def create(self, _image: str, **options: Any) -> FakeContainer:
        self.told.append("create")
        if self.interrupts == "create":
            os.kill(os.getpid(), signal.SIGTERM)
        assert options["labels"].keys() == {"mlo.started-by"}
        return FakeContainer(self.told)


class FakeLeft:
    """The API of an engine with these containers: id → who started it."""

    def __init__(self, started_by: dict[str, str]) -> None:
        self.started_by = started_by

    def containers(self, **_: Any) -> list[dict[str, Any]]:
        return [{"Id": each, "Labels": {"mlo.started-by": who}} for each, who in self.started_by.items()]

    def remove_container(self, container: str, *, force: bool, v: bool) -> None:
        assert force
        assert v, "with the volumes of its secrets"
        del self.started_by[container]


@pytest.fixture
def signals() -> Iterator[None]:
    """What this process does on signals is as it was afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    ("moment", "code", "told"),
    [("create", 143, ["create", "remove"]), ("output", 143, ["create", "start", "kill", "remove"])],
)
def test_a_container_is_removed_whenever_the_signal_comes(
    moment: str, code: int, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = FakeClient(moment)

    def frames(*_: Any, **__: Any) -> Iterator[tuple[int, bytes]]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield from ()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(attached, "connected", lambda _: nullcontext(client))
    monkeypatch.setattr("docker.utils.socket.frames_iter", frames)
    assert attached.run_container("image", {}, tmp_path / "container") == code
    assert client.told == told


def test_what_a_killed_process_left_is_removed_by_the_next() -> None:
    dead = f"{os.uname().nodename} {os.getpid()}/0.00"  # the process id was used again
    api = FakeLeft(
        {"mine": attached.started_by()["mlo.started-by"], "elsewhere": "another-machine 1/0.00", "dead": dead}
    )
    attached.sweep_containers(api)
    assert api.started_by.keys() == {"mine", "elsewhere"}


def test_a_container_is_read_only_and_published_on_loopback_only(folder: Path) -> None:
    options = container_options(folder, 18501, 3)
    assert options["ports"] == {"8501/tcp": ("127.0.0.1", 18501)}
    assert options["read_only"] is True
    assert options["init"] is True
    assert options["cap_drop"] == ["ALL"]
    assert options["security_opt"] == ["no-new-privileges:true"]
    assert options["mem_limit"] == options["memswap_limit"] == 2**31
    assert options["user"] == (f"{os.getuid()}:{os.getgid()}" if os.getuid() else "65532:65532")
    (mount,) = options["mounts"]
    assert (mount["Source"], mount["Target"], mount["Type"]) == (str(folder), "/opt/mlo/serving", "bind")
    assert mount["ReadOnly"] is True
    given = (folder / "flags.txt").read_text().splitlines()
    assert options["command"][-len(given) - 2 :] == [
        *given, "--tensorflow_intra_op_parallelism=3", "--tensorflow_inter_op_parallelism=3",
    ]  # fmt: skip
