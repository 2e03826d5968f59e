"""SavedModels: what is read from them, what is verified, and what a served graph may not contain."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.frameworks.step_process import StepProcess
from tests.frameworks.tensorflow.source_steps import WEIGHTS, Source, Tensors, signature

pytestmark = pytest.mark.frameworks

Open = Callable[..., Source]
ROWS: Tensors = {"x": ("float32", ["batch", 4])}
SIGNATURE = ("model", "source", "signature")


@pytest.fixture(scope="module")
def saved(tensorflow: StepProcess, saved_models: Path) -> Open:
    """Opens one of the built folders, or another."""

    def opened(folder: str | Path, name: str | None = None) -> Source:
        return Source(tensorflow, "saved-model", saved_models / folder, {"signature": name} if name else {})

    return opened


@pytest.fixture
def copied(saved: Open, saved_models: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of one of the built folders, to do something to."""

    def copy(name: str) -> Path:
        shutil.copytree(saved_models / name, tmp_path / "copy")
        return tmp_path / "copy"

    return copy


def test_the_tensors_of_the_default_signature_are_found(saved: Open) -> None:
    found = saved("two").inspect()
    assert found["inputs"] == [
        {"tensor": "kind", "dtype": "int64", "shape": [None]},
        {"tensor": "x", "dtype": "float32", "shape": [None, 4]},
    ]
    assert found["outputs"] == [
        {"tensor": "best", "dtype": "int64", "shape": [None]},
        {"tensor": "logits", "dtype": "float32", "shape": [None, 3]},
    ]
    assert [note["text"] for note in found["notes"]] == [
        "the signature `serving_default` is served; the others are not: `project`"
    ]


def test_the_tensors_of_a_named_signature_are_found(saved: Open) -> None:
    assert [tensor["tensor"] for tensor in saved("two", "project").inspect()["outputs"]] == ["projected"]


def test_what_keras_exports_is_read(saved: Open) -> None:
    found = saved("keras").inspect()
    assert (found["inputs"][0]["tensor"], found["inputs"][0]["shape"]) == ("image", [None, 8, 8, 1])
    assert found["notes"] == []  # Keras writes the same signature under two names


def test_an_unknown_signature_is_reported_with_the_existing_ones(saved: Open) -> None:
    error = saved("two", "classify").refused("E350", SIGNATURE)
    assert error.cause == "its signatures are `project`, `serving_default`"
    assert saved("other-name").refused("E350", SIGNATURE).remedy == "write `signature: predict`"


def test_a_model_without_signatures_is_refused_with_how_to_add_one(saved: Open) -> None:
    error = saved("callable").refused("E351")
    assert "tf.saved_model.save(model, 'new', signatures=" in error.remedy


def test_several_inputs_and_outputs_of_several_types_are_answered(saved: Open) -> None:
    names = {"inputs": {"features": "x", "kind": "kind"}, "outputs": {"scores": "logits", "best": "best"}}
    inputs: Tensors = {"features": ROWS["x"], "kind": ("int64", ["batch"])}
    random = np.random.default_rng(0)
    samples = {"features": random.standard_normal((6, 4)).astype(np.float32), "kind": np.array([0, 9, 3, 3, 1, 0])}
    imported = saved("two").check(signature(inputs, ["scores", "best"]), samples, names)
    weights, table = np.arange(12, dtype=np.float32).reshape(4, 3) / 10, np.arange(10, dtype=np.float32) / 5
    expected = samples["features"] @ weights + table[samples["kind"]][:, None]
    recorded = imported.arrays("baseline.npz")
    np.testing.assert_allclose(recorded["scores"], expected, atol=1e-5)
    np.testing.assert_array_equal(recorded["best"], expected.argmax(axis=1))
    resolved = imported.json("imported.json")["signature"]
    assert [(t["name"], t["dtype"]) for t in resolved["outputs"]] == [("scores", "float32"), ("best", "int64")]
    assert imported.summary["parameters"] == 22
    answers, facts = saved("two").baseline(resolved, samples, names)
    np.testing.assert_allclose(answers["scores"], expected, atol=1e-5)
    assert facts["runtime"] == "saved-model"


