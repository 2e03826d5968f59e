"""The check of a conversion: what it blames is what differs, a size or a value."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from orchestrator.frameworks.source.comparison import check_sizes, row_mixing_output, with_second_row
from orchestrator.frameworks.source.padding import Padding
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


_TEXTS = Signature(
    (Tensor("ids", "int64", ("batch", "length")), Tensor("mask", "int64", ("batch", "length"))),
    (Tensor("tags", "float32", ("batch", "length", 2)),),
    {"batch": (1, 8), "length": (1, 16)},
    "batch",
)


def _tags(inputs: Mapping[str, Array]) -> dict[str, Array]:
    return {"tags": np.stack([inputs["ids"], inputs["ids"] ** 2], axis=-1).astype(np.float32)}


def _texts(*, masked: bool = True) -> Samples:
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    return Samples(
        {"ids": np.arange(1, 13).reshape(3, 4) * mask, "mask": mask if masked else mask + 1}, None, real=True
    )


@pytest.mark.parametrize(
    ("masked", "marked"), [(True, "where `mask` is 0"), (False, "where `ids` is 0")], ids=["by a mask", "by ids"]
)
def test_padded_positions_are_blamed_on_what_marks_them(masked: bool, marked: str) -> None:
    samples = _texts(masked=masked)

    def other_padding(inputs: Mapping[str, Array]) -> dict[str, Array]:
        padded = inputs["mask"] == 0 if masked else inputs["ids"] == 0
        return {"tags": np.where(padded[..., None], np.float32(7), _tags(inputs)["tags"])}

    with pytest.raises(StepError) as caught:
        check_sizes(_TEXTS, samples, _tags, other_padding)
    error = caught.value
    assert "at padded positions only" in error.message
    assert marked in error.cause
    assert f"set `tags` to a constant {marked}" in error.remedy
    assert error.at == ()


def test_a_difference_elsewhere_too_is_not_blamed_on_padding() -> None:
    with pytest.raises(StepError) as caught:
        check_sizes(_TEXTS, _texts(), _tags, lambda inputs: {"tags": _tags(inputs)["tags"] + 7})
    assert "padded" not in caught.value.message


def test_a_row_that_others_change_at_padded_positions_only_names_them() -> None:
    def answer(inputs: Mapping[str, Array], dim: str | None = None) -> dict[str, Array]:
        assert dim in (None, "batch")
        padded = inputs["mask"][..., None] == 0
        return {"tags": np.where(padded, np.float32(inputs["ids"].sum()), _tags(inputs)["tags"])}

    mixed = row_mixing_output(answer, _TEXTS, _texts(), [])
    assert mixed is not None
    assert (mixed.output, mixed.padding) == ("tags", Padding("mask", 0))
    assert "constant where `mask` is 0" in mixed.remedy("another")
