"""Inputs whose range or values the spec gives, and dimensions with multiples: nothing else is drawn, tried or taken as a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.frameworks.source.comparison import check_sizes, rows_in_two_batches, with_second_row
from orchestrator.frameworks.source.edge_cases import edge_cases, inner_sizes, largest_size, sizes_of
from orchestrator.frameworks.source.integer_ranges import found_ranges
from orchestrator.frameworks.source.outputs import first_call, run_samples
from orchestrator.frameworks.source.samples import Array, Samples, random_samples, read_samples
from orchestrator.spec.signature import Allowed, Signature, Tensor
from orchestrator.steps.context import StepError


def _one(dtype: str, allowed: Allowed, *shape: int) -> Signature:
    return Signature((Tensor("x", dtype, ("batch", *shape), allowed),), (), {"batch": (1, 8)}, "batch")


DETECTOR = Signature(
    (Tensor("image", "float32", ("batch", 3, "height", "width")),),
    (Tensor("boxes", "float32", ("batch", 4)),),
    {"batch": (1, 4), "height": (32, 640), "width": (64, 256)},
    "batch",
    {"height": 32, "width": 64},
)


@pytest.mark.parametrize(
    ("dtype", "allowed", "expected"),
    [
        ("int64", Allowed(range=(1, 4)), {1, 2, 3, 4}),
        ("uint8", Allowed(range=(200, 255)), set(range(200, 256))),
        ("int64", Allowed(values=(8000, 16000)), {8000, 16000}),
        ("float32", Allowed(values=(0.5, 2)), {0.5, 2.0}),
        ("bool", Allowed(values=(True,)), {True}),
        ("string", Allowed(values=("north", "s")), {"north", "s"}),
    ],
)
def test_random_inputs_are_all_that_is_allowed_and_nothing_else(
    dtype: str, allowed: Allowed, expected: set[Any]
) -> None:
    samples = random_samples(_one(dtype, allowed, 50), 0)
    assert set(samples.inputs["x"].ravel().tolist()) == expected
    assert not any("unknown" in note for note in samples.notes)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [
        ("float32", 0.1, 0.2),
        ("float16", -1, 1.5),
        ("float64", -1.7e308, 1.7e308),
        ("int64", -(2**63), 2**63 - 1),
        ("int64", 1_600_000_000, 1_700_000_000),
        ("int32", 7, 7),
    ],
)
def test_random_numbers_begin_with_both_ends_of_a_range(dtype: str, low: float, high: float) -> None:
    array = random_samples(_one(dtype, Allowed(range=(low, high)), 50), 3).inputs["x"]
    lowest, highest = np.array([low, high], dtype)
    assert array.dtype == dtype
    assert array.ravel()[:2].tolist() == [lowest, highest]
    assert ((array >= lowest) & (array <= highest)).all()
    assert low == high or len(np.unique(array)) > 50


def test_edge_cases_hold_the_ends_even_with_real_samples() -> None:
    signature = _one("int64", Allowed(range=(2, 9)), 3)
    samples = Samples({"x": np.full((2, 3), 5)}, None, real=True)
    cases = {case.name: case.inputs["x"] for case in edge_cases(samples, signature)}
    assert np.unique(cases["zeros, or what is nearest to them, smallest batch"]).tolist() == [2]
    assert np.unique(cases["largest values, smallest batch"]).tolist() == [9]
    assert np.unique(cases["smallest values, smallest batch"]).tolist() == [2]


@pytest.mark.parametrize(
    ("dtype", "allowed"),
    [
        ("float32", Allowed(range=(1, 2))),
        ("float32", Allowed(values=(-3.0, 4.0, 10.0))),
        ("int32", Allowed(values=(16000, 8000))),
        ("int32", Allowed(values=(7,))),
        ("string", Allowed(values=("longer", "x"))),
    ],
)
def test_no_check_of_import_or_of_a_conversion_calls_with_other_values(dtype: str, allowed: Allowed) -> None:
    """All calls of edge cases, of other magnitudes and of rows in two batches."""
    tensor = Tensor("x", dtype, ("batch", 3), allowed)
    signature = Signature((tensor,), (Tensor("y", "float32", ("batch",)),), {"batch": (2, 8)}, "batch")
    seen: list[Array] = []

    def source(inputs: Any) -> dict[str, Array]:
        seen.append(inputs["x"])
        return {"y": np.zeros(len(inputs["x"]), np.float32)}

    samples = random_samples(signature, 0)
    check_sizes(signature, samples, source, source, other_magnitudes=True)
    for few, many in rows_in_two_batches(with_second_row(samples, signature), signature, "batch"):
        seen += [few["x"], many["x"]]
    values = np.concatenate([array.ravel() for array in seen])
    if allowed.range is not None:
        assert (values.min(), values.max()) == allowed.range
    else:
        assert set(values.tolist()) <= set(allowed.values or ())


def test_the_nearest_to_zero_of_several_values_is_taken() -> None:
    samples = random_samples(_one("float32", Allowed(values=(10.0, -3.0, 4.0)), 3), 0)
    zeros = edge_cases(samples, _one("float32", Allowed(values=(10.0, -3.0, 4.0)), 3))[0].inputs["x"]
    assert np.unique(zeros).tolist() == [-3.0]


def test_integers_of_the_spec_are_not_searched_for() -> None:
    def tried(_: Any) -> list[Array]:
        raise AssertionError("nothing is to be found out")

    assert found_ranges(_one("int64", Allowed(range=(0, 256)), 4), {}, tried, 0) == ({}, [])


def _read(path: Path, signature: Signature, **arrays: Any) -> Samples:
    np.savez(path / "samples.npz", **arrays)
    return read_samples(path / "samples.npz", signature, 256)


@pytest.mark.parametrize(
    ("dtype", "allowed", "array", "cause", "key"),
    [
        (
            "int64",
            Allowed(range=(0, 256)),
            np.array([[1, 2], [3, 300], [-1, 0]]),
            "row 1 holds 300 at [1], but `x` is from 0 to 256; so do 1 more rows",
            "range",
        ),
        ("float32", Allowed(range=(0, 1)), np.array([[0, np.nan]], np.float32), "row 0 holds nan at [1], but", "range"),
        ("int64", Allowed(values=(8, 16)), np.array([[8, 16], [8, 9]]), "row 1 holds 9 at [1], but `x` is one of 8, 16", "values"),
        ("string", Allowed(values=("a", "b")), np.array([["a", "c"]]), "row 0 holds 'c' at [1], but `x` is one of 'a', 'b'", "values"),
    ],
)  # fmt: skip
def test_samples_with_other_values_are_refused_with_row_and_value(
    tmp_path: Path, dtype: str, allowed: Allowed, array: Array, cause: str, key: str
) -> None:
    with pytest.raises(StepError) as caught:
        _read(tmp_path, _one(dtype, allowed, 2), x=array)
    assert (caught.value.code, caught.value.at) == ("E346", ("model", "inputs", 0, key))
    assert cause in caught.value.cause


def test_samples_at_the_ends_of_a_range_are_taken(tmp_path: Path) -> None:
    """0.1 in float32 is a little more than 0.1."""
    _read(tmp_path, _one("float32", Allowed(range=(0, 0.1)), 2), x=np.array([[0, 0.1]], np.float32))
    _read(tmp_path, _one("float32", Allowed(values=(0.1,)), 1), x=np.array([[0.1]], np.float32))


def test_samples_of_another_size_than_a_multiple_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        _read(tmp_path, DETECTOR, image=np.zeros((2, 3, 50, 64), np.float32))
    assert (caught.value.code, caught.value.cause) == ("E343", "dimension 2 is 50, but `height` is a multiple of 32")


def test_every_size_that_is_tried_is_a_multiple() -> None:
    samples = random_samples(DETECTOR, 0)
    assert samples.inputs["image"].shape[2:] == (32, 64)
    shapes = {case.inputs["image"].shape for case in edge_cases(samples, DETECTOR)}
    heights, widths = {shape[2] for shape in shapes}, {shape[3] for shape in shapes}
    assert {32, 640} < heights
    assert {64, 256} < widths
    assert all(height % 32 == 0 for height in heights)
    assert all(width % 64 == 0 for width in widths)


def test_the_largest_size_in_memory_is_a_multiple() -> None:
    wide = Signature((Tensor("x", "float32", ("n", 1_000_000)),), (), {"n": (3, 3000)}, None, {"n": 3})
    assert largest_size(wide, {"n": 3}, "n") == 15


def test_inner_sizes_of_a_step() -> None:
    assert inner_sizes(320, 640, 32)
    assert all(320 < size < 640 and size % 32 == 0 for size in inner_sizes(320, 640, 32))
    assert inner_sizes(32, 64, 32) == ()


def test_batches_of_multiples_are_filled_up() -> None:
    signature = Signature(
        (Tensor("x", "float32", ("batch", 2)),),
        (Tensor("y", "float32", ("batch",)),),
        {"batch": (4, 12)},
        "batch",
        {"batch": 4},
    )
    sizes = []

    def answer(inputs: Any, dim: str | None = None) -> dict[str, Array]:
        assert dim is None
        sizes.append(len(inputs["x"]))
        return {"y": inputs["x"][:, 0]}

    rows = np.arange(34, dtype=np.float32).reshape(17, 2)
    outputs = run_samples(answer, signature, Samples({"x": rows}, None, real=True))
    np.testing.assert_array_equal(outputs["y"], rows[:, 0])
    assert sizes[:2] == [12, 8]
    assert set(sizes[2:]) == {4}  # some rows again in the smallest batch
    assert len(first_call(Samples({"x": rows}, None, real=True), signature)["x"]) == 4
    assert sizes_of(Samples({"x": rows}, None, real=True), signature) == {"batch": 4}
