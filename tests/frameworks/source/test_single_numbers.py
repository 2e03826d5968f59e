"""An input that is a single number stays an array without dimensions wherever samples are taken apart."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from orchestrator.artifacts.runtime_facts import RuntimeFacts
from orchestrator.frameworks.source.calibration import CalibrationRows
from orchestrator.frameworks.source.edge_cases import call_at, edge_cases
from orchestrator.frameworks.source.measure_session import MeasuredRuntime
from orchestrator.frameworks.source.samples import random_samples, read_samples
from orchestrator.spec.signature import Allowed, Signature, Tensor
from orchestrator.steps.context import StepError

SIGNATURE = Signature(
    (Tensor("sound", "float32", ("samples",)), Tensor("rate", "int64", (), Allowed(None, (8000, 16000)))),
    (),
    {"samples": (1, 8)},
    None,
)


def test_calls_at_every_size() -> None:
    samples = random_samples(SIGNATURE, 0)
    calls = [call_at(samples, SIGNATURE, {"samples": 4}), *(case.inputs for case in edge_cases(samples, SIGNATURE))]
    assert {(type(call["rate"]), call["rate"].shape) for call in calls} == {(np.ndarray, ())}


def test_calls_that_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "samples.npz", allow_pickle=False, **random_samples(SIGNATURE, 0).inputs)
    seen: list[np.ndarray] = []
    runtime = SimpleNamespace(run=lambda inputs: seen.append(inputs["rate"]), facts=lambda: RuntimeFacts("none", {}, 1))
    monkeypatch.setitem(sys.modules, "a_runtime", SimpleNamespace(opened=lambda signature: runtime))
    measured = MeasuredRuntime()
    arguments = {"signature": SIGNATURE.as_json()}
    samples = str(tmp_path / "samples.npz")
    measured.open(
        {"opener": "a_runtime:opened", "arguments": arguments, "samples": samples, "batched": False, "instances": 1}
    )

    measured.run({"rows": 1, "calls": 2, "seconds": 1.0, "untimed": 1})

    assert [(type(rate), rate.shape) for rate in seen] == [(np.ndarray, ())] * 3


def test_a_single_number_for_all_samples_is_told_to_need_one_for_each(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", sound=np.zeros((20, 4), np.float32), rate=16000)

    with pytest.raises(StepError) as refused:
        read_samples(tmp_path / "samples.npz", SIGNATURE, 100)

    assert refused.value.message == "the samples' array `rate` has the shape [], but [requests] is expected"


def test_calls_for_calibration() -> None:
    samples = random_samples(SIGNATURE, 0)
    rows = CalibrationRows(2, 2, "random", (), SIGNATURE, samples.inputs, np.arange(2))
    assert {(type(call["rate"]), call["rate"].shape) for call in rows.calls()} == {(np.ndarray, ())}
