"""The check of a conversion: what it blames is what differs, a size or a value."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from orchestrator.frameworks.source.comparison import check_sizes, with_second_row
from orchestrator.frameworks.source.samples import Array, IntegerRange, Samples, random_samples
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepError

MINUTES = Signature(
    (Tensor("minutes", "int32", ("batch", 3)),),
    (Tensor("hour", "int32", ("batch", 3)),),
    {"batch": (1, 64)},
    "batch",
)
DRAWN = random_samples(MINUTES, 0, {"minutes": IntegerRange(-1000, 1000)})


def _hours(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {"hour": inputs["minutes"] // 60}


def _towards_zero(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {"hour": np.trunc(inputs["minutes"] / 60).astype(np.int32)}


def _wrong_from_minus_900(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {"hour": _hours(inputs)["hour"] + ((inputs["minutes"] > -900) & (inputs["minutes"] < 0))}


def _only_small_batches(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {"hour": inputs["minutes"] // 60 + (len(inputs["minutes"]) > 8)}


def _refused(converted: object, samples: Samples) -> StepError:
    with pytest.raises(StepError) as caught:
        check_sizes(MINUTES, samples, _hours, converted)  # type: ignore[arg-type]
    assert caught.value.code == "E423"
    return caught.value


def test_other_values_are_not_blamed_on_the_batch() -> None:
    signs = np.where(np.arange(32) > 4, -1, 1)[:, None]
    positive_first = Samples({"minutes": np.abs(DRAWN.inputs["minutes"]) * signs + 60}, None, real=False)
    error = _refused(_wrong_from_minus_900, positive_first)
    assert (error.message, error.at) == ("the converted model differs from its source for some values", ())
    assert "instead of -" in error.cause
    assert error.remedy.endswith("if real inputs never hold such values, give some in `samples:`")


def test_extreme_values_are_named() -> None:
    error = _refused(_towards_zero, DRAWN)
    assert (error.message, error.at) == (
        "the converted model differs from its source with smallest values, smallest batch",
        (),
    )
    assert error.cause == "output hour: 100.0% of the values differ, such as -16 instead of -17"


def test_other_values_of_real_samples_do_not_ask_for_samples() -> None:
    error = _refused(_towards_zero, Samples(DRAWN.inputs, None, real=True))
    assert error.remedy == "leave this format out of `optimize.formats`"


def test_a_size_is_blamed_where_a_row_alone_is_right() -> None:
    error = _refused(_only_small_batches, DRAWN)
    assert error.at == ("model", "dims", "batch")
    assert "read sizes from the tensor's shape" in error.remedy


def test_a_second_row_has_the_integers_of_the_first() -> None:
    alone = Samples({"minutes": np.array([[3, 9, 49]], np.int32)}, None, real=True)
    np.testing.assert_array_equal(with_second_row(alone, MINUTES).inputs["minutes"], [[3, 9, 49], [49, 9, 3]])


def _gate(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {"y": 1 / (1 + np.exp(-4 * inputs["x"]))}


def test_a_saturated_gate_may_be_off_by_roundings_of_what_it_usually_holds() -> None:
    def another_exponential(inputs: Mapping[str, Array]) -> dict[str, Array]:
        y = _gate(inputs)["y"]
        return {"y": np.where(y < 1e-5, y * np.float32(1.1), y)}

    gates = Signature((Tensor("x", "float32", (3,)),), (Tensor("y", "float32", (3,)),), {}, None)
    samples = random_samples(gates, 0)
    saturated = _gate({"x": np.full(3, -3, np.float32)})["y"]
    assert 1e-6 < saturated.max() < 1e-5
    assert "smallest values" in check_sizes(gates, samples, _gate, another_exponential)
    with pytest.raises(StepError, match="differs from its source"):
        check_sizes(gates, samples, _gate, lambda inputs: {"y": _gate(inputs)["y"] * 1.1})
