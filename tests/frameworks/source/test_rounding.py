"""Rows that differ with their batch: the chaos of arithmetic is told from mixing, without a framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from orchestrator.frameworks.source.comparison import row_mixing_output
from orchestrator.frameworks.source.samples import Array, random_samples
from orchestrator.spec.signature import Allowed, Signature, Tensor

Model = Callable[[Array], Array]


def _found(model: Model, dtype: str = "float32", allowed: Allowed | None = None) -> tuple[str | None, list[str]]:
    """The output that mixes rows, and the notes, of a model of rows of 64."""
    signature = Signature(
        (Tensor("x", dtype, ("batch", 64), allowed),),
        (Tensor("y", "float32", ("batch",)),),
        {"batch": (1, 16)},
        "batch",
    )
    notes: list[str] = []

    def answer(inputs: Mapping[str, Any], dim: str | None = None) -> dict[str, Array]:
        assert dim in (None, "batch")
        return {"y": model(inputs["x"])}

    mixed = row_mixing_output(answer, signature, random_samples(signature, 0), notes)
    return None if mixed is None else mixed.output, notes


def _sum(x: Array) -> Array:
    """The mean of a row between 0 and 1; it is added backwards in a batch of one row, as another kernel would."""
    terms = (1 / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32)
    total = np.zeros(len(x), np.float32)
    for column in range(64) if len(x) > 1 else range(63, -1, -1):
        total = (total + terms[:, column]).astype(np.float32)
    return total / np.float32(64)


def _chaos(x: Array, steps: int = 40) -> Array:
    """Steps of the logistic map: each doubles an error, or nearly."""
    x = x.astype(np.float32)
    for _ in range(steps):
        x = np.float32(3.9) * x * (1 - x)
    return x


def test_chaos_of_the_arithmetic_passes_with_a_note() -> None:
    mixing, notes = _found(lambda x: _chaos(_sum(x)))
    assert mixing is None
    (note,) = notes
    assert "a row's `y` differs a little with the size of its batch" in note


def test_a_steady_model_has_no_note() -> None:
    assert _found(_sum) == (None, [])


MIXED: dict[str, Model] = {
    "mean": lambda x: x - x.mean(0),
    "deviation": lambda x: x / (1e-3 + x.std(0)),
    "sum": lambda x: x + 1e-4 * x.sum(0),
    "maximum": lambda x: x + np.float32(1e-3) * x.max(0),
    "size": lambda x: x * np.float32(1 + 1e-2 / len(x)),
}


@pytest.mark.parametrize(
    ("mixed", "steps"),
    # What depends on the number of rows alone is not told from chaos where one rounding moves a row as far as anything does.
    [(mixed, steps) for mixed in MIXED for steps in (0, 3, 40) if (mixed, steps) != ("size", 40)],
)
def test_rows_that_mix_are_found_in_chaos_too(mixed: str, steps: int) -> None:
    mixing, _ = _found(lambda x: _chaos(0.5 * MIXED[mixed](_sum(x)) % 1, steps))
    assert mixing == "y"


@pytest.mark.parametrize(("steps", "mixing"), [(14, None), (40, "y")])
def test_ids_cannot_be_perturbed_and_may_move_by_two_per_cent(steps: int, mixing: str | None) -> None:
    assert _found(lambda x: _chaos(_sum(x / 100), steps), "int64", Allowed(range=(0, 256)))[0] == mixing


def test_ids_that_mix_are_refused_however_little() -> None:
    mixing, _ = _found(lambda x: _sum(x / 100) + np.float32(1e-3) * (x / 256).mean(), "int64", Allowed(range=(0, 256)))
    assert mixing == "y"


def test_perturbed_inputs_stay_within_what_is_allowed() -> None:
    def model(x: Array) -> Array:
        assert x.min() >= 0
        assert x.max() <= 1
        return _chaos(_sum(x))

    assert _found(model, allowed=Allowed(range=(0, 1)))[0] is None


@pytest.mark.parametrize(
    "read",
    [lambda x: x.cumsum(0), lambda x: x[::-1].cumsum(0)[::-1], lambda x: np.concatenate([x[:1], x[1:] - x[:-1]])],
    ids=["forwards", "backwards", "differences"],
)
def test_a_sequence_along_the_first_dimension_is_found_in_both_directions(read: Model) -> None:
    mixing, _ = _found(lambda x: read(_sum(x)))
    assert mixing == "y"
