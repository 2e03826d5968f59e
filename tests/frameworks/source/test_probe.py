"""What `mlo init` finds out by calling a model: sizes, multiples, equal dimensions, ids, and numbers that are compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.artifacts.probed import Probed
from orchestrator.frameworks.source.probe import found_by_calls
from orchestrator.frameworks.source.samples import Array, IntegerRange
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepContext, StepError
from orchestrator.steps.parameters import ProbeParameters, SourceParameters

Model = Callable[[Mapping[str, Array]], Any]
"""What numpy computes is not typed."""

IMAGE = Tensor("image", "float32", ("batch", 3, "height", "width"))
SOUND = Tensor("sound", "float32", ("batch", "samples"))


def probed(
    inputs: Sequence[Tensor],
    dims: Mapping[str, tuple[int, int]],
    model: Model,
    *,
    batch: str | None = "batch",
    shown: Mapping[str, IntegerRange] | None = None,
    compared: Mapping[str, Sequence[int]] | None = None,
    stated: tuple[str, ...] = (),
    outputs: tuple[int | str, ...] | None = None,
    multiples: Mapping[str, int] | None = None,
) -> Probed:
    signature = Signature(tuple(inputs), (Tensor("y", "float32", outputs),), dims, batch, multiples or {})
    context = StepContext({}, {}, Path(), Path(), Path())

    def answer(inputs: Mapping[str, Array], dim: str | None = None) -> dict[str, Array]:
        del dim
        return {"y": model(inputs)}

    parameters = ProbeParameters(SourceParameters("onnx"), signature, stated)
    return found_by_calls(context, parameters, answer, shown or {}, compared or {})


def refuse(reason: str) -> StepError:
    return StepError("E321", "the model does not accept the declared inputs", cause=reason)


def sizes(found: Probed, name: str) -> tuple[int, int, int]:
    dim = found.dims[name]
    return dim.low, dim.high, dim.step


def detector(given: Mapping[str, Array]) -> Any:
    """As one whose feature maps are halved five times, enlarged again and added."""
    image = given["image"]
    if image.shape[2] % 32 or image.shape[3] % 32:
        raise refuse("Concat: dimensions do not match")
    return image.mean(axis=(1, 2, 3))[:, None]


def test_height_and_width_that_must_be_multiples_of_a_stride() -> None:
    found = probed([IMAGE], {"batch": (1, 64), "height": (1, 128), "width": (1, 128)}, detector)
    assert sizes(found, "height") == sizes(found, "width") == (32, 640, 32)
    assert sizes(found, "batch")[:2] == (1, sizes(found, "batch")[1])
    assert "a multiple of 32; 33 fails: Concat: dimensions do not match" in found.dims["height"].reason
    assert not found.questions


def test_the_shortest_sound_that_reflection_padding_takes() -> None:
    def model(given: Mapping[str, Array]) -> Any:
        if given["sound"].shape[1] < 190:
            raise refuse("Pad: reflection is longer than the input")
        return given["sound"].sum(axis=1, keepdims=True)

    found = probed([SOUND], {"batch": (1, 64), "samples": (1, 128)}, model)
    assert sizes(found, "samples") == (190, 760, 1)
    assert "189 fails: Pad: reflection is longer than the input" in found.dims["samples"].reason


def test_the_longest_text_of_a_table_of_positions() -> None:
    def model(given: Mapping[str, Array]) -> Any:
        if given["sound"].shape[1] > 77:
            raise refuse("Gather: 77 is out of range")
        return given["sound"].sum(axis=1, keepdims=True)

    assert sizes(probed([SOUND], {"batch": (1, 64), "samples": (1, 128)}, model), "samples") == (1, 77, 1)


def test_dimensions_without_names_that_are_the_same_become_one() -> None:
    inputs = [Tensor("sound", "float32", ("sound_0", 8)), Tensor("state", "float32", (2, "state_1", 4))]

    def model(given: Mapping[str, Array]) -> Any:
        if given["sound"].shape[0] != given["state"].shape[1]:
            raise refuse("LSTM: initial_h has another batch")
        return given["sound"] * 2

    found = probed(inputs, {"sound_0": (1, 128), "state_1": (1, 128)}, model, batch=None)
    assert found.dims["state_1"].same_as == "sound_0"
    assert sizes(found, "sound_0") == (1, 128, 1)


def test_a_model_that_takes_one_row_only() -> None:
    def model(given: Mapping[str, Array]) -> Any:
        if len(given["sound"]) != 1:
            raise refuse("Reshape: cannot be reshaped to {1,20}")
        return given["sound"].sum(axis=1, keepdims=True)

    found = probed([SOUND], {"batch": (1, 64), "samples": (1, 128)}, model)
    assert sizes(found, "batch") == (1, 1, 1)
    assert "Reshape" in found.dims["batch"].reason


def test_rows_that_depend_on_each_other_are_not_batched() -> None:
    def model(given: Mapping[str, Array]) -> Any:
        return given["sound"].mean(axis=1, keepdims=True) * np.abs(given["sound"]).max()

    found = probed([SOUND], {"batch": (1, 64), "samples": (1, 128)}, model)
    assert sizes(found, "batch") == (1, 1, 1)
    assert "depends on the other rows" in found.dims["batch"].reason


def test_sizes_that_no_range_can_say_are_a_question() -> None:
    def model(given: Mapping[str, Array]) -> Any:
        if given["sound"].shape[1] % 8 != 1:
            raise refuse("not 8k+1")
        return given["sound"].sum(axis=1, keepdims=True)

    found = probed([SOUND], {"batch": (1, 64), "samples": (1, 128)}, model)
    assert found.dims["samples"].low == found.dims["samples"].high
    assert any("`samples` may be" in question for question in found.questions)


def test_a_range_that_the_model_states_is_kept() -> None:
    found = probed(
        [SOUND], {"batch": (2, 8), "samples": (5, 9)}, lambda given: given["sound"], stated=("batch", "samples")
    )
    assert sizes(found, "batch") == (2, 8, 1)
    assert sizes(found, "samples") == (5, 9, 1)


def test_multiples_that_the_model_states_are_kept() -> None:
    def model(given: Mapping[str, Array]) -> Any:
        if given["sound"].shape[1] % 12:
            raise refuse("Reshape: 12 does not divide it")
        return given["sound"]

    found = probed(
        [SOUND], {"batch": (1, 8), "samples": (24, 96)}, model, stated=("samples",), multiples={"samples": 12}
    )
    assert sizes(found, "samples") == (24, 96, 12)
    assert found.questions == ()


def test_of_an_open_range_only_the_multiples_that_the_model_states_are_tried() -> None:
    tried = set()

    def model(given: Mapping[str, Array]) -> Any:
        tried.add(given["sound"].shape[1])
        return given["sound"]

    found = probed([SOUND], {"batch": (1, 8), "samples": (12, 120)}, model, multiples={"samples": 12})
    assert sizes(found, "samples") == (12, 120, 12)
    assert "as the model states" in found.dims["samples"].reason
    assert all(size % 12 == 0 for size in tried)


def test_a_model_that_takes_nothing_that_was_tried_is_a_question() -> None:
    def model(given: Mapping[str, Array]) -> Any:
        raise refuse("Add: 3 by 7")

    found = probed([SOUND], {"batch": (1, 64), "samples": (1, 128)}, model)
    assert found.dims == {}
    assert found.questions == ("no inputs were found that the model takes: Add: 3 by 7; give their sizes and values",)


@pytest.mark.parametrize(
    ("takes", "shown", "expected"),
    [
        (lambda n: (n >= 0) & (n < 257), {"bytes": IntegerRange(0, 256)}, (0, 256)),
        (lambda n: (n >= -160) & (n < 160), {}, (0, 159)),
        (lambda n: (n >= 0) & (n < 50), {}, (0, 49)),
    ],
)
def test_the_ids_that_a_table_has(
    takes: Callable[[Array], Array], shown: Mapping[str, IntegerRange], expected: tuple[int, int]
) -> None:
    def model(given: Mapping[str, Array]) -> Any:
        if not takes(given["bytes"]).all():
            raise refuse("indices element out of bounds")
        return given["bytes"].astype(np.float32)

    found = probed([Tensor("bytes", "int32", ("batch", 16))], {"batch": (1, 64)}, model, shown=shown)
    assert found.inputs["bytes"].range == expected
    assert not found.inputs["bytes"].question


def test_integers_of_which_nothing_is_known_are_a_question() -> None:
    found = probed(
        [Tensor("n", "int64", ("batch", 3))], {"batch": (1, 64)}, lambda given: given["n"].astype(np.float32)
    )
    assert found.inputs["n"].range is None
    assert found.inputs["n"].question
    assert found.inputs["n"].reason == (
        "what its integers mean is unknown: give `range: [SMALLEST, LARGEST]`, or real `samples`; until then random ones go from "
        "-1,000,000 to 1,000,000, which all work"
    )


def test_a_number_that_the_graph_compares_is_given_with_a_question_for_the_others() -> None:
    inputs = [SOUND, Tensor("rate", "int64", ())]
    heard: list[Array] = []

    def model(given: Mapping[str, Array]) -> Any:
        heard.append(given["rate"])
        if given["rate"] != 16000 and given["sound"].shape[1] > 300:
            raise refuse("8 kHz only")
        return given["sound"].sum(axis=1, keepdims=True)

    found = probed(inputs, {"batch": (1, 64), "samples": (1, 128)}, model, batch=None, compared={"rate": [16000]})
    assert found.inputs["rate"].values == (16000,)
    assert found.inputs["rate"].question
    assert {type(rate) for rate in heard} == {np.ndarray}
    assert {rate.shape for rate in heard} == {()}


def test_sizes_work_with_every_compared_number() -> None:
    inputs = [SOUND, Tensor("rate", "int64", ())]

    def model(given: Mapping[str, Array]) -> Any:
        if given["sound"].shape[1] < (40 if given["rate"] == 16000 else 20):
            raise refuse("too short")
        return given["sound"].sum(axis=1, keepdims=True)

    found = probed(inputs, {"batch": (1, 64), "samples": (1, 128)}, model, batch=None, compared={"rate": [8000, 16000]})
    assert found.inputs["rate"].values == (8000, 16000)
    assert sizes(found, "samples")[0] == 40


def test_a_call_that_leaves_no_output_is_no_size_that_works() -> None:
    found = probed(
        [SOUND], {"batch": (1, 64), "samples": (1, 128)}, lambda given: given["sound"][:, 9:].repeat(2, axis=1)
    )
    assert sizes(found, "samples") == (10, 128, 1)


def test_a_number_that_changes_no_output_is_no_question() -> None:
    inputs = [SOUND, Tensor("rate", "int64", ())]
    found = probed(
        inputs,
        {"batch": (1, 64), "samples": (1, 128)},
        lambda given: given["sound"].sum(axis=1, keepdims=True) + 0 * given["rate"],
        batch=None,
    )
    assert not found.inputs["rate"].question
    assert "none of the integers that were tried changes an output" in found.inputs["rate"].reason


def test_an_output_that_the_file_states_wrongly() -> None:
    found = probed(
        [SOUND],
        {"batch": (1, 64), "samples": (1, 128)},
        lambda given: np.repeat(given["sound"].sum(axis=1), 4),
        outputs=("batch",),
    )
    assert found.misdeclared == {"y": "dimension 0 is 4 where `batch` is 1, but `batch` is declared"}


def test_an_output_that_the_file_states_rightly_by_another_name_of_the_same_size() -> None:
    inputs = [Tensor("sound", "float32", ("sound_0", 8)), Tensor("state", "float32", (2, "state_1", 4))]

    def model(given: Mapping[str, Array]) -> Any:
        if given["sound"].shape[0] != given["state"].shape[1]:
            raise refuse("LSTM: initial_h has another batch")
        return given["sound"] * 2

    found = probed(inputs, {"sound_0": (1, 128), "state_1": (1, 128)}, model, batch=None, outputs=("state_1", 8))
    assert found.dims["state_1"].same_as == "sound_0"
    assert found.misdeclared == {}


def test_an_output_without_a_batch_where_there_is_one_row() -> None:
    found = probed(
        [SOUND],
        {"batch": (1, 64), "samples": (1, 128)},
        lambda given: given["sound"].sum(axis=1).squeeze(),
        outputs=(),
    )
    assert sizes(found, "batch") == (1, 1, 1)
    assert "the number of dimensions of the output `y` is another in larger batches" in found.dims["batch"].reason
    assert found.misdeclared == {}
    assert not found.questions


def test_a_length_that_may_be_more_where_the_inputs_are_larger_is_a_question() -> None:
    inputs = [SOUND, Tensor("lengths", "int64", ("batch",))]

    def model(given: Mapping[str, Array]) -> Any:
        size = given["sound"].shape[1]
        if size < 100:
            raise refuse("too short")
        if (abs(given["lengths"]) > size).any():
            raise refuse("out of bounds")
        return given["sound"].sum(axis=1, keepdims=True)

    found = probed(inputs, {"batch": (1, 64), "samples": (1, 128)}, model).inputs["lengths"]
    assert found.range == (0, 100)
    assert found.question
    assert "up to 100 works with all sizes of the inputs, and more with larger ones" in found.reason


TRACK = Tensor("track", "float32", ("steps", "rows", 3))


def running_sum(given: Mapping[str, Array]) -> Any:
    """As a recurrent network that reads forwards."""
    return given["track"].cumsum(axis=0)


def test_steps_of_a_sequence_are_no_batch() -> None:
    track = Tensor("track", "float32", ("steps", 1, 3))
    found = probed([track], {"steps": (1, 64)}, running_sum, batch="steps")
    assert (found.batch, sizes(found, "steps")) == (None, (1, 64, 1))
    assert found.why_batch == "the order along the first dimension counts for `y`, as in a sequence"


def test_another_dimension_is_the_batch_where_each_is_computed_by_itself() -> None:
    found = probed([TRACK], {"steps": (1, 64), "rows": (1, 64)}, running_sum, batch="steps")
    assert (found.batch, sizes(found, "steps")[:2]) == ("rows", (1, 64))
    assert "along `rows`, each is computed by itself" in found.why_batch


def test_another_dimension_that_mixes_too_is_no_batch() -> None:
    def model(given: Mapping[str, Array]) -> Any:
        return running_sum(given) - given["track"].mean(axis=1, keepdims=True)

    assert probed([TRACK], {"steps": (1, 64), "rows": (1, 64)}, model, batch="steps").batch is None


def test_a_mixed_batch_stays_a_batch() -> None:
    def model(given: Mapping[str, Array]) -> Any:
        return given["track"] - given["track"].mean(axis=0)

    found = probed([TRACK], {"steps": (1, 64), "rows": (1, 64)}, model, batch="steps")
    assert (found.batch, found.why_batch, sizes(found, "steps")) == ("steps", "", (1, 1, 1))
