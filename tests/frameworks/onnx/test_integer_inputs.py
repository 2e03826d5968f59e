"""Integers without samples: those that ONNX models look up, set in one-hot rows, or refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from orchestrator.frameworks.onnx.ids import ids_of_inputs, numbers_compared
from orchestrator.frameworks.onnx.signature import found_tensor
from orchestrator.frameworks.onnx.source import check
from orchestrator.frameworks.source.samples import IntegerRange, write_random
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import ImportParameters, SourceParameters
from tests.frameworks.onnx.case import floats, model, run_check, saved, signature, stored, value

IDS = signature({"ids": ("int32", ["batch", 2])})


def _table(*before: Any, ids: str = "ids") -> Any:
    return model(
        [*before, helper.make_node("Gather", ["table", ids], ["y"])],
        [value("ids", TensorProto.INT32, ["N", 2])],
        [floats("y", ["N", 2, 3])],
        [stored("table", np.zeros((30, 3), np.float32)), stored("one", np.array(1, np.int32))],
    )


def _one_hot() -> Any:
    return model(
        [helper.make_node("OneHot", ["ids", "depth", "values"], ["y"])],
        [value("ids", TensorProto.INT32, ["N", 2])],
        [floats("y", ["N", 2, 12])],
        [stored("depth", np.array(12)), stored("values", np.array([0, 1], np.float32))],
    )


@pytest.mark.parametrize(
    ("proto", "most"),
    [
        (_table(), 29),
        (_table(helper.make_node("Cast", ["ids"], ["wide"], to=TensorProto.INT64), ids="wide"), 29),
        (_one_hot(), 11),
    ],
)
def test_the_graph_shows_the_ids_of_an_input(proto: Any, most: int) -> None:
    assert ids_of_inputs(proto, {"words": "ids"}) == {"words": IntegerRange(0, most)}


def test_ids_are_drawn_from_the_whole_table(tmp_path: Path) -> None:
    drawn = run_check(saved(_table(), tmp_path), tmp_path / "run", IDS).arrays("samples.npz")["ids"]
    assert (drawn.min(), drawn.max()) == (0, 29)


def test_what_the_graph_does_not_show_is_found_by_calling_the_model(tmp_path: Path) -> None:
    shifted = _table(helper.make_node("Sub", ["ids", "one"], ["shifted"]), ids="shifted")
    ran = run_check(saved(shifted, tmp_path), tmp_path / "run", IDS)
    drawn = ran.arrays("samples.npz")["ids"]
    assert (drawn.min(), drawn.max()) == (-29, 30)  # ONNX counts negative places from the end
    assert any("the model does not take others" in note for note in ran.facts["notes"])


def test_integers_of_the_file_that_init_made_are_drawn_anew(tmp_path: Path) -> None:
    declared = Signature.from_json(IDS)
    write_random(StepContext({"signature": declared.as_json(), "seed": 0}, {}, tmp_path, tmp_path, tmp_path))
    inputs = {"weights": saved(_table(), tmp_path), "samples": tmp_path / "samples.npz"}
    output = tmp_path / "output"
    output.mkdir()
    parameters = ImportParameters(SourceParameters("onnx"), declared, seed=0, max_rows=256)
    check(StepContext(parameters.as_json(), inputs, output, tmp_path, tmp_path))
    with np.load(output / "samples.npz") as arrays:
        assert (arrays["ids"].min(), arrays["ids"].max()) == (0, 29)


def test_a_one_hot_encoding_written_as_a_comparison_shows_its_ids() -> None:
    made = model(
        [
            helper.make_node("Unsqueeze", ["ids", "axes"], ["column"]),
            helper.make_node("Equal", ["column", "counted"], ["same"]),
            helper.make_node("Cast", ["same"], ["y"], to=TensorProto.FLOAT),
        ],
        [value("ids", TensorProto.INT32, ["N", 2])],
        [floats("y", ["N", 2, 257])],
        [stored("axes", np.array([2])), stored("counted", np.arange(257, dtype=np.int32).reshape(1, 1, 257))],
    )
    assert ids_of_inputs(made, {"ids": "ids"}) == {"ids": IntegerRange(0, 256)}


def test_the_numbers_that_a_graph_compares_with_are_found_also_inside_its_branches() -> None:
    inner = helper.make_graph(
        [
            helper.make_node("Equal", ["rate", "slow"], ["is_slow"]),
            helper.make_node("Cast", ["is_slow"], ["out"], to=1),
        ],
        "else",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
        [stored("slow", np.array(8000))],
    )
    other = helper.make_graph(
        [helper.make_node("Constant", [], ["one"], value=helper.make_tensor("v", 1, [], [1.0]))],
        "then",
        [],
        [helper.make_tensor_value_info("one", TensorProto.FLOAT, None)],
    )
    made = model(
        [
            helper.make_node("Equal", ["fast", "rate"], ["is_fast"]),
            helper.make_node("If", ["is_fast"], ["y"], then_branch=other, else_branch=inner),
        ],
        [value("rate", TensorProto.INT64, [])],
        [floats("y", [])],
        [stored("fast", np.array(16000))],
    )
    assert numbers_compared(made, {"rate": "rate"}) == {"rate": (8000, 16000)}


def test_a_number_is_compared_after_it_was_taken_out_of_a_list_of_one() -> None:
    made = model(
        [
            helper.make_node("Reshape", ["rate", "any"], ["rates"]),
            helper.make_node("Gather", ["rates", "first"], ["one"]),
            helper.make_node("Equal", ["one", "fast"], ["is_fast"]),
            helper.make_node("Cast", ["is_fast"], ["y"], to=1),
        ],
        [value("rate", TensorProto.INT64, [])],
        [floats("y", [])],
        [stored("any", np.array([-1])), stored("first", np.array(0)), stored("fast", np.array(16000))],
    )
    assert numbers_compared(made, {"rate": "rate"}) == {"rate": (16000,)}


def test_open_dimensions_called_with_a_question_mark_are_not_one_dimension() -> None:
    found = found_tensor(value("x", TensorProto.FLOAT, ["?", 3, "?", "?"]))
    assert found.shape == (None, 3, None, None)
