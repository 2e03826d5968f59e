"""Conformance, as KServe's inference clients see it, over HTTP and gRPC.

kserve pins packages that the project needs newer, so it lives in an environment of its own: the one that
benchmarks/server/run.py makes for its peers.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.conftest import Start, add_model

PEERS = Path(__file__).parents[2] / "benchmarks" / "server" / ".peers" / "bin" / "python"

pytestmark = pytest.mark.frameworks


def interpreter() -> str:
    """A Python that has kserve."""
    if importlib.util.find_spec("kserve") is not None:
        return sys.executable
    if PEERS.exists():
        return str(PEERS)
    pytest.skip("kserve is not there; python benchmarks/server/run.py --install-peers brings it")


def test_kserves_clients_find_the_server_and_get_their_answers(tmp_path: Path, start: Start) -> None:
    python = interpreter()
    server = start(add_model(tmp_path, grpc_port=0))
    ports = [str(server.port), str(server.wait_for_log("live")["grpc_port"])]
    script = Path(__file__).with_name("kserve_calls.py")
    done = subprocess.run([python, str(script), *ports], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    answer = {"id": "k", "model": "m", "z": [[11, 22, 33]]}
    health = {"live": True, "ready": True, "model ready": True}
    assert "404 Not Found" in found["rest"].pop("unknown model")
    assert found["rest"] == {**health, "json": answer, "binary": answer}
    assert found["grpc"] == {**health, "typed": answer, "raw": answer}
