"""Running SavedModels that were converted: by the spec's names, in every type, on the threads that are given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.steps.context import StepError
from tests.frameworks.step_process import StepProcess
from tests.frameworks.tensorflow.source_steps import Tensors, signature

pytestmark = pytest.mark.frameworks

OPENER = "tensorflow.runtime:open_saved_model"
INPUTS: Tensors = {"word": ("string", ["batch"]), "row.x": ("float32", ["batch", 4]), "ids": ("int32", ["batch"])}
RESOLVED = signature(INPUTS, ["said", "total.sum", "small"])
CALL = {
    "row.x": np.eye(4, dtype=np.float32)[:3],
    "ids": np.array([1, 2, 3], np.int32),
    "word": np.array(["grün", "", "a longer word"]),
}


def test_a_variant_answers_by_the_names_of_the_spec(tensorflow: StepProcess, saved_models: Path) -> None:
    arguments = {"directory": saved_models / "variant", "signature": RESOLVED, "threads": 1}
    answers, facts = tensorflow.call(OPENER, arguments, CALL)
    assert list(answers) == ["said", "total.sum", "small"]
    np.testing.assert_array_equal(answers["total.sum"], [[2, 2], [3, 3], [4, 4]])
    assert answers["said"].tolist() == ["grün!", "!", "a longer word!"]
    assert answers["small"].dtype == np.float32  # bfloat16 inside
    assert (facts["runtime"], list(facts["versions"])) == ("tensorflow", ["tensorflow"])


def test_the_first_requested_number_of_threads_is_used(tmp_path: Path, saved_models: Path) -> None:
    process = StepProcess(tmp_path)
    arguments = {"directory": saved_models / "variant", "signature": RESOLVED}
    first, later = (process.call(OPENER, {**arguments, "threads": threads}, CALL)[1] for threads in (1, 2))
    process.close()
    # TensorFlow accepts the number once; the number in effect is reported, not the requested one.
    assert (first["threads"], later["threads"]) == (1, 1)


def test_missing_files_and_tensors_are_reported(tensorflow: StepProcess, saved_models: Path, tmp_path: Path) -> None:
    wrong = signature(INPUTS, ["nothing"])
    for directory, resolved, cause in (
        (tmp_path, RESOLVED, "SavedModel file does not exist"),
        (saved_models / "variant", wrong, "the model has no output `nothing`"),
    ):
        with pytest.raises(StepError, match="SavedModel") as caught:
            tensorflow.call(OPENER, {"directory": directory, "signature": resolved, "threads": 1}, CALL)
        assert caught.value.code == "E420"
        assert cause in caught.value.cause
