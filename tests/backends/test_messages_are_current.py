"""The generated classes of TensorFlow Serving's messages are what their .proto says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

_ROOT = Path(__file__).parents[2]
_PROTO = "orchestrator/backends/tensorflow_serving/messages.proto"


def test_make_protos_would_change_nothing(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="the extra dev installs it")
    argv = [sys.executable, "-W", "ignore", "-m", "grpc_tools.protoc", "--proto_path=."]
    argv += [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", _PROTO]
    subprocess.run(argv, cwd=_ROOT, check=True, timeout=60)
    for suffix in ("_pb2.py", "_pb2.pyi"):
        name = _PROTO.replace(".proto", suffix)
        assert (tmp_path / name).read_text() == (_ROOT / name).read_text(), "run: make protos"
