"""The Dockerfile as linters and engines see it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

Render = Callable[..., Path]

both = pytest.mark.parametrize("backend", ["onnxruntime", "torchserve"])


@both
def test_hadolint_has_nothing_to_say(render_to: Render, run_tool: Callable[..., str], backend: str) -> None:
    dockerfile = render_to(backend) / "docker" / "Dockerfile"
    assert "hadolint ignore" not in dockerfile.read_text()
    assert run_tool("hadolint", "--failure-threshold", "style", "--no-color", str(dockerfile)) == ""


@both
def test_it_runs_as_nobody_under_an_init_and_without_a_shell(render_to: Render, backend: str) -> None:
    text = (render_to(backend) / "docker" / "Dockerfile").read_text()
    final = text.rpartition("\nFROM ")[2]
    assert "\nUSER 65532:65532\n" in final
    assert "\nSTOPSIGNAL SIGTERM\n" in final
    entrypoint = re.search(r"^ENTRYPOINT (.*)$", final, re.MULTILINE)
    assert entrypoint is not None
    assert json.loads(entrypoint[1])[0] == "/usr/bin/tini"
    for line in re.findall(r"^(?:ENTRYPOINT|CMD|\s+CMD) (.*)$", final, re.MULTILINE):
        assert line.startswith("["), "shell form"


@both
def test_no_value_of_the_spec_stands_in_a_command_of_the_build(render_to: Render, backend: str) -> None:
    text = (render_to(backend) / "docker" / "Dockerfile").read_text()
    for line in re.findall(r"^RUN (?:.*\\\n)*.*$", text, re.MULTILINE):
        assert "digits" not in line
        assert "example.com" not in line


@both
def test_everything_that_is_copied_is_let_through_and_nothing_else(render_to: Render, backend: str) -> None:
    docker = render_to(backend) / "docker"
    copied = set(re.findall(r"^COPY (?!--from)(\S+)", (docker / "Dockerfile").read_text(), re.MULTILINE))
    ignore = (docker / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert all((docker / name).exists() for name in copied)


def test_no_registry_is_named_that_the_spec_does_not_name(render_to: Render) -> None:
    text = (render_to("onnxruntime", registry=None) / "docker" / "Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["python:3.11-slim-bookworm"] * 2
    assert "://" not in text
