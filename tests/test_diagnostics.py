"""A diagnostic is the same after a trip through JSON, and anything else is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.diagnostics import Diagnostic, Span
from orchestrator.steps.context import StepError

SPAN = Span("spec.yaml", 3, 4, 3, 5, "a: b")
FULL = Diagnostic("E410", "no", SPAN, "label", "cause", "remedy", ("log: x",), "warning", ("model", "inputs", 0))


@pytest.mark.parametrize("diagnostic", [FULL, Diagnostic("E401", "it fails")])
def test_a_diagnostic_is_read_as_it_was_written(diagnostic: Diagnostic) -> None:
    assert Diagnostic.from_json(json.loads(json.dumps(diagnostic.as_json()))) == diagnostic


@pytest.mark.parametrize(
    "change",
    [
        {"more": 1},
        {"code": 7},
        {"severity": "fatal"},
        {"notes": "log: x"},
        {"notes": [1]},
        {"at": [1.5]},
        {"at": [True]},
        {"span": {"file": "spec.yaml"}},
        {"span": {**FULL.as_json()["span"], "line": "3"}},
    ],
)
def test_anything_else_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Diagnostic.from_json({**FULL.as_json(), **change})


@pytest.mark.parametrize("document", [None, [], "E401", {}, {"code": "E401"}])
def test_a_value_that_is_not_a_diagnostic_is_refused(document: object) -> None:
    with pytest.raises(ValueError, match="a diagnostic has the members"):
        Diagnostic.from_json(document)


def test_a_refusal_carries_its_diagnostic() -> None:
    refusal = StepError("E410", "no", cause="cause", at=("model",), notes=("log: x",))
    assert refusal.diagnostic == Diagnostic("E410", "no", cause="cause", at=("model",), notes=("log: x",))
    assert (refusal.code, refusal.cause, refusal.at) == ("E410", "cause", ("model",))
