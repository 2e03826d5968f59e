"""Models of TensorFlow and Keras that are refused: each is read once it is saved again as the message says."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.steps.context import StepError
from tests.frameworks.step_process import StepProcess
from tests.frameworks.tensorflow.source_steps import Source, signature

pytestmark = pytest.mark.frameworks

ROWS = signature({"x": ("float32", ["batch", 4])}, ["y"])


@pytest.fixture
def read(tensorflow: StepProcess, saved_models: Path, keras_files: Path) -> Callable[..., Source]:
    """One of the built models, or another."""

    def opened(weights: str | Path, name: str = "") -> Source:
        place = keras_files if Path(weights).suffix in {".keras", ".h5"} else saved_models
        kind = "keras" if place == keras_files else "saved-model"
        return Source(tensorflow, kind, place / weights, {"signature": name} if name else {})

    return opened


@pytest.fixture
def run(tensorflow: StepProcess) -> Callable[..., Path]:
    """Runs lines of Python in a folder, in which `folder` is that of a model; gives the folder."""

    def ran(lines: str, folder: Path | None = None) -> Path:
        inputs = {} if folder is None else {"folder": folder}
        return tensorflow.step("tests.frameworks.tensorflow.saved_again:run", {"lines": lines}, inputs).folder

    return ran


def refused(source: Source, code: str) -> str:
    """What the refusal says to do."""
    with pytest.raises(StepError) as caught:
        source.inspect()
    assert caught.value.code == code, caught.value.diagnostic
    return caught.value.remedy


@pytest.mark.parametrize(
    ("code", "faulty", "told", "saved_again"),
    [
        (
            "E353",
            "py-function",
            "replace tf.py_function and tf.numpy_function by TensorFlow's own operations",
            "doubles",
        ),
        ("E353", "reads", "let the model take the content as an input", "with-content"),
        ("E353", "writes", "save the model without it", "doubles"),
        ("E354", "asset-elsewhere", "save the model again", "words"),
        ("E354", "external-link.h5", "save the whole model into one file", "two.keras"),
        ("E354", "vocabulary-path.keras", "save the model again after layer.set_vocabulary", "texts.keras"),
        ("E355", "only.weights.h5", "save the whole model: model.save('model.keras')", "dense.keras"),
        ("E356", "foreign-operator", "move what needs it out of the model", "doubles"),
        ("E358", "sparse.keras", "let the model take a plain tensor", "dense.keras"),
        ("E358", "sparse", "such as separate indices and values", "sparse-parts"),
        ("E350", "not-for-serving", "save it with the tag `serve`", "old-frozen"),
    ],
)
def test_a_model_is_read_once_it_is_saved_without_what_was_refused(
    read: Callable[..., Source], code: str, faulty: str, told: str, saved_again: str
) -> None:
    assert told in refused(read(faulty), code)
    read(saved_again).inspect()


def test_the_signature_that_is_named_is_read(read: Callable[..., Source]) -> None:
    told = refused(read("other-name"), "E350")
    (name,) = re.findall(r"write `signature: (\w+)`", told)
    read("other-name", name).inspect()
    told = refused(read("two", "classify"), "E350")
    for name in re.findall(r"`(\w+)`", told.partition("one of")[2]):
        read("two", name).inspect()


@pytest.mark.parametrize("folder", ["callable", "callable-object", "old-unsigned"])
def test_lines_of_python_give_a_model_a_signature(
    read: Callable[..., Source], run: Callable[..., Path], saved_models: Path, folder: str
) -> None:
    told = refused(read(folder), "E351")
    lines = told[told.index(": ") + 2 :].replace("[None, ...]", "[None, 4]")
    made = read(run(lines, saved_models / folder) / "new")
    (taken,), (given,) = made.inspect()["inputs"], made.inspect()["outputs"]
    assert (taken["dtype"], taken["shape"]) == ("float32", [None, 4])
    own = {"inputs": {"x": taken["tensor"]}, "outputs": {"y": given["tensor"]}}
    answers = made.check(ROWS, names=own).arrays("baseline.npz")
    assert answers["y"].any()


@pytest.mark.parametrize("lines", ["keras.Input(shape=(...))", "call it once"])
def test_a_keras_model_gets_inputs_in_either_way(
    read: Callable[..., Source], run: Callable[..., Path], lines: str
) -> None:
    assert lines in refused(read("no-inputs.keras"), "E357")
    first = "keras.Input(shape=(4,)), " if lines.startswith("keras") else ""
    called = "" if first else "model(np.ones((2, 4), np.float32)); "
    made = run(f"model = keras.Sequential([{first}keras.layers.Dense(3)]); {called}model.save('model.keras')")
    assert read(made / "model.keras").inspect()["inputs"][0]["shape"][1:] == [4]


def test_code_in_a_keras_file_is_exported_as_operations(read: Callable[..., Source], run: Callable[..., Path]) -> None:
    told = refused(read("lambda.keras"), "E303")
    assert "model.export('folder'), and write `kind: saved-model`" in told
    made = run(
        "x = keras.Input((4,), name='x'); model = keras.Model(x, keras.layers.Lambda(lambda x: x * 2)(x)); "
        "model.export('folder')"
    )
    read(made / "folder").inspect()


def test_what_is_missing_in_a_folder_is_copied(read: Callable[..., Source], saved_models: Path, tmp_path: Path) -> None:
    for name, part in (("words", "assets"), ("two", "variables")):
        folder = tmp_path / name
        shutil.copytree(saved_models / name, folder)
        shutil.rmtree(folder / part)
        assert "copy the whole folder" in refused(read(folder), "E352")
        shutil.copytree(saved_models / name, folder, dirs_exist_ok=True)
        read(folder).inspect()


def test_a_link_in_a_folder_is_replaced_by_the_command_that_is_named(
    read: Callable[..., Source], saved_models: Path, tmp_path: Path
) -> None:
    shutil.copytree(saved_models / "words", tmp_path / "model")
    vocabulary = tmp_path / "model" / "assets" / "words.txt"
    vocabulary.rename(tmp_path / "words.txt")
    vocabulary.symlink_to(tmp_path / "words.txt")
    (command, named) = re.findall(r"`([^`]+)`", refused(read(tmp_path / "model"), "E354"))[:2]
    subprocess.run(command.split(), cwd=tmp_path, check=True)
    read(tmp_path / named).inspect()
