"""What is missing to start TensorFlow Serving, and the commands that start it."""

from __future__ import annotations

import csv
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.backends.backend import Program, ServingSettings
from orchestrator.backends.tensorflow_serving.backend import TENSORFLOW_SERVING
from orchestrator.backends.tensorflow_serving.config import read_models_config
from orchestrator.backends.tensorflow_serving.found import local_image
from orchestrator.backends.tensorflow_serving.start import container_command, program_command

Put = Callable[[str, str], None]


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Put:
    """`put("docker", "echo x")`: a program on a PATH that holds nothing else."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

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


def test_without_program_and_docker_both_are_named(put: Put) -> None:
    assert TENSORFLOW_SERVING.unavailable() == (
        "there is no tensorflow_model_server on the PATH, and no docker that could run its image; install one of them"
    )


def test_an_engine_that_does_not_answer_is_told(put: Put) -> None:
    put("docker", "echo noise >&2; echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    told = TENSORFLOW_SERVING.unavailable()
    assert told is not None
    assert told.endswith("does not say which images it has: Cannot connect to the Docker daemon")


@pytest.mark.parametrize(
    ("images", "chosen"),
    [
        ("", None),
        ("tensorflow/serving:2.20.0-devel\ntensorflow/serving:2.20.0-gpu\ntensorflow/serving:<none>", None),
        ("tensorflow/serving:latest\ntensorflow/serving:2.20.0", "tensorflow/serving:2.20.0"),
        ("tensorflow/serving:latest-devel\ntensorflow/serving:2.19.1\n", "tensorflow/serving:2.19.1"),
    ],
)
def test_an_image_that_the_engine_has_is_taken_and_none_is_pulled(put: Put, images: str, chosen: str | None) -> None:
    put("docker", f'[ "$1 $2" = "image ls" ] || exit 9; printf \'%s\\n\' "{images}"')
    assert local_image() == chosen
    told = TENSORFLOW_SERVING.unavailable()
    assert (told is None) == (chosen is not None)
    assert told is None or told.endswith("has no image of it; run: docker pull tensorflow/serving:2.20.0")


def test_the_version_of_the_program_is_what_it_says(put: Put) -> None:
    put("tensorflow_model_server", "echo 'TensorFlow ModelServer: 2.19.1-rc0+dev.sha.12ab'; echo 'Library: 2.19.1'")
    assert TENSORFLOW_SERVING.program() == Program("tensorflow_model_server", "2.19.1-rc0+dev.sha.12ab", rendered=False)


@pytest.mark.parametrize(
    ("said", "rendered"),
    [("2.20.0", True), ("2.20.0-rc1+dev.sha.12ab", True), ("2.20.01", False), ("2.2", False), ("", False)],
)
def test_a_program_is_the_rendered_one_by_its_number(put: Put, said: str, rendered: bool) -> None:
    put("tensorflow_model_server", f"echo 'TensorFlow ModelServer: {said}'")
    found = TENSORFLOW_SERVING.program()
    assert found is not None
    assert found.rendered is rendered


def test_an_image_is_known_by_its_id(put: Put) -> None:
    put("docker", "echo 'tensorflow/serving:latest sha256:12ab'")
    assert TENSORFLOW_SERVING.program() == Program("tensorflow/serving:latest", "sha256:12ab", rendered=False)


def test_the_engine_is_asked_once_and_for_a_short_time(put: Put, tmp_path: Path) -> None:
    put("docker", f"echo asked >> '{tmp_path}/asked'; exec /bin/sleep 60")
    began = time.monotonic()
    for _ in range(3):
        told = TENSORFLOW_SERVING.unavailable()
        assert told is not None
        assert told.endswith("does not say which images it has: no answer within 2 s")
        assert TENSORFLOW_SERVING.program() is None
    assert time.monotonic() - began < 5
    assert (tmp_path / "asked").read_text() == "asked\n"
    (note,) = TENSORFLOW_SERVING.notes()
    assert "no answer within 2 s" in note


def test_a_program_that_listens_on_all_interfaces_is_told_and_a_container_is_not(put: Put) -> None:
    put("docker", "echo 'tensorflow/serving:2.20.0 sha256:12ab'")
    assert TENSORFLOW_SERVING.notes() == ()
    put("tensorflow_model_server", "exit 1")
    (note,) = TENSORFLOW_SERVING.notes()
    assert "listens on all interfaces, past the gateway" in note


_DOCKER = """
[ "$1 $2" = "image ls" ] && echo tensorflow/serving:2.20.0 && exit
for argument; do
  case $argument in --cidfile=*) file=${argument#--cidfile=};; esac
done
[ -e "$file" ] && exit 125
echo an-id > "$file"
exit 3
"""


def test_a_container_that_ended_is_started_again_in_the_same_scratch_folder(
    put: Put, folder: Path, tmp_path: Path
) -> None:
    put("docker", _DOCKER)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    launch = TENSORFLOW_SERVING.launch(folder, port=18501, scratch=scratch, threads=1)
    env = {**os.environ, **launch.env, "PYTHONPATH": str(Path(__file__).parents[2])}
    codes = [subprocess.run(launch.argv, cwd=launch.cwd, env=env, timeout=60, check=False).returncode for _ in range(2)]
    assert codes == [3, 3], "the server's own, and not 125 of a docker that finds the file of the container before"


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


def test_a_container_may_write_nothing_and_is_reached_on_loopback_alone(folder: Path) -> None:
    argv = container_command("tensorflow/serving:2.20.0", folder, 18501, 3)
    options = argv[: argv.index("tensorflow/serving:2.20.0")]
    assert options[:2] == ["docker", "run"]
    assert {"--pull=never", "--read-only", "--init", "--rm", "--cap-drop=ALL"} <= set(options)
    assert {"--publish=127.0.0.1:18501:8501", f"--memory={2**31}", f"--memory-swap={2**31}"} <= set(options)
    (user,) = (option.removeprefix("--user=") for option in options if option.startswith("--user="))
    assert user == (f"{os.getuid()}:{os.getgid()}" if os.getuid() else "65532:65532")
    (mount,) = (option.removeprefix("--mount=") for option in options if option.startswith("--mount="))
    assert next(csv.reader([mount])) == ["type=bind", f"source={folder}", "target=/opt/mlo/serving", "readonly"]
    given = (folder / "flags.txt").read_text().splitlines()
    assert argv[-len(given) - 2 :] == [
        *given, "--tensorflow_intra_op_parallelism=3", "--tensorflow_inter_op_parallelism=3",
    ]  # fmt: skip
