"""Keras files: what is read from them, what is verified, and what is refused before TensorFlow sees it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.frameworks.step_process import ROOT, StepProcess
from tests.frameworks.tensorflow.source_steps import WEIGHTS, Source, Tensors, signature

pytestmark = pytest.mark.frameworks

Open = Callable[..., Source]
ROWS: Tensors = {"x": ("float32", ["batch", 4])}
TWO: Tensors = {"ids": ("int64", ["batch", 3]), "n": ("float32", ["batch", 4])}


@pytest.fixture(scope="module")
def keras(tensorflow: StepProcess, keras_files: Path) -> Open:
    """Opens one of the built files, or another."""

    def opened(file: str | Path) -> Source:
        return Source(tensorflow, "keras", keras_files / file, {})

    return opened


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_tensors_are_found_by_the_keys_of_the_models_dictionaries(keras: Open, ending: str) -> None:
    found = keras(f"two.{ending}").inspect()
    assert found["inputs"] == [
        {"tensor": "ids", "dtype": "int64", "shape": [None, 3]},
        {"tensor": "n", "dtype": "float32", "shape": [None, 4]},
    ]
    assert found["outputs"] == [
        {"tensor": "score", "dtype": "float32", "shape": [None, 2]},
        {"tensor": "sum", "dtype": "float32", "shape": [None, 3]},
    ]


def test_outputs_without_keys_have_the_names_of_their_layers_each_once(keras: Open) -> None:
    assert [tensor["tensor"] for tensor in keras("shared.keras").inspect()["outputs"]] == ["dense", "dense_1"]


def test_open_dimensions_and_texts_are_found(keras: Open) -> None:
    assert keras("recurrent.keras").inspect()["inputs"][0]["shape"] == [None, None, 6]
    text = keras("texts.keras").inspect()["inputs"][0]
    assert text == {"tensor": "text", "dtype": "string", "shape": [None]}


def test_the_order_of_channels_is_noted(keras: Open) -> None:
    assert keras("images.keras").inspect()["notes"] == [
        {"text": "the Keras layers take channels last: [batch, height, width, channels]", "tensor": None}
    ]


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_several_inputs_and_outputs_answer_as_predict_does(keras: Open, keras_files: Path, ending: str) -> None:
    names = {"inputs": {"number": "n", "ids": "ids"}, "outputs": {"sum": "sum", "best": "score"}}
    given = np.load(keras_files / "two.inputs.npz")
    samples = {"number": given["number"], "ids": given["ids"]}
    inputs: Tensors = {"number": TWO["n"], "ids": TWO["ids"]}
    source = keras(f"two.{ending}")
    imported = source.check(signature(inputs, ["sum", "best"]), samples, names)
    expected = np.load(keras_files / "two.answers.npz")
    recorded = imported.arrays("baseline.npz")
    np.testing.assert_allclose(recorded["best"], expected["arr_0"], atol=1e-6)
    np.testing.assert_allclose(recorded["sum"], expected["arr_1"], atol=1e-6)
    resolved = imported.json("imported.json")["signature"]
    assert [(t["name"], t["dtype"], t["shape"]) for t in resolved["outputs"]] == [
        ("sum", "float32", ["batch", 3]),
        ("best", "float32", ["batch", 2]),
    ]
    answers, facts = source.baseline(resolved, samples, names)
    np.testing.assert_allclose(answers["sum"], expected["arr_1"], atol=1e-6)
    assert (facts["runtime"], set(facts["versions"])) == ("keras", {"keras", "tensorflow"})
    assert imported.summary["parameters"] == 85


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_dropout_noise_and_batch_statistics_are_off(keras: Open, keras_files: Path, ending: str) -> None:
    samples = dict(np.load(keras_files / "images.inputs.npz"))
    declared = signature({"image": ("float32", ["batch", 8, 8, 3])}, ["dense_1"])
    source = keras(f"images.{ending}")
    imported = source.check(declared, samples)
    expected = np.load(keras_files / "images.answers.npz")["arr_0"]
    np.testing.assert_allclose(imported.arrays("baseline.npz")["dense_1"], expected, rtol=1e-5, atol=1e-5)
    answers = [source.baseline(imported.json("imported.json")["signature"], samples)[0]["dense_1"] for _ in range(2)]
    np.testing.assert_array_equal(answers[0], answers[1])
    assert any("channels last" in note for note in imported.summary["notes"])


def test_sequences_of_every_length_are_answered(keras: Open, keras_files: Path) -> None:
    samples = dict(np.load(keras_files / "recurrent.inputs.npz"))
    dims = {"batch": (1, 4), "length": (1, 30)}
    imported = keras("recurrent.keras").check(
        signature({"x": ("float32", ["batch", "length", 6])}, ["last"], dims), samples
    )
    assert imported.json("imported.json")["signature"]["outputs"][0]["shape"] == ["batch", "length", 2]
    expected = np.load(keras_files / "recurrent.answers.npz")["arr_0"]
    np.testing.assert_allclose(imported.arrays("baseline.npz")["last"], expected, atol=1e-5)


def test_texts_are_taken_as_they_are(keras: Open, keras_files: Path) -> None:
    samples = dict(np.load(keras_files / "texts.inputs.npz"))
    imported = keras("texts.keras").check(signature({"text": ("string", ["batch"])}, ["words"]), samples)
    expected = np.load(keras_files / "texts.answers.npz")["arr_0"]
    np.testing.assert_array_equal(imported.arrays("baseline.npz")["words"], expected)
    assert expected.tolist()[0] == [2, 3, 0]


def test_a_file_of_keras_2_answers_and_is_noted(keras: Open, keras_files: Path) -> None:
    imported = keras("keras-2.h5").check(signature(ROWS, ["dense"]), dict(np.load(keras_files / "dense.inputs.npz")))
    expected = np.load(keras_files / "dense.answers.npz")["arr_0"]
    np.testing.assert_allclose(imported.arrays("baseline.npz")["dense"], expected, atol=1e-6)
    assert any("the file was written by Keras 2.15.0" in note for note in imported.summary["notes"])


def test_settings_of_keras_2_without_effect_are_passed_over(keras: Open, keras_files: Path) -> None:
    samples = dict(np.load(keras_files / "layers-of-keras-2.inputs.npz"))
    imported = keras("layers-of-keras-2.h5").check(
        signature({"photo": ("float32", ["batch", 8, 8, 3])}, ["last"]), samples
    )
    expected = np.load(keras_files / "layers-of-keras-2.answers.npz")["arr_0"]
    np.testing.assert_allclose(imported.arrays("baseline.npz")["last"], expected, atol=1e-5)


def test_a_setting_that_keras_does_not_know_is_named_first(keras: Open) -> None:
    error = keras("grouped.h5").refused("E302")
    assert error.cause == "Unrecognized keyword arguments passed to DepthwiseConv2D: {'groups': 2}"
    assert error.remedy.startswith("where Keras 2.12.0 is installed, save it with tf.saved_model.save(model, 'folder')")


def test_the_import_of_the_same_file_is_reproducible(keras: Open) -> None:
    first, second = (keras("two.keras").check(signature(TWO, ["score", "sum"])).folder for _ in range(2))
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) > 10
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_dropout_that_the_author_left_on_is_off_as_in_predict(keras: Open, keras_files: Path) -> None:
    samples = dict(np.load(keras_files / "dropout-left-on.inputs.npz"))
    imported = keras("dropout-left-on.keras").check(signature(ROWS, ["dropped"]), samples)
    np.testing.assert_array_equal(imported.arrays("baseline.npz")["dropped"], samples["x"])


def test_a_model_that_mixes_the_rows_of_a_batch_is_refused(keras: Open) -> None:
    error = keras("mixes-rows.keras").check_refused("E331", WEIGHTS, signature(ROWS, ["subtract"]))
    assert "the other rows of its batch" in error.message


def test_a_layer_that_is_wrong_for_open_sizes_is_found(keras: Open) -> None:
    dims = {"batch": (1, 4), "length": (1, 9)}
    source = keras("step-by-step.keras")
    inputs: Tensors = {"x": ("float32", ["batch", "length", 6])}
    error = source.check_refused("E359", WEIGHTS, signature(inputs, ["steps"], dims))
    assert error.cause == "its shape is [2, 2, 2] instead of [2, 9, 2]"
    assert "declare `length` as a number" in error.remedy
    source.check(signature({"x": ("float32", ["batch", 5, 6])}, ["steps"]))


def test_a_model_with_state_is_refused(keras: Open) -> None:
    declared = signature({"x": ("float32", [2, 3, 2])}, ["lstm"], batch=None)
    error = keras("remembers.keras").check_refused("E332", WEIGHTS, {**declared, "dims": {}})
    assert "one call affects the next" in error.message


def test_unknown_names_are_reported_with_the_existing_ones(keras: Open) -> None:
    two = keras("two.keras")
    wrong: Tensors = {"ids": TWO["ids"], "number": TWO["n"]}
    error = two.check_refused("E320", ("model", "inputs", 1, "name"), signature(wrong, ["sum"]))
    assert "`ids`, `n`" in error.cause
    error = two.check_refused("E324", ("model", "outputs", 1, "name"), signature(TWO, ["sum", "total"]))
    assert "`score`, `sum`" in error.cause
    error = two.check_refused("E320", ("model", "inputs"), signature({"n": TWO["n"]}, ["sum"]))
    assert "`ids`" in error.cause


def test_an_unsupported_shape_is_reported_with_the_given_one(keras: Open) -> None:
    declared = signature({"x": ("float32", ["batch", 5])}, ["dense"])
    error = keras("dense.keras").check_refused("E321", ("model", "inputs"), declared)
    assert "expected shape=(None, 4)" in error.cause
    assert error.notes == ("given: x float32 [8, 5]",)


def test_a_range_that_is_too_wide_is_reported(keras: Open) -> None:
    dims = {"batch": (1, 4), "length": (1, 9)}
    name = keras("at-least-three.keras").inspect()["outputs"][0]["tensor"]
    declared = signature({"x": ("float32", ["batch", "length", 2])}, [name], dims)
    error = keras("at-least-three.keras").check_refused("E322", ("model", "dims", "length"), declared)
    assert "1 to 9" in error.message


@pytest.mark.parametrize(
    ("file", "names", "way_out"),
    [
        ("lambda.keras", "`twice` (Lambda)", "keras.ops"),
        ("lambda.h5", "`twice` (Lambda)", "keras.ops"),
        ("nested-lambda.keras", "`hidden` (Lambda)", "keras.ops"),
        ("custom-layer.keras", "`own` is of the custom class `mine>Custom`", "kind: saved-model"),
        ("custom-layer.h5", "`own` is of the custom class `mine>Custom`", "kind: saved-model"),
        ("tfsm.keras", "`dense` (TFSMLayer) loads a SavedModel", "kind: saved-model"),
        ("foreign-class.keras", "the class `os.system`", "kind: saved-model"),
        ("foreign-function.keras", "the function `os.system`", "kind: saved-model"),
        ("get-file.keras", "the function `keras.utils.get_file`", "kind: saved-model"),
        ("feature-space.keras", "the class `keras.utils.FeatureSpace`", "kind: saved-model"),
    ],
)
def test_code_is_refused_by_the_layers_name(keras: Open, file: str, names: str, way_out: str) -> None:
    error = keras(file).refused("E303")
    assert names in error.message
    assert way_out in error.remedy


def test_a_function_that_keras_does_not_have_is_refused_by_name(keras: Open) -> None:
    error = keras("custom-function.keras").refused("E303")
    assert error.cause == "Could not locate function 'custom_function'"


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("vocabulary-path.keras", "/etc/passwd"),
        ("vocabulary-url.keras", "gs://bucket/words.txt"),
        ("external-link.h5", "/model_weights/stolen"),
    ],
)
def test_files_elsewhere_are_refused(keras: Open, file: str, names: str) -> None:
    assert names in keras(file).refused("E354").cause


def test_refusing_needs_no_tensorflow(keras_files: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from orchestrator.frameworks.tensorflow.keras_scan import check_keras_file\n"
        "from orchestrator.steps.context import StepError\n"
        "try: check_keras_file(pathlib.Path(sys.argv[1]))\n"
        "except StepError as error: print(error.code)\n"
        "print(sorted({'tensorflow', 'keras', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, keras_files / "lambda.keras"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["E303", "[]"]


def test_weights_without_a_model_are_reported(keras: Open) -> None:
    error = keras("only.weights.h5").refused("E355")
    assert "only weights" in error.message
    assert "model.save(" in error.remedy


def test_a_model_without_inputs_is_reported(keras: Open) -> None:
    assert "keras.Input" in keras("no-inputs.keras").refused("E357").remedy


def test_a_sparse_input_is_reported(keras: Open) -> None:
    assert "`x` is a sparse tensor" in keras("sparse.keras").refused("E358").message


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("kept", [0.3, 0.95])
def test_a_file_that_is_cut_short_is_reported(
    keras: Open, keras_files: Path, tmp_path: Path, ending: str, kept: float
) -> None:
    content = (keras_files / f"two.{ending}").read_bytes()
    short = tmp_path / f"short.{ending}"
    short.write_bytes(content[: int(len(content) * kept)])
    # What a zip archive holds stands at its end: without that nothing says that it is a Keras model.
    keras(short).refused("E301" if ending == "keras" else "E302")


def test_an_archive_without_its_weights_is_reported(keras: Open, keras_files: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(keras_files / "two.keras") as old, zipfile.ZipFile(tmp_path / "less.keras", "w") as new:
        for name in ("config.json", "metadata.json"):
            new.writestr(name, old.read(name))
    assert "model.weights.h5" in keras(tmp_path / "less.keras").refused("E302").cause


def test_an_archive_whose_configuration_is_not_json_is_refused(keras: Open, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bad.keras", "w") as new:
        new.writestr("config.json", "{" + "[" * 100_000)
        new.writestr("metadata.json", "{}")
    assert keras(tmp_path / "bad.keras").refused("E302").cause


def test_an_archive_that_unpacks_to_too_much_is_refused(keras: Open, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.keras"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        new.writestr("metadata.json", "{}")
        with new.open("config.json", "w") as entry:
            for _ in range(260):
                entry.write(b" " * 2**20)
    assert bomb.stat().st_size < 2**21
    assert keras(bomb).refused("E302").cause == "the entry `config.json` unpacks to 260 MiB"


def test_an_entry_that_leads_out_of_the_archive_is_refused(keras: Open, keras_files: Path, tmp_path: Path) -> None:
    shutil.copy(keras_files / "two.keras", tmp_path / "out.keras")
    with zipfile.ZipFile(tmp_path / "out.keras", "a") as archive:
        archive.writestr("assets/../../escaped.txt", "")
    assert "points outside the archive" in keras(tmp_path / "out.keras").refused("E302").cause


def test_a_file_of_another_kind_is_reported(keras: Open, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"")
    assert keras(tmp_path / "model").refused("E301").remedy == "write `kind: saved-model`"
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("model/data.pkl", b"")
    error = keras(tmp_path / "model.keras").refused("E301")
    assert "a PyTorch checkpoint" in error.cause
    assert "kind: pytorch" in error.remedy
    (tmp_path / "notes.h5").write_text("hello")
    assert "a text file" in keras(tmp_path / "notes.h5").refused("E301").cause
    assert "there is no `gone.keras`" in keras(tmp_path / "gone.keras").refused("E301").cause


def test_the_users_keras_settings_have_no_effect(keras_files: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".keras").mkdir(parents=True)
    settings = {"floatx": "float64", "backend": "torch", "image_data_format": "channels_first", "epsilon": 1e-7}
    (home / ".keras" / "keras.json").write_text(json.dumps(settings))
    process = StepProcess(tmp_path, HOME=str(home))
    found = Source(process, "keras", keras_files / "images.keras", {}).inspect()
    process.close()
    assert found["outputs"][0]["dtype"] == "float32"
    assert "channels last" in found["notes"][0]["text"]
    assert [path.name for path in (home / ".keras").iterdir()] == ["keras.json"]
