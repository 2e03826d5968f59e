"""Samples: what cannot be used is refused with the reason, and random ones stay within the signature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.frameworks.source.edge_cases import MAX_CASE_BYTES, call_at, edge_cases, inner_sizes, largest_size
from orchestrator.frameworks.source.samples import Samples, random_samples, read_samples, write_random
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepContext, StepError

IMAGE = Tensor("image", "float32", ("batch", "size", "size"))
IDS = Tensor("ids", "int32", ("batch", "seq"))
DIMS = {"batch": (1, 64), "size": (2, 8), "seq": (1, 10)}
BOTH = Signature((IMAGE, IDS), (), DIMS, "batch")
GOOD: dict[str, Any] = {"image": np.ones((3, 4, 4), np.float32), "ids": np.arange(6, dtype=np.int32).reshape(3, 2)}


def _read(path: Path, max_rows: int = 256, signature: Signature = BOTH, **arrays: Any) -> Samples:
    np.savez(path / "samples.npz", **arrays)
    return read_samples(path / "samples.npz", signature, max_rows)


def _refused(code: str, path: Path, **changed: Any) -> StepError:
    with pytest.raises(StepError) as caught:
        _read(path, **{**GOOD, **changed})
    assert (caught.value.code, caught.value.at) == (code, ("model", "samples"))
    return caught.value


def test_good_samples_are_read_with_their_labels(tmp_path: Path) -> None:
    samples = _read(tmp_path, **GOOD, labels=np.array([1, 2, 3]))
    assert (samples.rows, samples.real, samples.notes) == (3, True, ())
    assert samples.labels is not None
    np.testing.assert_array_equal(samples.inputs["ids"], GOOD["ids"])


def test_the_number_of_rows_is_limited_with_a_note(tmp_path: Path) -> None:
    samples = _read(tmp_path, 2, **GOOD, labels=np.array([1, 2, 3]), extra=np.ones(3))
    assert samples.rows == 2
    assert samples.labels is not None
    assert len(samples.labels) == 2
    assert "samples: the first 2 of 3 rows are used" in samples.notes
    assert "samples: `extra` is not an input of the model and was ignored" in samples.notes


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "the file is empty"),
        (b"hello", "neither a zip archive of arrays nor an array"),
        (b"PK\x03\x04 cut off", "not a zip file"),
    ],
)
def test_a_file_that_is_not_an_npz_is_refused(tmp_path: Path, content: bytes, cause: str) -> None:
    (tmp_path / "samples.npz").write_bytes(content)
    with pytest.raises(StepError) as caught:
        read_samples(tmp_path / "samples.npz", BOTH, 256)
    assert (caught.value.code, caught.value.at) == ("E340", ("model", "samples"))
    assert cause in caught.value.cause
    assert "numpy.savez" in caught.value.remedy


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "samples.npz").open("wb") as file:
        np.save(file, GOOD["image"])
    with pytest.raises(StepError, match="a single array"):
        read_samples(tmp_path / "samples.npz", BOTH, 256)


def test_arrays_of_objects_are_not_unpickled(tmp_path: Path) -> None:
    error = _refused("E340", tmp_path, ids=np.array([{}, {}, {}], dtype=object))
    assert "`ids` cannot be read" in error.message
    assert "Python objects" in error.cause


def test_a_cut_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, **GOOD)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StepError) as caught:
        read_samples(path, BOTH, 256)
    assert caught.value.code == "E340"


def test_a_missing_input_is_reported_with_the_existing_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", images=GOOD["image"], ids=GOOD["ids"])
    with pytest.raises(StepError) as caught:
        read_samples(tmp_path / "samples.npz", BOTH, 256)
    assert caught.value.code == "E341"
    assert "`images`, `ids`" in caught.value.cause
    assert "rename `images`" in caught.value.remedy


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("ids", np.array([[0.5], [1], [2]])),
        ("ids", np.array([[1.0], [1], [2]])),
        ("ids", np.array([[2**40], [1], [2]])),
        ("image", np.full((3, 4, 4), 1e300)),
        ("image", np.full((3, 4, 4), 2**24 + 1)),
        ("image", np.full((3, 4, 4), "a")),
    ],
)
def test_casts_that_change_values_are_refused(tmp_path: Path, name: str, array: Any) -> None:
    error = _refused("E342", tmp_path, **{name: array})
    assert f"`{name}` is {array.dtype}" in error.message


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("image", np.full((3, 4, 4), 0.1)),
        ("image", np.full((3, 4, 4), np.nan)),
        ("image", np.full((3, 4, 4), 255, np.uint8)),
        ("ids", np.array([[1], [2], [3]])),
        ("ids", np.array([[True], [False], [True]])),
    ],
)
def test_safe_casts_are_made_and_noted(tmp_path: Path, name: str, array: Any) -> None:
    samples = _read(tmp_path, **{**GOOD, name: array})
    declared = {"image": "float32", "ids": "int32"}[name]
    assert samples.inputs[name].dtype == declared
    assert samples.notes == (f"samples: `{name}` was cast from {array.dtype} to {declared}",)


@pytest.mark.parametrize(
    ("shape", "cause"),
    [
        ((3, 4), "it has 2 dimensions, but 3 are expected"),
        ((3, 4, 5), "`size` is 5 here, but 4 in `image`"),
        ((3, 9, 9), "dimension 1 is 9, but `size` ranges from 2 to 8"),
    ],
)
def test_a_wrong_shape_is_reported_with_the_dimension(tmp_path: Path, shape: tuple[int, ...], cause: str) -> None:
    error = _refused("E343", tmp_path, image=np.ones(shape, np.float32))
    assert error.cause == cause
    assert "[rows, size, size]" in error.message


def test_a_fixed_dimension_must_have_its_size(tmp_path: Path) -> None:
    fixed = Signature((Tensor("x", "float32", ("batch", 3)),), (), DIMS, "batch")
    with pytest.raises(StepError) as caught:
        _read(tmp_path, signature=fixed, x=np.ones((2, 4), np.float32))
    assert caught.value.cause == "dimension 1 is 4, but 3 is declared"


def test_different_numbers_of_rows_are_refused(tmp_path: Path) -> None:
    error = _refused("E344", tmp_path, ids=np.ones((2, 2), np.int32))
    assert error.cause == "`image` has 3, `ids` has 2"


def test_no_rows_are_refused(tmp_path: Path) -> None:
    error = _refused("E344", tmp_path, image=np.ones((0, 4, 4), np.float32), ids=np.ones((0, 2), np.int32))
    assert error.message == "the samples have no rows"


@pytest.mark.parametrize("labels", [np.array([1, 2]), np.array(1)])
def test_labels_that_are_not_one_for_each_row_are_refused(tmp_path: Path, labels: Any) -> None:
    assert "3 rows" in _refused("E345", tmp_path, labels=labels).message


def test_random_samples_are_the_same_for_the_same_seed_and_within_the_signature() -> None:
    first, again, other = random_samples(BOTH, 0), random_samples(BOTH, 0), random_samples(BOTH, 1)
    assert first.inputs["image"].shape == (32, 8, 8)
    assert first.inputs["ids"].shape == (32, 10)
    assert np.abs(first.inputs["image"]).max() <= 3
    np.testing.assert_array_equal(first.inputs["image"], again.inputs["image"])
    assert not np.array_equal(first.inputs["image"], other.inputs["image"])
    assert not first.real


def test_a_call_repeats_the_samples_own_values(tmp_path: Path) -> None:
    samples = _read(tmp_path, **GOOD)
    call = call_at(samples, BOTH, {"batch": 4, "size": 5, "seq": 3}, first=1)
    assert call["image"].shape == (4, 5, 5)
    np.testing.assert_array_equal(call["ids"], [[2, 3, 2], [4, 5, 4], [0, 1, 0], [2, 3, 2]])


def test_edge_cases_take_the_samples_extremes_and_the_ends_of_every_dimension(tmp_path: Path) -> None:
    cases = {case.name: case for case in edge_cases(_read(tmp_path, **GOOD), BOTH)}
    assert (cases["zeros, smallest batch"].inputs["ids"] == 0).all()
    assert (cases["largest values, smallest batch"].inputs["ids"] == 5).all()
    assert cases["batch of 64"].inputs["image"].shape == (64, 4, 4)
    assert cases["size of 2"].inputs["image"].shape == (1, 2, 2)
    assert cases["size of 8"].inputs["image"].shape == (1, 8, 8)
    assert cases["seq of 10"].inputs["ids"].shape == (1, 10)


@pytest.mark.parametrize(("low", "high"), [(1, 8), (1, 16), (1, 64), (2, 64), (32, 512), (1, 100_000)])
def test_sizes_between_the_ends_find_a_branch_on_a_size(low: int, high: int) -> None:
    inner = inner_sizes(low, high)
    assert all(low < size < high for size in inner)
    assert sum(inner) <= 1.5 * high, "as cheap as the largest size"
    sizes = {*inner, high}
    for divisor in (2, 3, 4, 8, 16, 32):
        if divisor <= high:
            assert len({size % divisor == 0 for size in sizes}) == 2, f"{sizes} do not tell multiples of {divisor}"


@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 2), (7, 7), (7, 8)])
def test_a_range_without_inner_sizes_has_none(low: int, high: int) -> None:
    assert inner_sizes(low, high) == ()


def test_a_case_that_would_be_too_large_is_capped_and_says_so() -> None:
    wide = Signature((Tensor("x", "float32", ("batch", 2**20)),), (), {"batch": (1, 10_000)}, "batch")
    assert largest_size(wide, {"batch": 1}, "batch") == 16
    samples = Samples({"x": np.ones((1, 2**20), np.float32)}, None, real=True)
    largest = next(case for case in edge_cases(samples, wide) if case.name == "batch of 16")
    assert sum(array.nbytes for array in largest.inputs.values()) <= MAX_CASE_BYTES
    assert largest.note == "`batch` goes up to 10000, but was tried up to 16 only, which fills 64 MiB"


def test_samples_that_init_made_at_random_are_not_taken_for_real_ones(tmp_path: Path) -> None:
    context = StepContext({"signature": BOTH.as_json(), "seed": 0}, {}, tmp_path, tmp_path, tmp_path)
    write_random(context)
    made = read_samples(tmp_path / "samples.npz", BOTH, 256)
    assert not made.real
    assert any("random" in note for note in made.notes)
    with np.load(tmp_path / "samples.npz") as arrays:
        np.savez(tmp_path / "saved-again.npz", **arrays)
    assert read_samples(tmp_path / "saved-again.npz", BOTH, 256).real


def test_a_random_request_has_as_few_rows_as_it_can_where_they_are_not_first() -> None:
    track = Tensor("track", "float32", ("steps", "rows", 3))
    signature = Signature((track,), (), {"steps": (1, 64), "rows": (2, 64)}, None)
    assert random_samples(signature, 0, inner_batch="rows").inputs["track"].shape == (32, 32, 2, 3)
    assert random_samples(signature, 0).inputs["track"].shape == (32, 32, 32, 3)


def test_samples_without_a_batch_are_whole_requests(tmp_path: Path) -> None:
    track = Tensor("track", "float32", ("steps", 1, 3))
    signature = Signature((track,), (), {"steps": (1, 64)}, None)
    np.savez(tmp_path / "samples.npz", track=np.zeros((5, 7, 1, 3), np.float32))
    assert read_samples(tmp_path / "samples.npz", signature, 256).rows == 5
    np.savez(tmp_path / "samples.npz", track=np.zeros((7, 1, 3), np.float32))
    with pytest.raises(StepError) as caught:
        read_samples(tmp_path / "samples.npz", signature, 256)
    assert "[requests, steps, 1, 3] is expected" in caught.value.message
    assert caught.value.remedy.startswith("the first dimension of every array counts the requests")
