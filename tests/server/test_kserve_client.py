"""Conformance, as KServe's inference clients see it, over HTTP and gRPC.

kserve pins packages that the project needs newer, so it lives in an environment of its own: the one that
benchmarks/server/run.py makes for its peers, which this test makes too where it is missing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.conftest import Start, add_model

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "server"
PYTHON = BENCHMARK / ".peers" / "bin" / "python"

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)


@pytest.fixture(scope="module")
def python() -> str:
    """A Python that has kserve."""
    if not PYTHON.exists() or run(str(PYTHON), "-c", "import kserve").returncode:
        made = run(sys.executable, str(BENCHMARK / "run.py"), "--install-peers")
        if made.returncode:
            why = [line for line in made.stderr.splitlines() if line.startswith("ERROR")] or made.stderr.splitlines()
            pytest.skip(f"kserve cannot be installed here: {why[-1] if why else made.returncode}")
    return str(PYTHON)


def test_kserves_clients_find_the_server_and_get_their_answers(python: str, tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path, grpc_port=0))
    ports = [str(server.port), str(server.wait_for_log("live")["grpc_port"])]
    done = run(python, str(Path(__file__).with_name("kserve_calls.py")), *ports)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    answer = {"id": "k", "model": "m", "z": [[11, 22, 33]]}
    health = {"live": True, "ready": True, "model ready": True}
    assert "404 Not Found" in found["rest"].pop("unknown model")
    assert found["rest"] == {**health, "json": answer, "binary": answer}
    assert found["grpc"] == {**health, "typed": answer, "raw": answer}
