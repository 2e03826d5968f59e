"""A source model that is called with all samples: batch by batch, or one by one where its outputs have no rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from orchestrator.frameworks.source.answered import Answered, answered
from orchestrator.frameworks.source.samples import Samples
from orchestrator.spec.signature import Dim, Signature, Tensor
from orchestrator.steps.context import StepContext, StepError

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.frameworks.source.samples import Array

X = np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4)


def _answered(
    model: Callable[[Array], Array], low: int = 1, high: int = 8, shape: tuple[Dim, ...] | None = None,
    batch: str | None = "batch", x: Array = X,
) -> Answered:  # fmt: skip
    first: Dim = "batch" if batch else high
    signature = Signature(
        (Tensor("x", "float32", (first, 4) if batch or x.ndim == 3 else (4,)),),
        (Tensor("y", "", shape),),
        {"batch": (low, high)} if batch else {},
        batch,
    )

    def answer(inputs: Any, dim: str | None = None) -> dict[str, Array]:
        del dim
        return {"y": np.asarray(model(inputs["x"]))}

    nowhere = Path("nowhere")
    return answered(
        StepContext({}, {}, nowhere, nowhere, nowhere), answer, signature, Samples({"x": x}, None, real=True)
    )


def _positive_rows(x: Array) -> Array:
    return x[(x > 0).any(axis=-1)]


def test_rows_are_called_in_batches() -> None:
    found = _answered(lambda x: 2 * x)
    assert found.signature.batch == "batch"
    assert isinstance(found.outputs["y"], np.ndarray)
    np.testing.assert_array_equal(found.outputs["y"], 2 * X)
    assert (found.notes, found.one_by_one) == ((), "")


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        pytest.param(lambda x: x.sum(keepdims=True)[0], (1,), id="one entry for a whole batch"),
        pytest.param(lambda x: x.sum(), (), id="rank 0"),
        pytest.param(lambda x: x.T, (4, "batch"), id="the batch is another dimension"),
        pytest.param(lambda x: x[None], (1, "batch", 4), id="the batch is the second dimension"),
    ],
)
def test_outputs_without_rows_are_called_one_by_one(model: Callable[[Array], Array], shape: tuple[Dim, ...]) -> None:
    found = _answered(model)
    assert (found.signature.batch, found.signature.dims["batch"]) == (None, (1, 8))
    assert found.signature.outputs[0].shape == shape
    assert found.samples.inputs["x"].shape == (10, 1, 4)
    np.testing.assert_array_equal(found.outputs["y"], [model(row[None]) for row in X])
    assert "answered one by one" in found.notes[0]
    assert found.one_by_one.startswith("the rows of a batch cannot be told apart in `y`: its shape is ")
    assert "batch of 8" in {case.name for case, _ in found.edges}


def test_a_number_of_rows_that_depends_on_values_is_kept_call_by_call() -> None:
    found = _answered(_positive_rows)
    assert found.signature.batch is None
    answers = found.outputs["y"]
    assert isinstance(answers, tuple)
    assert [len(answer) for answer in answers] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    (output,) = found.signature.outputs
    assert output.shape == ("out0_0", 4)
    assert found.signature.dims["out0_0"] == (0, 1)
    assert "the shape of `y` depends on the values of the inputs" in found.notes[1]


def test_rows_whose_shape_depends_on_other_rows_are_called_one_by_one() -> None:
    def padded_to_the_longest(x: Array) -> Array:
        return x[:, : int((x > 0).sum(axis=1).max())]

    found = _answered(padded_to_the_longest)
    assert found.signature.batch is None
    assert [answer.shape for answer in found.outputs["y"]][::9] == [(1, 0), (1, 4)]


def test_fixed_shapes_may_have_outputs_that_depend_on_values() -> None:
    found = _answered(_positive_rows, high=3, batch=None, x=np.stack([X[:3], X[3:6], X[6:9]]))
    assert found.signature.outputs[0].shape == ("out0_0", 4)
    assert [len(answer) for answer in found.outputs["y"]] == [0, 1, 3]


def test_the_smallest_batch_is_one_call() -> None:
    found = _answered(lambda x: x.sum(keepdims=True)[0], low=3)
    assert found.samples.inputs["x"].shape == (3, 3, 4)


def test_a_declared_shape_is_checked_in_every_call() -> None:
    with pytest.raises(StepError) as caught:
        _answered(_positive_rows, shape=(1, 4))
    assert caught.value.code == "E326"
