"""Operators: an ONNX file answers as TensorFlow and LiteRT do, refuses what they refuse, or is not made and says why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.frameworks.tensorflow.operators import ANSWERED, IN_LITERT, REFUSED, REFUSED_INPUTS

pytestmark = pytest.mark.frameworks

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What `run_operators.py` finds, by the operators' names."""
    results = tmp_path_factory.mktemp("operators") / "results.json"
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "tests.frameworks.tensorflow.run_operators", results],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    read: dict[str, str] = json.loads(results.read_text(encoding="utf-8"))
    return read


@pytest.mark.parametrize("name", ANSWERED)
def test_an_operator_answers_in_onnx_as_in_tensorflow(found: dict[str, str], name: str) -> None:
    assert found[name] == "equal"


@pytest.mark.parametrize("name", IN_LITERT)
def test_an_operator_answers_in_onnx_as_in_litert(found: dict[str, str], name: str) -> None:
    assert found[f"LiteRT: {name}"] == "equal"


@pytest.mark.parametrize("name", REFUSED_INPUTS)
def test_inputs_that_tensorflow_refuses_are_refused_by_the_onnx_file(found: dict[str, str], name: str) -> None:
    assert found[name] == "both refuse"


@pytest.mark.parametrize("name", REFUSED)
def test_an_operator_without_a_counterpart_is_refused_by_name(found: dict[str, str], name: str) -> None:
    assert found[name].startswith("E422: ")
    assert REFUSED[name][1] in found[name]
