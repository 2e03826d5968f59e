"""The Dockerfile as linters and engines see it."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

Render = Callable[..., Path]

each = pytest.mark.parametrize("backend", ["onnxruntime", "torchserve", "tensorflow-serving"])


@pytest.fixture
def answering() -> Iterator[Callable[[int], int]]:
    """`answering(404)`: the port of a server that answers this status to the path that says whether the model is ready."""
    servers: list[HTTPServer] = []

    def start(status: int) -> int:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status if self.path == "/v1/models/digits/labels/stable/metadata" else 500)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server.server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.processes
@each
@pytest.mark.parametrize("build", [{}, {"wheels": True}, {"ca_bundle": True}], ids=["index", "wheels", "ca_bundle"])
def test_hadolint_passes(render_to: Render, run_tool: Callable[..., str], backend: str, build: dict[str, bool]) -> None:
    dockerfile = render_to(backend, **build) / "docker" / "Dockerfile"
    assert "hadolint ignore" not in dockerfile.read_text()
    assert run_tool("hadolint", "--failure-threshold", "style", "--no-color", str(dockerfile)) == ""


@each
def test_it_runs_unprivileged_under_an_init_and_without_a_shell(render_to: Render, backend: str) -> None:
    text = (render_to(backend) / "docker" / "Dockerfile").read_text()
    final = text.rpartition("\nFROM ")[2]
    assert "\nUSER 65532:65532\n" in final
    assert "\nSTOPSIGNAL SIGTERM\n" in final
    entrypoint = re.search(r"^ENTRYPOINT (.*)$", final.replace("\\\n", ""), re.MULTILINE)
    assert entrypoint is not None
    assert json.loads(entrypoint[1])[0] == "/usr/bin/tini"
    for line in re.findall(r"^(?:ENTRYPOINT|CMD|\s+CMD) (.*)$", final, re.MULTILINE):
        assert line.startswith("["), "shell form"


@each
def test_commands_of_the_build_run_as_root_whatever_the_user_of_the_base(render_to: Render, backend: str) -> None:
    for stage in (render_to(backend) / "docker" / "Dockerfile").read_text().split("\nFROM ")[1:]:
        user = stage.index("\nUSER 0:0\n")
        assert user < min(
            (stage.index(f"\n{word} ") for word in ("RUN", "COPY") if f"\n{word} " in stage), default=user + 1
        )


@each
def test_no_value_of_the_spec_is_in_a_command_of_the_build(render_to: Render, backend: str) -> None:
    text = (render_to(backend) / "docker" / "Dockerfile").read_text()
    for line in re.findall(r"^RUN (?:.*\\\n)*.*$", text, re.MULTILINE):
        assert "digits" not in line
        assert "example.com" not in line


@each
def test_dockerignore_includes_exactly_what_is_copied(render_to: Render, backend: str) -> None:
    folder = render_to(backend)
    copied = set(re.findall(r"^COPY (?!--from)(\S+)", (folder / "docker" / "Dockerfile").read_text(), re.MULTILINE))
    ignore = (folder / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert all((folder / name).exists() for name in copied)


@pytest.mark.parametrize("backend", ["onnxruntime", "torchserve"])
def test_authorities_that_pip_trusts_are_only_in_the_stage_that_installs(render_to: Render, backend: str) -> None:
    folder = render_to(backend, ca_bundle=True)
    build, _, final = (folder / "docker" / "Dockerfile").read_text().rpartition("\nFROM ")
    copied, installed = build.index("\nCOPY ca-bundle.crt /opt/ca-bundle.crt\n"), build.index("/opt/pip/bin/pip")
    assert copied < build.index("PIP_CERT=/opt/ca-bundle.crt") < installed
    assert "ca-bundle" not in final
    assert "/opt/ca-bundle" not in "".join(re.findall(r"^COPY --from=build .*$", final, re.MULTILINE))
    assert "\n!ca-bundle.crt\n" in (folder / ".dockerignore").read_text()
    assert "ca-bundle.crt" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("backend", "build"), [("onnxruntime", {"wheels": True}), ("tensorflow-serving", {}), ("onnxruntime", None)]
)
def test_a_build_that_asks_no_index_over_tls_of_its_own_has_no_authorities(
    render_to: Render, backend: str, build: dict[str, bool] | None
) -> None:
    folder = render_to(backend, **({} if build is None else {"ca_bundle": True, **build}))
    for name in ("docker/Dockerfile", ".dockerignore", "README.md"):
        assert "ca-bundle" not in (folder / name).read_text()


def test_no_registry_is_named_that_the_spec_does_not_name(render_to: Render) -> None:
    text = (render_to("onnxruntime", registry=None) / "docker" / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["python:3.11-slim-bookworm"] * 2
    assert "://" not in text


def test_tensorflow_serving_is_started_itself_with_the_flags_of_its_folder(render_to: Render) -> None:
    folder = render_to("tensorflow-serving")
    text = (folder / "docker" / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["tensorflow/serving:2.20.0"] * 2
    (entrypoint,) = re.findall(r"^ENTRYPOINT (.*)$", text.replace("\\\n", ""), re.MULTILINE)
    flags = (folder / "serving" / "flags.txt").read_text().splitlines()
    assert json.loads(entrypoint) == ["/usr/bin/tini", "--", "/usr/bin/tensorflow_model_server", *flags]
    assert "--rest_api_port=8501" in flags
    assert "\nEXPOSE 8501\n" in text


@pytest.mark.processes
def test_the_health_check_of_tensorflow_serving_asks_with_bash_alone(
    render_to: Render, answering: Callable[[int], int]
) -> None:
    text = (render_to("tensorflow-serving") / "docker" / "Dockerfile").read_text()
    (command,) = re.findall(r"HEALTHCHECK .*\n\s+CMD (.*)$", text, re.MULTILINE)
    argv = json.loads(command)
    for status in (200, 404):
        port = answering(status)
        local = [part.replace("/8501", f"/{port}") for part in argv]
        done = subprocess.run(local, capture_output=True, timeout=30, check=False)
        assert (done.returncode == 0) == (status == 200), done.stderr
    nobody = [part.replace("127.0.0.1/8501", "127.0.0.1/1") for part in argv]
    assert subprocess.run(nobody, capture_output=True, timeout=30, check=False).returncode != 0