SCALED: Tensors = {"x": ROWS["x"], "factor": ("float32", [])}


def test_a_model_that_was_saved_with_its_optimizer_is_answered(saved: Open) -> None:
    samples = {"x": np.eye(4, dtype=np.float32), "factor": np.array(2, np.float32)}
    imported = saved("trained").check(signature(SCALED, ["y"], batch=None))
    assert imported.summary["parameters"] == 12  # of the model, without the optimizer's
    resolved = imported.json("imported.json")["signature"]
    answers, _ = saved("trained").baseline(resolved, samples)
    np.testing.assert_array_equal(answers["y"], 2 * np.arange(12, dtype=np.float32).reshape(4, 3))


def test_another_signature_of_a_trained_model_finds_its_vocabulary(saved: Open) -> None:
    samples = {"word": np.array(["green", "red", "blau"])}
    imported = saved("trained", "look_up").check(signature({"word": ("string", ["batch"])}, ["number"]), samples)
    assert imported.arrays("baseline.npz")["number"].tolist() == [1, 0, -1]


@pytest.mark.parametrize("name", ["old-parsed", "old-parsed-wrongly"])
def test_a_graph_begins_at_the_inputs_of_its_signature(saved: Open, name: str) -> None:
    imported = saved(name).check(signature(ROWS, ["y"]), {"x": np.eye(4, dtype=np.float32)})
    np.testing.assert_array_equal(imported.arrays("baseline.npz")["y"], 2 * np.eye(4))


def test_an_output_may_be_a_variable_of_tensorflow_1(saved: Open) -> None:
    x = np.eye(4, dtype=np.float32)
    resolved = signature(ROWS, ["y", "weights"])
    answers, _ = saved("old-output").baseline(resolved, {"x": x})
    np.testing.assert_array_equal(answers["weights"], np.ones((4, 3)))
    assert [each["dtype"] for each in saved("old-output").inspect()["outputs"]] == ["float32", "float32"]


def test_a_function_that_nothing_calls_may_do_anything(saved: Open) -> None:
    saved("dead-function").check(signature(ROWS, ["y"]))


@pytest.mark.parametrize("name", ["old-reference", "old-resource"])
def test_models_of_tensorflow_1_are_answered(saved: Open, name: str) -> None:
    names = {"inputs": {"x": "input:0/x", "scale": "scale"}, "outputs": {"scores": "scores", "best": "best"}}
    inputs: Tensors = {"x": ROWS["x"], "scale": ("int32", ["batch"])}
    samples = {"x": np.eye(4, dtype=np.float32), "scale": np.array([1, 2, 3, 0], np.int32)}
    imported = saved(name).check(signature(inputs, ["scores", "best"]), samples, names)
    weights = np.arange(12, dtype=np.float32).reshape(4, 3)
    expected = weights * samples["scale"][:, None]
    np.testing.assert_array_equal(imported.arrays("baseline.npz")["scores"], expected)
    assert imported.summary["parameters"] == 12
    assert any("the format of TensorFlow 1" in note for note in imported.summary["notes"])


def test_a_frozen_graph_of_tensorflow_1_needs_no_variables(saved: Open) -> None:
    imported = saved("old-frozen").check(signature(ROWS, ["y"]), {"x": np.eye(4, dtype=np.float32)})
    assert (imported.arrays("baseline.npz")["y"] == 1).all()
    assert imported.summary["parameters"] == 12


def test_a_module_of_tensorflow_hub_without_tags_is_read(saved: Open) -> None:
    assert saved("old-hub").refused("E350", SIGNATURE).remedy == "write `signature: default`"
    saved("old-hub", "default").check(signature(ROWS, ["y"]))


