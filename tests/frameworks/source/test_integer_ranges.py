"""Random integers: ids over their whole table, others over the useful range of their type, and only what the model takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from orchestrator.frameworks.source.ids import Lookup, Passes, shown_ids
from orchestrator.frameworks.source.integer_ranges import found_ranges
from orchestrator.frameworks.source.samples import Array, IntegerRange, random_samples
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepError

DIMS = {"batch": (1, 64)}


def _signature(*inputs: Tensor, batch: str | None = "batch") -> Signature:
    return Signature(inputs, (), DIMS if batch else {}, batch)


def _one(dtype: str, name: str = "n") -> Signature:
    return _signature(Tensor(name, dtype, ("batch", 3)))


def _found(
    signature: Signature, answer: Callable[[Array], Array], shown: Mapping[str, IntegerRange] | None = None
) -> tuple[IntegerRange, str]:
    name = signature.inputs[0].name
    ranges, notes = found_ranges(signature, shown or {}, lambda inputs: [answer(inputs[name])], 0)
    assert len(notes) == 1
    return ranges[name], notes[0]


def _refusing(holds: Callable[[Array], Array]) -> Callable[[Array], Array]:
    def answer(given: Array) -> Array:
        if not holds(given).all():
            raise StepError("E321", "the model does not accept the declared inputs", cause="index out of range")
        return given.astype(np.float32)

    return answer


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("int8", -128, 127),
        ("uint8", 0, 255),
        ("int16", -32768, 32767),
        ("int32", -1_000_000, 1_000_000),
        ("int64", -1_000_000, 1_000_000),
        ("uint64", 0, 1_000_000),
    ],
)
def test_integers_that_nobody_knows_come_from_the_useful_range_of_their_type(dtype: str, low: int, high: int) -> None:
    signature = _one(dtype)
    drawn, note = _found(signature, lambda given: given)
    assert drawn == IntegerRange(low, high)
    assert f"are drawn from {low:,} to {high:,}" in note
    values = random_samples(signature, 0, {"n": drawn}).inputs["n"]
    assert (values.dtype, values.min(), values.max()) == (np.dtype(dtype), low, high)
    assert len(np.unique(values)) > 40


def test_wide_integers_have_every_number_of_digits() -> None:
    values = random_samples(_one("int32"), 0, {"n": IntegerRange(-1_000_000, 1_000_000)}).inputs["n"]
    assert (values < 0).sum() > 20
    assert (values > 0).sum() > 20
    assert {0, 1, 2, 3, 4, 5} <= {len(str(abs(value))) - 1 for value in values.reshape(-1)}


def test_ids_come_from_their_whole_table_with_both_ends() -> None:
    signature = _one("int64")
    drawn, note = _found(signature, _refusing(lambda n: (n >= 0) & (n < 30_000)), {"n": IntegerRange(0, 29_999)})
    assert drawn == IntegerRange(0, 29_999)
    assert note == "samples: `n` holds ids, which are drawn from 0 to 29,999, all that the model has"
    values = random_samples(signature, 0, {"n": drawn}).inputs["n"]
    assert (values.min(), values.max()) == (0, 29_999)
    assert np.median(values) > 5_000


def test_an_input_called_a_mask_is_0_or_1() -> None:
    assert _found(_one("int32", "attention_mask"), lambda given: given)[0] == IntegerRange(0, 1)


@pytest.mark.parametrize(
    ("takes", "expected"),
    [
        (lambda n: (n >= 0) & (n < 50), IntegerRange(0, 49)),
        (lambda n: n >= 0, IntegerRange(0, 1_000_000)),
        (lambda n: (n >= -7) & (n <= 7), IntegerRange(-7, 7)),
        (lambda n: (n >= 0) & (n < 70_001), IntegerRange(0, 70_000)),
        (lambda n: (n == 0) | (n == 1), IntegerRange(0, 1)),
    ],
)
def test_what_the_model_refuses_is_not_drawn(takes: Callable[[Array], Array], expected: IntegerRange) -> None:
    drawn, note = _found(_one("int32"), _refusing(takes))
    assert drawn == expected
    assert "the model does not take others: index out of range" in note


def test_what_the_model_answers_with_nan_is_not_drawn() -> None:
    drawn, note = _found(_one("int32"), lambda n: np.where(n > 300, np.nan, n.astype(np.float64)))
    assert drawn == IntegerRange(-1_000_000, 300)
    assert note.endswith("it answers NaN")


def test_places_in_another_input_exist_at_its_smallest_size_too() -> None:
    words, which = Tensor("words", "float32", ("n",)), Tensor("which", "int64", ("m",))
    signature = Signature((words, which), (), {"n": (2, 8), "m": (1, 4)}, None)

    def tried(inputs: Mapping[str, Array]) -> list[Array]:
        size = len(inputs["words"])
        return [inputs["words"][_refusing(lambda n: (n >= 0) & (n < size))(inputs["which"]).astype(int)]]

    assert found_ranges(signature, {}, tried, 0)[0] == {"which": IntegerRange(0, 1)}


def test_integers_that_are_sizes_stay_small() -> None:
    signature = _signature(Tensor("n", "int32", (2,)), batch=None)
    drawn, note = _found(signature, lambda n: np.zeros(max(1, int(n.max()))))
    assert drawn.high == 1
    assert note.endswith("the shape of its outputs depends on them")


def test_only_the_input_that_is_refused_is_narrowed() -> None:
    signature = _signature(Tensor("ids", "int32", ("batch", 3)), Tensor("minutes", "int32", ("batch",)))

    def tried(inputs: Mapping[str, Array]) -> list[Array]:
        return [_refusing(lambda n: (n >= 0) & (n < 9))(inputs["ids"]) + inputs["minutes"][:, None]]

    ranges, _ = found_ranges(signature, {}, tried, 0)
    assert ranges == {"ids": IntegerRange(0, 8), "minutes": IntegerRange(-1_000_000, 1_000_000)}


def test_a_model_that_takes_nothing_is_left_to_the_import_step() -> None:
    assert _found(_one("int32"), _refusing(lambda n: n > 5))[0] == IntegerRange(0, 1)


def test_an_input_is_followed_to_the_smallest_table_that_it_looks_up() -> None:
    nodes: list[Passes | Lookup] = [
        Lookup("c", 7),
        Passes(["b"], ["c"]),
        Passes(["a"], ["b"]),
        Lookup("a", 30),
        Lookup("other", 5),
        Lookup("sum", 3),
    ]
    assert shown_ids(nodes, {"a": "ids", "other": "kinds", "free": "n"}) == {
        "ids": IntegerRange(0, 6),
        "kinds": IntegerRange(0, 4),
    }
