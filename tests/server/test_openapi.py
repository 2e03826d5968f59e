"""The published OpenAPI document is correct: schemathesis sends the requests that it describes, and many others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from onnx import helper

from tests.server.conftest import EVERY_TYPE, Running, Start, add_model, signature, write_server

pytestmark = pytest.mark.frameworks


def explore(server: Running, folder: Path, *options: str) -> None:
    """Every operation of the document, with examples at the limits and random ones."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{server.port}/openapi.json"]
    command += ["--no-color", "--seed", "1", "-n", "20", "--phases", "coverage,fuzzing", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.process.poll() is None
    assert not [line for line in server.log if line["level"] == "error"]


def test_every_request_that_fits_the_document_is_answered_as_it_says(tmp_path: Path, start: Start) -> None:
    # Fixed sizes: a schema cannot say that there are as many elements as the shape holds if the shape varies.
    sig = signature(
        {f"in_{dtype}": (dtype, [1, 2]) for dtype in EVERY_TYPE},
        {f"out_{dtype}": (dtype, [1, 2]) for dtype in EVERY_TYPE},
        {},
        batch=None,
    )
    nodes = [helper.make_node("Identity", [f"in_{dtype}"], [f"out_{dtype}"]) for dtype in EVERY_TYPE]
    explore(start(write_server(tmp_path, nodes, sig)), tmp_path, "--checks", "all")


def test_a_model_of_many_sizes_answers_as_its_document_says(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path))
    explore(server, tmp_path, "--checks", "all", "--exclude-checks", "positive_data_acceptance")


def test_without_the_token_the_document_promises_401(tmp_path: Path, start: Start) -> None:
    (tmp_path / "token").write_text("a-token-of-some-length\n")
    server = start(add_model(tmp_path, token_file="token"))
    header = "Authorization: Bearer a-token-of-some-length"
    explore(server, tmp_path, "--checks", "all", "--exclude-checks", "positive_data_acceptance", "-H", header)
