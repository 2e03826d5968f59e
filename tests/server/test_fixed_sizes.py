"""Calls of fixed sizes, as CUDA graphs need them, run by ONNX Runtime with buffers on the CPU: no graph, all the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper

from orchestrator.server.config import ServerConfig, load_config
from orchestrator.server.fixed_sizes import FixedSizes
from tests.server.conftest import add_model, every_type_model, signature, write_server

pytestmark = pytest.mark.frameworks

CPU = ("cpu", 0)


def opened(path: Path) -> tuple[Any, ServerConfig]:
    config = load_config(path)
    return ort.InferenceSession(str(config.model.file), providers=["CPUExecutionProvider"]), config


def fixed(path: Path, sizes: list[int]) -> FixedSizes:
    session, config = opened(path)
    return FixedSizes(session, config.model.signature, sizes, CPU)


def pair(rows: int, seed: int = 0) -> dict[str, Any]:
    values = np.random.default_rng(seed).standard_normal((2, rows, 3), dtype=np.float32)
    return {"x": values[0], "y": values[1]}


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 9, 16])
def test_rows_are_padded_to_the_next_size_and_cut_again(tmp_path: Path, rows: int) -> None:
    call = fixed(add_model(tmp_path), [1, 4, 8])
    inputs = pair(rows)
    (z,) = call(inputs)
    assert z.shape == (rows, 3)
    assert np.array_equal(z, inputs["x"] + inputs["y"])


def test_a_size_keeps_its_buffers_and_an_answer_is_not_overwritten_by_the_next(tmp_path: Path) -> None:
    call = fixed(add_model(tmp_path), [4])
    answers = [call(pair(rows, seed=rows))[0] for rows in (4, 3, 1, 4)]
    for rows, answer in zip((4, 3, 1), answers, strict=False):
        inputs = pair(rows, seed=rows)
        assert np.array_equal(answer, inputs["x"] + inputs["y"])


def test_inputs_that_are_views_of_other_arrays_are_taken(tmp_path: Path) -> None:
    call = fixed(add_model(tmp_path), [4])
    wide = np.arange(48, dtype=np.float32).reshape(4, 12)
    (z,) = call({"x": wide[:, ::4], "y": wide[::-1, 1:4]})
    assert np.array_equal(z, wide[:, ::4] + wide[::-1, 1:4])


def test_every_type_of_number_goes_through(tmp_path: Path) -> None:
    session, config = opened(every_type_model(tmp_path))
    numbers = {n: t for n, t in config.model.signature.inputs.items() if t.dtype != "string"}
    for name, tensor in numbers.items():
        sig = signature({name: (tensor.dtype, ["batch", 2])}, {"out": (tensor.dtype, ["batch", 2])}, {"batch": [1, 8]})
        folder = tmp_path / name
        folder.mkdir()
        call = fixed(write_server(folder, [helper.make_node("Identity", [name], ["out"])], sig), [4])
        values = np.array([[0, 1], [1, 0], [1, 1]]).astype(tensor.dtype)
        (out,) = call({name: values})
        assert out.dtype == values.dtype
        assert np.array_equal(out, values)
    assert len(numbers) == 12
    assert session is not None


def test_a_model_without_a_batch_dimension_has_one_size(tmp_path: Path) -> None:
    sig = signature({"x": ("float32", [2]), "by": ("float32", [])}, {"y": ("float32", [2])}, {}, batch=None)
    call = fixed(write_server(tmp_path, [helper.make_node("Mul", ["x", "by"], ["y"])], sig), [1])
    for by in (2.0, 3.0):
        (y,) = call({"x": np.array([1, 2], np.float32), "by": np.array(by, np.float32)})
        assert y.tolist() == [by, 2 * by]


def test_an_output_without_rows_is_never_computed_from_more_rows_than_were_given(tmp_path: Path) -> None:
    sig = signature({"x": ("float32", ["batch", 2])}, {"mean": ("float32", [1, 2])}, {"batch": [1, 8]})
    node = helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=1)
    node.input.append("axes")
    axes = helper.make_tensor("axes", 7, [1], [0])
    call = fixed(write_server(tmp_path, [node], sig, [axes]), [1, 4])
    for rows in (1, 2, 3, 4):
        values = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
        assert np.allclose(call({"x": values})[0], values.mean(axis=0, keepdims=True))
