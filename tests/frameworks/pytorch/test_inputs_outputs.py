"""What the spec declares as inputs and outputs is compared with what the model takes and returns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.steps.context import StepError
from tests.frameworks.pytorch.case import ROWS, exported, model, refused, run, run_model, signature

pytestmark = pytest.mark.frameworks

INPUTS = ("model", "inputs")
OUTPUTS = ("model", "outputs")
TOKENS: dict[str, tuple[str, list[int | str]]] = {
    "ids": ("int64", ["batch", "seq"]),
    "mask": ("float32", ["batch", "seq"]),
}
TOKEN_DIMS = {"batch": (1, 8), "seq": (2, 64)}


def test_an_undeclared_input_is_named(tmp_path: Path) -> None:
    error = refused("E320", tmp_path, "TwoInputs", at=INPUTS)
    assert error.message == "the model takes 2 inputs, but the spec declares 1"
    assert "nothing is declared for `scale`" in error.cause


def test_an_input_too_many_is_named(tmp_path: Path) -> None:
    declared = signature({**ROWS, "more": ("float32", ["batch", 1])})
    error = refused("E320", tmp_path, "Linear", declared, at=(*INPUTS, 1))
    assert error.remedy == "remove `more`"


def test_inputs_in_another_order_than_forward_has_are_refused(tmp_path: Path) -> None:
    declared = signature({name: TOKENS[name] for name in ("mask", "ids")}, {"a": None, "b": None}, TOKEN_DIMS)
    error = refused("E320", tmp_path, "Tokens", declared, at=INPUTS)
    assert "forward takes (ids, mask), and the spec declares (mask, ids)" in error.cause


def test_an_input_by_keyword_only_is_refused(tmp_path: Path) -> None:
    error = refused("E320", tmp_path, "KeywordOnly", at=INPUTS)
    assert "`x` by keyword only" in error.message


def test_a_wrong_shape_is_reported_with_the_shapes_and_the_line(tmp_path: Path) -> None:
    declared = signature({"x": ("float32", ["batch", 5])})
    error = refused("E321", tmp_path, "Linear", declared, at=(*INPUTS, 0, "shape"))
    assert "cannot be multiplied (2x5 and 4x3)" in error.cause
    assert error.notes[0] == "given: x float32 [2, 5]"
    assert error.notes[1].startswith("raised at: source_models.py:")


def test_a_wrong_dtype_is_reported(tmp_path: Path) -> None:
    declared = signature({"x": ("int64", ["batch", 4])})
    error = refused("E321", tmp_path, "Linear", declared, at=(*INPUTS, 0, "dtype"))
    assert "correct the dtype in `inputs:`" in error.remedy


def test_a_size_that_the_model_does_not_take_blames_the_dimension(tmp_path: Path) -> None:
    declared = signature({"x": ("float32", ["batch", "steps"])}, dims={"batch": (1, 4), "steps": (1, 9)})
    samples = {"x": np.ones((4, 8), np.float32)}
    error = refused("E322", tmp_path, "AtMostEight", declared, samples, at=("model", "dims", "steps"))
    assert "a size of `steps` within its declared range of 1 to 9" in error.message
    assert "out of" in error.cause
    assert "given: x float32 [1, 9]" in error.notes


def test_an_exported_program_that_takes_one_batch_size_only_is_reported(tmp_path: Path) -> None:
    weights = exported(model("Linear").eval(), tmp_path, torch.ones(2, 4), dynamic=False)
    with pytest.raises(StepError) as caught:
        run(tmp_path, {"kind": "exported-program"}, weights)
    assert (caught.value.code, caught.value.at) == ("E322", ("model", "dims", "batch"))
    assert "Guard failed" in caught.value.cause
    assert "only the sizes that it was exported for" in caught.value.remedy


def test_missing_outputs_are_counted(tmp_path: Path) -> None:
    error = refused("E323", tmp_path, "Returns", what="list", at=OUTPUTS)
    assert error.message == "the model returns 2 tensors, but the spec declares 1"
    assert "a list of (a tensor [2, 3], a tensor [2, 3])" in error.cause


def test_a_dictionarys_outputs_are_matched_by_name(tmp_path: Path) -> None:
    declared = signature(outputs={"logits": ["batch", 3], "probs": None})
    imported = run_model(tmp_path, "Returns", declared, what="dict")
    # In the model's own order, so that later steps can go by position.
    assert [output["name"] for output in imported.json("imported.json")["signature"]["outputs"]] == ["probs", "logits"]
    answers = imported.arrays("baseline.npz")
    np.testing.assert_allclose(answers["probs"].sum(axis=1), 1, rtol=1e-5)
    assert not np.allclose(answers["logits"].sum(axis=1), 1)


def test_a_dictionarys_other_names_are_listed(tmp_path: Path) -> None:
    declared = signature(outputs={"logits": None, "prob": None})
    error = refused("E324", tmp_path, "Returns", declared, what="dict", at=(*OUTPUTS, 1, "name"))
    assert "no output named `prob`" in error.message
    assert "`probs`, `logits`" in error.remedy


@pytest.mark.parametrize("what", ["float", "object"])
def test_an_output_that_is_not_a_tensor_is_refused(tmp_path: Path, what: str) -> None:
    error = refused("E325", tmp_path, "Returns", what=what, at=(*OUTPUTS, 0))
    assert f"it is a {what}" in error.cause


@pytest.mark.parametrize(
    ("what", "names", "dtypes"),
    [
        ("list", ["a", "b"], ["float32", "float32"]),
        ("named", ["a", "b"], ["float32", "float32"]),
        ("none", ["a"], ["float32"]),
        ("double", ["a"], ["float64"]),
        ("bfloat16", ["a"], ["float32"]),
        ("classes", ["a"], ["int64"]),
    ],
)
def test_nested_outputs_are_flattened(tmp_path: Path, what: str, names: list[str], dtypes: list[str]) -> None:
    imported = run_model(tmp_path, "Returns", signature(outputs=dict.fromkeys(names)), what=what)
    outputs = imported.json("imported.json")["signature"]["outputs"]
    assert [(output["name"], output["dtype"]) for output in outputs] == list(zip(names, dtypes, strict=True))
    assert list(imported.arrays("baseline.npz")) == names


def test_output_shapes_are_found_from_two_sizes(tmp_path: Path) -> None:
    declared = signature(TOKENS, {"hidden": None, "halved": None}, TOKEN_DIMS)
    found = run_model(tmp_path, "Tokens", declared).json("imported.json")["signature"]
    assert [output["shape"] for output in found["outputs"]] == [["batch", "seq", 5], ["batch", "out1_1"]]
    assert found["dims"]["out1_1"] == [1, 32]


def test_a_size_that_the_spec_names_is_kept(tmp_path: Path) -> None:
    declared = signature(TOKENS, {"hidden": None, "halved": ["batch", "half"]}, {**TOKEN_DIMS, "half": (1, 32)})
    found = run_model(tmp_path, "Tokens", declared).json("imported.json")["signature"]
    assert found["outputs"][1]["shape"] == ["batch", "half"]


@pytest.mark.parametrize(
    ("shape", "cause"),
    [
        (["batch", 4], "dimension 1 is 3, but 4 is declared"),
        ([1, 3], "dimension 0 is 1 or 16, but 1 is declared"),
        (["batch"], "it has 2 dimensions"),
        (["batch", "batch"], "dimension 1 is 3 where `batch` is 1, but `batch` is declared"),
        (["batch", "other"], "dimension 1 is 3, but `other` is declared"),
    ],
)
def test_a_declared_output_shape_that_is_wrong_is_reported(tmp_path: Path, shape: list[int | str], cause: str) -> None:
    declared = signature(outputs={"y": shape}, dims={"batch": (1, 16), "other": (5, 9)})
    error = refused("E326", tmp_path, "Linear", declared, at=(*OUTPUTS, 0, "shape"))
    assert cause in error.cause


@pytest.mark.parametrize("what", ["no batch", "pooled"])
def test_a_model_whose_output_has_no_batch_dimension_is_called_one_by_one(tmp_path: Path, what: str) -> None:
    imported = run_model(tmp_path, "Returns", what=what).json("imported.json")
    assert imported["signature"]["batch"] is None
    assert any("requests are answered one by one" in note for note in imported["notes"])


def test_nan_on_the_samples_is_refused(tmp_path: Path) -> None:
    samples = {"x": np.full((5, 4), -1, np.float32)}
    samples["x"][3] = 1
    error = refused("E328", tmp_path, "Returns", None, samples, what="nan", at=("model", "samples"))
    assert error.message == "the model returns NaN in `y` for 1 of 5 samples"
    assert error.cause == "the first is row 3"


def test_nan_on_random_inputs_blames_the_output(tmp_path: Path) -> None:
    error = refused("E328", tmp_path, "Returns", what="nan", at=(*OUTPUTS, 0))
    assert "random" in error.cause
    assert "`samples:`" in error.remedy
