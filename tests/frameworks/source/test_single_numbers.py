"""An input that is a single number stays an array without dimensions wherever samples are taken apart."""

from __future__ import annotations

import numpy as np

from orchestrator.frameworks.source.calibration import CalibrationRows
from orchestrator.frameworks.source.edge_cases import call_at, edge_cases
from orchestrator.frameworks.source.samples import random_samples
from orchestrator.spec.signature import Allowed, Signature, Tensor

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


def test_calls_for_calibration() -> None:
    samples = random_samples(SIGNATURE, 0)
    rows = CalibrationRows(2, 2, "random", (), SIGNATURE, samples.inputs, np.arange(2))
    assert {(type(call["rate"]), call["rate"].shape) for call in rows.calls()} == {(np.ndarray, ())}
