"""PyTorch and TensorFlow never share a process, and libraries that only check for the other still work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.engine.executors.job import WorkerJob, WorkerResult
from tests.frameworks.step_process import ROOT

pytestmark = pytest.mark.frameworks

STEPS = """
import importlib.util

def torch_then_tensorflow(context):
    import torch
    import tensorflow

def tensorflow_then_torch(context):
    import tensorflow
    import torch

def torch_beside_a_question(context):
    import torch
    import transformers
    spec = importlib.util.find_spec("tensorflow")
    try:
        from tensorflow import keras
    except ImportError as error:
        told = str(error)
    return {"found": spec is not None and spec.origin is not None, "told": told, "sum": float(torch.ones(2).sum())}

def open_both(directory, signature, threads):
    import torch
    from orchestrator.frameworks.tensorflow.runtime import open_saved_model
    return open_saved_model(directory, signature, threads)
"""


@pytest.fixture
def steps(tmp_path: Path) -> dict[str, str]:
    """An environment in which the module `steps_of_both` can be imported."""
    (tmp_path / "steps_of_both.py").write_text(STEPS)
    return {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


def _in_a_worker(function: str, folder: Path, environment: dict[str, str]) -> WorkerResult:
    for name in ("output", "scratch"):
        (folder / name).mkdir()
    job = WorkerJob(
        format=1,
        step="both",
        function=f"steps_of_both:{function}",
        params={},
        inputs={},
        output=str(folder / "output"),
        scratch=str(folder / "scratch"),
        project=str(folder / "output"),
        import_roots=None,
        variables=(),
        result=str(folder / "result.json"),
        network=False,
        containers=False,
        accelerator="none",
    )
    job.write(folder / "job.json")
    command = [sys.executable, "-P", "-m", "orchestrator.engine.worker", str(folder / "job.json")]
    subprocess.run(command, env=environment, capture_output=True, timeout=120, check=False)
    result = WorkerResult.read(folder / "result.json")
    assert result is not None
    return result


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("torch_then_tensorflow", "TensorFlow cannot be imported in this process, since PyTorch is"),
        ("tensorflow_then_torch", "PyTorch cannot be imported in this process, since TensorFlow is"),
    ],
)
def test_a_step_that_imports_both_fails(tmp_path: Path, steps: dict[str, str], function: str, words: str) -> None:
    error = _in_a_worker(function, tmp_path, steps).error
    assert error is not None
    assert error.message == f"ImportError: {words}: mlo keeps them apart"


def test_asking_for_the_other_is_harmless(tmp_path: Path, steps: dict[str, str]) -> None:
    result = _in_a_worker("torch_beside_a_question", tmp_path, steps)
    assert result.error is None
    assert result.summary["found"] is True
    assert result.summary["sum"] == 2.0
    assert "mlo keeps them apart" in result.summary["told"]


def test_a_measured_process_has_one_of_them(tmp_path: Path, steps: dict[str, str]) -> None:
    np.savez(tmp_path / "samples.npz", x=np.ones((1, 4), np.float32))
    tensors = [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}]
    signature = {"inputs": tensors, "outputs": tensors, "dims": {"batch": [1, 4]}, "batch": "batch"}
    command: dict[str, Any] = {
        "do": "open",
        "instances": 1,
        "opener": "steps_of_both:open_both",
        "arguments": {"directory": str(tmp_path), "signature": signature, "threads": 1},
        "samples": str(tmp_path / "samples.npz"),
        "batched": True,
    }
    commands, replies = os.pipe(), os.pipe()
    os.write(commands[1], json.dumps(command).encode() + b"\n")
    os.close(commands[1])
    subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "orchestrator.frameworks.source.measure_session",
            str(commands[0]),
            str(replies[1]),
        ],
        env=steps,
        pass_fds=(commands[0], replies[1]),
        capture_output=True,
        timeout=120,
        check=True,
    )
    os.close(commands[0])
    os.close(replies[1])
    with os.fdopen(replies[0], encoding="utf-8") as lines:
        reply = json.loads(lines.readline())
    assert "mlo keeps them apart" in reply["error"]["diagnostic"]["message"]
