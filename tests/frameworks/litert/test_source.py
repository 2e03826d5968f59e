"""LiteRT models as sources: what is read from them, what is verified, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flatbuffers  # type: ignore[import-untyped]  # it has no types
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from orchestrator.frameworks.litert.source import check, inspect, open_baseline
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepContext, StepError
from orchestrator.steps.parameters import SourceParameters
from tests.frameworks.step_process import ROOT, StepProcess
from tests.frameworks.tensorflow_case import CASES, Case

if TYPE_CHECKING:
    from tests.frameworks.tensorflow_case import Converted

pytestmark = pytest.mark.frameworks

WEIGHTS = ("model", "source", "weights")
Convert = Callable[[str], "Converted"]


def context(path: Path, weights: Path, case: Case | None = None) -> StepContext:
    """Of a step in this process, which needs no TensorFlow for a LiteRT model."""
    (path / "output").mkdir()
    params: dict[str, Any] = {"source": {"kind": "tflite"}}
    if case is not None:
        params = {
            "source": {"kind": "tflite", "names": case.own}, "signature": case.signature, "seed": 0, "max_rows": 256,
        }  # fmt: skip
    return StepContext(params, {"weights": weights}, path / "output", path, path)


def refused(code: str, at: tuple[str | int, ...], path: Path, weights: Path, case: Case | None = None) -> StepError:
    with pytest.raises(StepError) as caught:
        (inspect if case is None else check)(context(path, weights, case))
    error = caught.value
    assert (error.code, error.at) == (code, at), f"{error.code} {error.at} {error.message}: {error.cause}"
    assert error.remedy
    return error


def test_tensors_are_found_by_the_names_of_the_signature(converted: Convert) -> None:
    found = converted("tflite_two_in_two_out").inspect()
    assert found["inputs"] == [
        {"tensor": "ids", "dtype": "int32", "shape": [None, None]},
        {"tensor": "mask", "dtype": "float32", "shape": [None, None]},
    ]
    assert {t["tensor"]: (t["dtype"], t["shape"]) for t in found["outputs"]} == {
        "tokens": ("float32", [None, None, 8]),
        "score": ("float32", [None, 1]),
    }
    assert found["notes"] == []


def test_texts_and_booleans_are_found(converted: Convert) -> None:
    found = converted("tflite_texts").inspect()
    assert {t["tensor"]: t["dtype"] for t in (*found["inputs"], *found["outputs"])} == {
        "words": "string",
        "which": "int64",
        "chosen": "string",
        "known": "bool",
    }


def test_a_batch_that_the_model_fixes_is_a_number(converted: Convert) -> None:
    assert converted("tflite_batch_of_one").inspect()["inputs"][0]["shape"] == [1, 8, 8, 1]


def test_the_meaning_of_quantized_integers_is_noted(converted: Convert) -> None:
    found = converted("tflite_integer_io").inspect()
    assert found["inputs"][0]["dtype"] == "uint8"
    assert found["notes"][0]["text"] == "the input `image` is uint8 and stands for (value +0) x 0.00392157"
    assert found["notes"][1]["text"].startswith("the output `output_0` is uint8 and stands for (value -")


def test_the_trained_model_answers_as_it_should(converted: Convert) -> None:
    imported = converted("tflite_cnn").imported
    assert imported.json("imported.json")["signature"]["outputs"] == [
        {"name": "logits", "dtype": "float32", "shape": ["batch", 10], "allowed": None}
    ]
    labels = imported.arrays("samples.npz")["labels"]
    assert (imported.arrays("baseline.npz")["logits"].argmax(axis=1) == labels).mean() > 0.9
    assert imported.summary["parameters"] > 6000
    assert set(imported.summary["framework"]) == {"ai-edge-litert"}


def test_inputs_and_outputs_may_have_another_order(converted: Convert) -> None:
    imported = converted("tflite_two_in_two_out").imported
    names = [tensor["name"] for tensor in imported.json("imported.json")["signature"]["inputs"]]
    assert names == ["mask", "ids"]
    outputs = imported.arrays("baseline.npz")
    assert (outputs["score"].shape, outputs["tokens"].shape) == ((32, 1), (32, 32, 8))


def test_texts_go_in_and_come_out(converted: Convert) -> None:
    imported = converted("tflite_texts").imported
    given, answered = imported.arrays("samples.npz"), imported.arrays("baseline.npz")
    expected = np.take_along_axis(given["words"], given["which"], axis=1)
    np.testing.assert_array_equal(answered["chosen"], expected)
    np.testing.assert_array_equal(answered["known"], given["which"] > 0)


@pytest.mark.parametrize("name", ["tflite_float_io", "tflite_integer_io", "tflite_batch_of_one"])
def test_quantized_and_fixed_models_are_taken_as_they_are(converted: Convert, name: str) -> None:
    case = converted(name)
    found = case.inspect()["inputs"][0]
    assert case.imported.arrays("samples.npz")["image"].dtype == found["dtype"]


def test_the_baseline_answers_as_recorded_on_the_threads_that_it_is_given(converted: Convert, tmp_path: Path) -> None:
    case = converted("tflite_cnn")
    imported = case.imported
    resolved = Signature.from_json(imported.json("imported.json")["signature"])
    runtime = open_baseline(SourceParameters.from_json(case.source), {"weights": case.weights}, tmp_path, resolved, 1)
    images = imported.arrays("samples.npz")["image"]
    for rows in (3, 8, 3):  # of another size, and of one that was there before
        answer = runtime.run({"image": images[:rows]})["logits"]
        np.testing.assert_allclose(answer, imported.arrays("baseline.npz")["logits"][:rows], atol=1e-4)
    assert (runtime.facts().runtime, runtime.facts().threads) == ("litert", 1)


@pytest.mark.parametrize(
    ("name", "code", "operator"),
    [
        ("noisy", "E330", "RANDOM_UNIFORM draws"),
        ("counting", "E332", "one call affects the next"),
        ("counting_later", "E332", "ASSIGN_VARIABLE writes what the next call reads"),
    ],
)
def test_a_model_whose_outputs_do_not_repeat_is_refused(
    models_to_convert: Path, tmp_path: Path, name: str, code: str, operator: str
) -> None:
    error = refused(code, WEIGHTS, tmp_path, models_to_convert / f"{name}.tflite", CASES[name])
    assert operator in error.cause


def test_a_model_whose_rows_influence_each_other_is_refused(models_to_convert: Path, tmp_path: Path) -> None:
    refused("E331", WEIGHTS, tmp_path, models_to_convert / "mixing.tflite", CASES["mixing"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("select_ops", "the model needs operators of TensorFlow: BitwiseAnd"),
        ("custom_ops", "the model needs operators that LiteRT does not have: BitwiseAnd"),
    ],
)
def test_other_operators_are_refused_by_name_with_two_ways_out(
    tensorflow: StepProcess, models_to_convert: Path, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "again").mkdir()
    error = refused("E366", WEIGHTS, tmp_path, models_to_convert / f"{name}.tflite", CASES[name])
    assert error.message == message
    assert "build the model of operators that LiteRT has and convert it again" in error.remedy
    check(context(tmp_path / "again", models_to_convert / "remainders.tflite", CASES[name]))
    assert "or deploy the model that it was converted from" in error.remedy
    assert "`kind: saved-model`" in error.remedy
    inputs = {"weights": models_to_convert / "bits"}
    tensorflow.step("tensorflow.saved_model_source:inspect", {"source": {"kind": "saved-model"}}, inputs)


def _of_another_version(model: Any) -> None:
    model.operatorCodes[0].version = 99


def _without_weights(model: Any) -> None:
    operator = model.subgraphs[0].operators[0]
    operator.inputs = operator.inputs[:1]


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (_of_another_version, "E366", "convert it again with an older TensorFlow"),
        (_without_weights, "E367", "convert it again with a newer converter"),
    ],
)
def test_operators_that_this_version_does_not_run_are_told_from_a_damaged_file(
    models_to_convert: Path, tmp_path: Path, change: Callable[[Any], None], code: str, told: str
) -> None:
    case = replace(CASES["tflite_batch_of_one"], samples=None)
    given = models_to_convert / case.weights
    model = schema.ModelT.InitFromPackedBuf(given.read_bytes(), 0)
    change(model)
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    (tmp_path / "other.tflite").write_bytes(bytes(builder.Output()))
    assert told in refused(code, WEIGHTS, tmp_path, tmp_path / "other.tflite", case).remedy
    (tmp_path / "again").mkdir()
    check(context(tmp_path / "again", given, case))


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_file_that_is_cut_short_is_refused(models_to_convert: Path, tmp_path: Path, kept: float) -> None:
    whole = (models_to_convert / "cnn.tflite").read_bytes()
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(whole[: int(len(whole) * kept)])
    error = refused("E302", WEIGHTS, tmp_path, cut)
    assert "not a valid Flatbuffer" in error.cause


def test_no_damage_raises_anything_but_a_clear_refusal(models_to_convert: Path, tmp_path: Path) -> None:
    """Each in a folder of its own; a crash would take the whole process of the tests along."""
    whole = (models_to_convert / "two_in_two_out.tflite").read_bytes()
    random = np.random.default_rng(0)
    damaged = tmp_path / "damaged.tflite"
    codes = []
    for number in range(200):
        content = bytearray(whole)
        for place in random.integers(8, len(whole), int(random.integers(1, 20))):
            content[place] = int(random.integers(0, 256))
        damaged.write_bytes(content)
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            inspect(context(folder, damaged))
        except StepError as error:
            codes.append(error.code)
    assert len(codes) > 100
    assert set(codes) <= {"E302", "E366"}


@pytest.mark.parametrize(
    ("content", "looks_like"),
    [
        (b"\x80\x04}.", "a Python pickle"),
        (b"", "an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes, looks_like: str) -> None:
    file = tmp_path / "model.tflite"
    file.write_bytes(content)
    assert looks_like in refused("E301", WEIGHTS, tmp_path, file).cause


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused("E301", WEIGHTS, tmp_path, tmp_path / "model.tflite")


def test_a_fixed_batch_is_not_resized(models_to_convert: Path, tmp_path: Path) -> None:
    case = replace(CASES["tflite_cnn"], samples=None)
    file = models_to_convert / "cnn_batch_of_one.tflite"
    error = refused("E322", ("model", "dims", "batch"), tmp_path, file, case)
    assert "the input `image` has the shape [1, 8, 8, 1] in the model, but [2, 8, 8, 1] was given" in error.cause


@pytest.mark.parametrize(
    ("changes", "code", "at", "told"),
    [
        ({"outputs": ["logits"], "own": {}}, "E324", ("model", "outputs", 0, "name"), "its outputs are `output_0`"),
        (
            {"inputs": {"photo": ("float32", ["batch", 8, 8, 1])}},
            "E320",
            ("model", "inputs", 0, "name"),
            "its inputs are `image`",
        ),
        ({"inputs": {"image": ("float32", ["batch", 8, 8])}}, "E321", ("model", "inputs"), "[?, 8, 8, 1]"),
        ({"inputs": {"image": ("float64", ["batch", 8, 8, 1])}}, "E321", ("model", "inputs"), "FLOAT64"),
    ],
)
def test_a_spec_that_differs_from_the_model_is_refused(
    models_to_convert: Path, tmp_path: Path, changes: Any, code: str, at: tuple[str | int, ...], told: str
) -> None:
    case = replace(CASES["tflite_cnn"], samples=None, **changes)
    error = refused(code, at, tmp_path, models_to_convert / "cnn.tflite", case)
    assert told in error.cause


def test_reading_and_running_need_no_tensorflow() -> None:
    code = (
        "import sys, orchestrator.frameworks.litert.source, orchestrator.frameworks.litert.convert\n"
        "assert not {'tensorflow', 'torch', 'onnx'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
