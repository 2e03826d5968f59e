"""Samples of texts: unicode and UTF-8 bytes are read, everything else is refused; random ones and edge cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.frameworks.source.edge_cases import call_at, edge_cases
from orchestrator.frameworks.source.samples import Samples, random_samples, read_samples
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepError

TEXTS = Signature((Tensor("color", "string", ("batch", 2)),), (), {"batch": (1, 8)}, "batch")
GIVEN = np.array([["red", "blue"], ["", "green"], ["schön", "x"]])


def _read(path: Path, array: Any) -> Samples:
    np.savez(path / "samples.npz", color=array)
    return read_samples(path / "samples.npz", TEXTS, 256)


def test_unicode_is_read_as_it_is(tmp_path: Path) -> None:
    samples = _read(tmp_path, GIVEN)
    np.testing.assert_array_equal(samples.inputs["color"], GIVEN)
    assert samples.notes == ()


def test_bytes_are_read_as_utf_8_and_this_is_noted(tmp_path: Path) -> None:
    samples = _read(tmp_path, np.strings.encode(GIVEN, "utf-8"))
    np.testing.assert_array_equal(samples.inputs["color"], GIVEN)
    assert samples.notes == ("samples: the bytes of `color` were read as UTF-8",)


def test_bytes_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        _read(tmp_path, np.array([[b"\xff", b"a"]]))
    assert caught.value.code == "E342"
    assert caught.value.cause.startswith("its bytes are not UTF-8")


def test_numbers_are_not_accepted_as_texts(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        _read(tmp_path, np.ones((2, 2)))
    assert (caught.value.code, caught.value.cause) == ("E342", "it is float64, which is not text")


def test_texts_are_not_numbers(tmp_path: Path) -> None:
    numbers = Signature((Tensor("color", "float32", ("batch", 2)),), (), {"batch": (1, 8)}, "batch")
    np.savez(tmp_path / "samples.npz", color=GIVEN)
    with pytest.raises(StepError) as caught:
        read_samples(tmp_path / "samples.npz", numbers, 256)
    assert caught.value.code == "E342"


def test_python_objects_are_refused_with_the_way_to_save_texts(tmp_path: Path) -> None:
    with pytest.raises(StepError) as caught:
        _read(tmp_path, GIVEN.astype(object))
    assert caught.value.code == "E340"
    assert "array.astype(str)" in caught.value.remedy


def test_random_texts_are_words_and_the_same_for_the_same_seed() -> None:
    first, again = (random_samples(TEXTS, 0).inputs["color"] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert first.shape == (32, 2)
    assert all(word.isalpha() and 2 <= len(word) <= 8 for word in first.flat)
    assert len(set(first.flat)) > 32


def test_edge_cases_are_empty_the_longest_and_the_shortest_text() -> None:
    samples = Samples({"color": np.array([["red", "blue"], ["a", "green"]])}, None, real=True)
    cases = {case.name: case.inputs["color"] for case in edge_cases(samples, TEXTS)}
    assert set(cases["zeros, smallest batch"].flat) == {""}
    assert set(cases["largest values, smallest batch"].flat) == {"green"}
    assert set(cases["smallest values, smallest batch"].flat) == {"a"}
    assert cases["batch of 8"].shape == (8, 2)


def test_a_call_repeats_the_texts() -> None:
    samples = Samples({"color": GIVEN}, None, real=True)
    call = call_at(samples, TEXTS, {"batch": 4}, first=1)
    assert call["color"].tolist() == [["", "green"], ["schön", "x"], ["red", "blue"], ["", "green"]]