@pytest.mark.parametrize("name", ["words", "old-table"])
def test_texts_are_looked_up_in_a_vocabulary_of_the_models_own(saved: Open, name: str) -> None:
    outputs = ["number", "shout"] if name == "words" else ["number"]
    samples = {"word": np.array(["green", "red", "blau", "grün"])}
    imported = saved(name).check(signature({"word": ("string", ["batch"])}, outputs), samples)
    recorded = imported.arrays("baseline.npz")
    assert recorded["number"].tolist() == [1, 0, -1, -1]
    if name == "words":
        assert recorded["shout"].tolist()[:3] == ["GREEN", "RED", "BLAU"]
        assert imported.json("imported.json")["signature"]["outputs"][1]["dtype"] == "string"


@pytest.mark.parametrize("name", ["prints", "loops"])
def test_control_flow_and_printing_to_the_log_are_allowed(saved: Open, name: str) -> None:
    saved(name).check(signature(ROWS, ["y"]))


def test_bfloat16_is_answered_as_float32(saved: Open) -> None:
    imported = saved("bfloat16").check(signature(ROWS, ["y"]))
    assert imported.json("imported.json")["signature"]["outputs"][0]["dtype"] == "float32"


@pytest.mark.parametrize(
    ("name", "operator", "effect"),
    [
        ("py-function", "EagerPyFunc", "calls a function of the Python process"),
        ("numpy-function", "PyFunc", "calls a function of the Python process"),
        ("py-function-in-loop", "EagerPyFunc", "calls a function of the Python process"),
        ("reads", "ReadFile", "reads files"),
        ("matches", "MatchingFiles", "reads files"),
        ("record-dataset", "TFRecordDataset", "reads files"),
        ("restores", "RestoreV2", "reads files"),
        ("restores-elsewhere", "RestoreV2", "reads files"),
        ("table-elsewhere", "InitializeTableFromTextFileV2", "reads files"),
        ("writes", "WriteFile", "writes files"),
        ("prints-to-file", "PrintV2", "writes files"),
        ("saves", "SaveV2", "writes files"),
        ("saver-writes", "SaveV2", "writes files"),
    ],
)
def test_what_does_more_than_compute_is_refused_by_name(saved: Open, name: str, operator: str, effect: str) -> None:
    error = saved(name).refused("E353")
    assert f"`{operator}`" in error.message
    assert effect in error.message
    assert error.cause.startswith("it is the node `")


def test_the_node_is_named_with_its_function(saved: Open) -> None:
    assert (
        saved("py-function-in-loop")
        .refused("E353")
        .cause.startswith("it is the node `map/while/EagerPyFunc` of the function `map_while_body_")
    )


def test_signatures_that_are_not_served_are_scanned_too(saved: Open) -> None:
    assert "`ReadFile`" in saved("refused-elsewhere").refused("E353").message


def test_an_operator_that_is_not_tensorflows_is_named(saved: Open) -> None:
    error = saved("foreign-operator").refused("E356")
    assert "`RegexSplitWithOffsets`" in error.message


def test_a_sparse_input_is_reported(saved: Open) -> None:
    assert "`x` is a sparse tensor" in saved("sparse").refused("E358", SIGNATURE).message


def test_an_asset_outside_the_folder_is_refused(saved: Open) -> None:
    assert "../../../etc/passwd" in saved("asset-elsewhere").refused("E354").message


def test_a_missing_asset_is_reported(saved: Open, copied: Callable[[str], Path]) -> None:
    folder = copied("words")
    (folder / "assets" / "words.txt").unlink()
    assert "words.txt" in saved(folder).refused("E352").message


@pytest.mark.parametrize("name", ["two", "old-reference"])
def test_missing_variables_are_reported(saved: Open, copied: Callable[[str], Path], name: str) -> None:
    folder = copied(name)
    (folder / "variables" / "variables.data-00000-of-00001").unlink()
    assert "variables.data-00000-of-00001" in saved(folder).refused("E352").cause
    (folder / "variables" / "variables.index").unlink()
    assert "variables.index" in saved(folder).refused("E352").cause
    (folder / "variables").rmdir()
    assert "the folder `variables` is missing" in saved(folder).refused("E352").cause


