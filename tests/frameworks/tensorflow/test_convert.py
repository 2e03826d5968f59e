"""Converting Keras models and SavedModels: the result has its source's outputs at every size, or the reason is reported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from orchestrator.frameworks.litert.file import read
from orchestrator.steps.context import StepError
from tests.frameworks.step_process import StepProcess
from tests.frameworks.tensorflow_case import Case, Converted, Tensors, digests_in_two_processes

pytestmark = pytest.mark.frameworks

Convert = Callable[[str], Converted]
FORMATS = ("saved-model", "onnx", "tflite")


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("name", ["cnn", "two_in_two_out", "attention", "lstm_batch_of_one", "renamed"])
def test_a_model_converts_and_passes_verification(converted: Convert, name: str, format_name: str) -> None:
    case = converted(name)
    variant = case.variant(format_name)
    for dim, (low, high) in case.case.dims.items():
        assert {f"{dim} of {low}", f"{dim} of {high}"} <= set(variant.summary["checked"])
    verdict = case.verdict(format_name)
    assert verdict["passed"], verdict["gates"]


@pytest.mark.parametrize("format_name", ["saved-model", "onnx"])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_recurrent_models_of_any_batch_and_length_convert(converted: Convert, name: str, format_name: str) -> None:
    assert converted(name).verdict(format_name)["passed"]


def test_the_trained_model_is_as_accurate_in_every_format(converted: Convert) -> None:
    case = converted("cnn")
    accuracies = [case.verdict(*variant)["accuracy"] for variant in (
        ("saved-model", "fp32"), ("onnx", "fp32"), ("tflite", "fp32"), ("onnx", "int8"), ("tflite", "int8")
    )]  # fmt: skip
    assert min(accuracy["logits"]["variant"] for accuracy in accuracies) > 0.9, accuracies


@pytest.mark.parametrize("format_name", ["onnx", "tflite"])
def test_int8_passes_its_gates_and_is_calibrated_on_every_second_row(converted: Convert, format_name: str) -> None:
    case = converted("cnn")
    variant = case.variant(format_name, "int8")
    assert (variant.summary["method"], variant.summary["calibration"]["unseen"]) == ("static", 128)
    verdict = case.verdict(format_name, "int8")
    assert verdict["passed"], verdict["gates"]
    assert max(gate["measured"] for gate in verdict["gates"] if gate["gate"] == "max_abs_error") > 1e-3


def test_int8_in_litert_keeps_float_inputs_and_outputs(converted: Convert) -> None:
    file = read(converted("cnn").variant("tflite", "int8").folder / "model.tflite")
    assert {tensor.dtype for tensor in (*file.inputs, *file.outputs)} == {"float32"}
    assert file.quantized
    assert not read(converted("cnn").variant("tflite").folder / "model.tflite").quantized


def test_a_model_without_convolutions_gets_dynamic_ranges(converted: Convert) -> None:
    assert converted("attention").variant("onnx", "int8").summary["method"] == "dynamic"
    verdict = converted("encoder").verdict("tflite", "int8")
    assert verdict["passed"], verdict["gates"]
    assert converted("encoder").variant("tflite", "int8").summary["method"] == "dynamic"


def test_a_model_too_small_to_quantize_is_refused(converted: Convert) -> None:
    with pytest.raises(StepError, match="nothing to quantize") as failure:
        converted("two_in_two_out").variant("tflite", "int8")
    assert failure.value.code == "E425"


def test_the_onnx_file_has_the_names_the_order_and_the_dimensions_of_the_spec(converted: Convert) -> None:
    graph = onnx.load(str(converted("two_in_two_out").variant("onnx").folder / "model.onnx")).graph
    assert _shapes(graph.input) == [("mask", ["batch", "length"]), ("ids", ["batch", "length"])]
    assert _shapes(graph.output) == [("tokens", ["batch", "length", 8]), ("score", ["batch", 1])]


def test_names_that_the_model_does_not_have_are_given_in_every_format(converted: Convert) -> None:
    graph = onnx.load(str(converted("renamed").variant("onnx").folder / "model.onnx")).graph
    assert [value.name for value in (*graph.input, *graph.output)] == ["picture", "scores"]
    file = read(converted("renamed").variant("tflite").folder / "model.tflite")
    assert [tensor.name for tensor in (*file.inputs, *file.outputs)] == ["picture", "scores"]


def test_channels_stay_last(converted: Convert) -> None:
    graph = onnx.load(str(converted("cnn").variant("onnx").folder / "model.onnx")).graph
    assert _shapes(graph.input) == [("image", ["batch", 8, 8, 1])]
    assert read(converted("cnn").variant("tflite").folder / "model.tflite").inputs[0].shape == (None, 8, 8, 1)


def test_a_dimension_with_one_size_is_fixed(converted: Convert) -> None:
    case = converted("lstm_batch_of_one")
    graph = onnx.load(str(case.variant("onnx").folder / "model.onnx")).graph
    assert _shapes(graph.input) == [("x", [1, "length", 6])]
    assert read(case.variant("tflite").folder / "model.tflite").inputs[0].shape == (1, None, 6)


def test_a_saved_model_has_constants_for_its_weights_and_nothing_random(converted: Convert) -> None:
    variant = converted("cnn").variant("saved-model")
    assert variant.summary["weights"] == "constants"
    names = {path.name for path in (variant.folder / "saved_model").iterdir()}
    assert {"saved_model.pb", "variables"} <= names
    assert "fingerprint.pb" not in names


def test_tables_of_words_keep_their_resources_in_a_saved_model(converted: Convert) -> None:
    assert converted("words").variant("saved-model").summary["weights"] == "variables"
    assert converted("words").verdict("saved-model")["passed"]


@pytest.mark.parametrize(
    ("name", "format_name", "cause"),
    [
        ("words", "onnx", "it looks up words in a table, or holds other objects that are not tensors"),
        ("words", "tflite", "operators HashTableV2, LookupTableFindV2"),
        ("no_counterpart", "onnx", "ONNX has no counterpart for the operator Erfinv"),
        ("no_counterpart", "tflite", "LiteRT has no counterpart for the operator Erfinv"),
        ("lstm", "tflite", "a recurrent layer (LSTM, GRU, RNN) is a loop"),
        ("saved_lstm", "tflite", "a recurrent layer (LSTM, GRU, RNN) is a loop"),
    ],
)
def test_a_failed_conversion_is_reported_with_its_reason(
    converted: Convert, name: str, format_name: str, cause: str
) -> None:
    with pytest.raises(StepError) as failure:
        converted(name).variant(format_name)
    assert failure.value.code == "E422"
    assert cause in failure.value.cause
    assert "optimize.formats" in failure.value.remedy


def test_the_remedy_for_a_recurrent_layer_depends_on_its_source(converted: Convert) -> None:
    with pytest.raises(StepError) as of_keras:
        converted("lstm").variant("tflite")
    assert "`batch: {min: 1, max: 1}`" in of_keras.value.remedy
    assert of_keras.value.at == ("model", "dims", "batch")
    with pytest.raises(StepError) as saved:
        converted("saved_lstm").variant("tflite")
    assert "give the Keras model (`kind: keras`)" in saved.value.remedy


def test_a_model_that_one_format_refuses_converts_to_the_others(converted: Convert) -> None:
    assert converted("no_counterpart").verdict("saved-model")["passed"]


def test_a_name_that_tensorflow_does_not_take_is_refused(converted: Convert) -> None:
    with pytest.raises(StepError, match="does not accept an input named `_x`") as failure:
        converted("underscore").variant("saved-model")
    assert failure.value.at == ("model", "inputs", 0, "name")


OLD = Case(
    "saved-model",
    "",
    {"x": ("float32", ["batch", 4]), "factor": ("int32", ["batch"])},
    ["best", "scores"],
    {"batch": (1, 8)},
    own={"inputs": {"x": "input:0/x", "factor": "scale"}},
)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("variables", ["reference", "resource"])
def test_graphs_of_tensorflow_1_convert(
    tensorflow: StepProcess, saved_models: Path, variables: str, format_name: str
) -> None:
    case = Converted(replace(OLD, weights=f"old-{variables}"), tensorflow, saved_models)
    verdict = case.verdict(format_name)
    assert verdict["passed"], verdict["gates"]


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_model_that_was_saved_with_its_optimizer_converts(
    tensorflow: StepProcess, saved_models: Path, format_name: str
) -> None:
    inputs: Tensors = {"x": ("float32", ["batch", 4]), "factor": ("float32", [])}
    case = Case("saved-model", "trained", inputs, ["y"], {"batch": (1, 8)}, batch=None)
    verdict = Converted(case, tensorflow, saved_models).verdict(format_name)
    assert verdict["passed"], verdict["gates"]


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_lookup_in_a_variable_becomes_one_in_a_constant(
    tensorflow: StepProcess, saved_models: Path, format_name: str
) -> None:
    inputs: Tensors = {"x": ("float32", ["batch", 4]), "kind": ("int64", ["batch"])}
    case = Case("saved-model", "two", inputs, ["logits", "best"], {"batch": (1, 8)})
    converted = Converted(case, tensorflow, saved_models)
    assert converted.verdict(format_name)["passed"], converted.verdict(format_name)["gates"]
    if format_name == "saved-model":
        assert converted.variant("saved-model").summary["weights"] == "constants"


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_graph_of_tensorflow_1_converts_from_its_inputs_on(
    tensorflow: StepProcess, saved_models: Path, format_name: str
) -> None:
    inputs: Tensors = {"x": ("float32", ["batch", 4])}
    case = Case("saved-model", "old-parsed-wrongly", inputs, ["y"], {"batch": (1, 8)})
    verdict = Converted(case, tensorflow, saved_models).verdict(format_name)
    assert verdict["passed"], verdict["gates"]


def test_a_graph_of_tensorflow_1_with_tables_is_copied_with_the_specs_names(
    tensorflow: StepProcess, saved_models: Path
) -> None:
    spec = Case(
        "saved-model", "old-table", {"text": ("string", ["batch"])}, ["place"], {"batch": (1, 8)},
        own={"inputs": {"text": "word"}, "outputs": {"place": "number"}},
    )  # fmt: skip
    case = Converted(spec, tensorflow, saved_models)
    assert case.variant("saved-model").summary["weights"] == "variables"
    assert case.verdict("saved-model")["passed"]
    with pytest.raises(StepError, match="does not convert to ONNX"):
        case.variant("onnx")


@pytest.mark.parametrize("format_name", ["saved-model", "tflite"])
def test_outputs_in_bfloat16_become_float32(tensorflow: StepProcess, saved_models: Path, format_name: str) -> None:
    case = Case("saved-model", "bfloat16", {"x": ("float32", ["batch", 4])}, ["y"], {"batch": (1, 8)})
    verdict = Converted(case, tensorflow, saved_models).verdict(format_name)
    assert verdict["passed"], verdict["gates"]


def test_the_same_model_gives_the_same_bytes(models_to_convert: Path, tmp_path: Path) -> None:
    first, second = digests_in_two_processes(
        models_to_convert,
        tmp_path,
        {
            "cnn": [*((name, "fp32") for name in FORMATS), ("onnx", "int8"), ("tflite", "int8")],
            "gru": [("onnx", "fp32")],
            "attention": [("onnx", "fp32")],
            "words": [("saved-model", "fp32")],
            "tflite_float_io": [("onnx", "fp32"), ("tflite", "fp32")],
        },
    )
    assert first == second


def _shapes(values: object) -> list[tuple[str, list[int | str]]]:
    return [(v.name, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]) for v in values]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["hours", "tflite_hours"])
def test_random_integers_are_negative_too_and_ids_come_from_their_whole_table(converted: Convert, name: str) -> None:
    drawn = converted(name).imported.arrays("samples.npz")
    assert (drawn["minutes"].min(), drawn["minutes"].max()) == (-1_000_000, 1_000_000)
    assert (drawn["day"].min(), drawn["day"].max()) == (0, 6)


@pytest.mark.parametrize("name", ["hours", "tflite_hours"])
def test_integers_are_divided_downwards_in_onnx_too(converted: Convert, name: str) -> None:
    verdict = converted(name).verdict("onnx")
    assert verdict["passed"], verdict["gates"]
