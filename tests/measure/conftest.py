"""Shared by the tests of the benchmarks: samples, a signature, candidates that sleep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.machine.cpus import cpu_share
from orchestrator.measure.runtime_candidates import RuntimeCandidate
from orchestrator.measure.sweep import SweepSettings
from orchestrator.spec.signature import Signature, Tensor

SIGNATURE = Signature(
    inputs=(Tensor("x", "float32", ("batch", 4)),),
    outputs=(Tensor("y", "float32", ("batch", 1)),),
    dims={"batch": (1, 64)},
    batch="batch",
)


@pytest.fixture
def signature() -> Signature:
    return SIGNATURE


@pytest.fixture(autouse=True)
def _stand_ins_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.arange(12, dtype=np.float32).reshape(3, 4))
    return path


@pytest.fixture
def settings(samples: Path) -> Callable[..., SweepSettings]:
    def make(**changes: Any) -> SweepSettings:
        values = {
            "batch_sizes": (1, 4),
            "batched": True,
            "share": cpu_share(1),
            "memory": 2**30,
            "samples": samples,
            "time_budget": 60.0,
            "measuring": 0.4,
            "rounds": 6,
            "screening": 2,
            "warming": 0.2,
        }
        return SweepSettings(**{**values, **changes})

    return make


@pytest.fixture
def sleeper() -> Callable[..., RuntimeCandidate]:
    def make(name: str, backend: str = "onnxruntime", **behaviour: Any) -> RuntimeCandidate:
        arguments = {"behaviour": {"name": name, **behaviour}, "signature": SIGNATURE.as_json()}
        return RuntimeCandidate(name, backend, "fake_runtime:open_sleeping", arguments)

    return make