def test_a_graph_that_is_cut_short_is_reported(saved: Open, copied: Callable[[str], Path]) -> None:
    folder = copied("two")
    content = (folder / "saved_model.pb").read_bytes()
    for kept in (0, 100, len(content) // 2, len(content) - 3):
        (folder / "saved_model.pb").write_bytes(content[:kept])
        assert "saved_model.pb is damaged" in saved(folder).refused("E302").message


def test_variables_that_are_cut_short_are_reported(saved: Open, copied: Callable[[str], Path]) -> None:
    folder = copied("two")
    data = folder / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:20])
    inputs: Tensors = {"x": ROWS["x"], "kind": ("int64", ["batch"])}
    error = saved(folder).check_refused("E302", WEIGHTS, signature(inputs, ["logits"]))
    assert "copy the whole folder again" in error.remedy


def test_variables_of_another_model_are_noted(saved: Open, saved_models: Path, copied: Callable[[str], Path]) -> None:
    folder = copied("two")
    for part in ("variables.index", "variables.data-00000-of-00001"):
        shutil.copy(saved_models / "keras" / "variables" / part, folder / "variables" / part)
    notes = [note["text"] for note in saved(folder).inspect()["notes"]]
    assert "the variables in the folder do not match its fingerprint.pb" in notes
    (folder / "fingerprint.pb").write_bytes(b"\xff")
    assert any("its fingerprint.pb cannot be read" in note["text"] for note in saved(folder).inspect()["notes"])
    (folder / "fingerprint.pb").unlink()
    assert not any("fingerprint" in note["text"] for note in saved(folder).inspect()["notes"])


def test_links_are_refused(saved: Open, copied: Callable[[str], Path]) -> None:
    folder = copied("words")
    (folder / "assets" / "more.txt").symlink_to("/etc/passwd")
    error = saved(folder).refused("E354")
    assert error.message == "`assets/more.txt` is a link"


def test_another_kind_of_folder_or_file_is_reported(saved: Open, tmp_path: Path) -> None:
    assert "a folder" in saved(tmp_path).refused("E301").cause
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07\x12\x04test:\x00")
    assert "kind: saved-model" in saved(tmp_path / "model.onnx").refused("E301").message
    assert "there is no `gone`" in saved(tmp_path / "gone").refused("E301").cause


def test_a_model_that_draws_random_numbers_is_refused(saved: Open) -> None:
    error = saved("random").check_refused("E330", WEIGHTS, signature(ROWS, ["y"]))
    assert "`RandomStandardNormal`" in error.cause


def test_a_model_that_mixes_the_rows_of_a_batch_is_refused(saved: Open) -> None:
    saved("mixes").check_refused("E331", WEIGHTS, signature(ROWS, ["y"]))


def test_a_model_with_state_is_refused(saved: Open) -> None:
    error = saved("counter").check_refused("E332", WEIGHTS, signature(ROWS, ["y"]))
    assert "in a variable between calls" in error.cause


def test_unknown_names_are_reported_with_the_existing_ones(saved: Open) -> None:
    wrong: Tensors = {"rows": ROWS["x"]}
    error = saved("loops").check_refused("E320", ("model", "inputs", 0, "name"), signature(wrong, ["y"]))
    assert "its inputs are `x`" in error.cause
    saved("loops").check_refused("E324", ("model", "outputs", 0, "name"), signature(ROWS, ["z"]))


def test_a_type_or_a_shape_that_the_model_does_not_take_is_reported(saved: Open) -> None:
    shape: Tensors = {"x": ("float32", ["batch", 5])}
    error = saved("old-frozen").check_refused("E321", ("model", "inputs"), signature(shape, ["y"]))
    assert error.notes == ("given: x float32 [8, 5]",)
    dtype: Tensors = {"x": ("float64", ["batch", 4])}
    saved("old-frozen").check_refused("E321", ("model", "inputs"), signature(dtype, ["y"]))


def test_a_range_that_is_too_wide_is_reported(saved: Open) -> None:
    error = saved("gathers").check_refused("E322", ("model", "dims", "batch"), signature(ROWS, ["y"]))
    assert "1 to 8" in error.message
