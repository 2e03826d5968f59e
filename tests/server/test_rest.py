"""The Open Inference Protocol v2 over HTTP with JSON tensors, against the real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.conftest import Start, add_model

pytestmark = pytest.mark.frameworks


def test_a_request_is_answered(tmp_path: Path, start: Start) -> None:
    server = start(add_model(tmp_path))
    x = {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}
    y = {"name": "y", "datatype": "FP32", "shape": [1, 3], "data": [[0.5, 0.5, 0.5]]}
    answer = server.infer({"id": "a", "inputs": [x, y]})
    assert answer.json == {
        "id": "a",
        "model_name": "m",
        "model_version": "1",
        "outputs": [{"name": "z", "datatype": "FP32", "shape": [1, 3], "data": [1.5, 2.5, 3.5]}],
    }
    assert server.stop() == 0
