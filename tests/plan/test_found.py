"""What was read from a model, joined with what its spec says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts.inspection import Inspection
from orchestrator.errors import SpecInvalid
from orchestrator.plan.found import PlannedModel, planned_model, spec_name
from orchestrator.spec.load import load_spec
from tests.artifacts.made import inspection


def tensor(name: str, shape: list[Any] | None, dtype: str = "float32") -> dict[str, Any]:
    return {"tensor": name, "dtype": dtype, "shape": shape}


def found(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]] | None = None, **more: Any) -> Inspection:
    outputs = outputs if outputs is not None else [tensor("out:0", [None, 10])]
    return inspection({"inputs": inputs, "outputs": outputs, **more})


@pytest.fixture
def join(tmp_path: Path) -> Any:
    def join(document: Inspection, model: str = "") -> PlannedModel:
        (tmp_path / "model.onnx").write_bytes(b"")
        text = "apiVersion: mlo/v1\nkind: ModelDeployment\nmetadata: {name: read}\nmodel:\n"
        text += "  source: {kind: onnx, weights: model.onnx}\n" + model
        (tmp_path / "spec.yaml").write_text(text, encoding="utf-8")
        return planned_model(load_spec(tmp_path / "spec.yaml"), document)

    return join


def refused(join: Any, document: Inspection, model: str = "") -> list[Any]:
    with pytest.raises(SpecInvalid) as caught:
        join(document, model)
    return list(caught.value.diagnostics)


def test_a_common_open_first_dimension_is_the_batch_and_its_assumed_range_is_noted(join: Any) -> None:
    model = join(found([tensor("serving_default_x:0", [None, 8, 8, 1])]))

    assert model.signature.inputs[0].name == "serving_default_x_0"
    assert model.signature.inputs[0].shape == ("batch", 8, 8, 1)
    assert model.signature.outputs[0].shape == ("batch", 10)
    assert model.signature.batch == "batch"
    assert model.signature.dims == {"batch": (1, 64)}
    assert model.names["inputs"] == {"serving_default_x_0": "serving_default_x:0"}
    assert any("1 to 64 is assumed" in note for note in model.notes)


def test_the_models_own_names_of_dimensions_are_kept(join: Any) -> None:
    document = found(
        [tensor("ids", ["N", "Seq-Len"], "int64"), tensor("mask", ["N", "Seq-Len"], "int64")],
        [tensor("hidden", ["N", "Seq-Len", 8])],
        ranges={"Seq-Len": [1, 512]},
    )
    model = join(document, "  dims: {n: {max: 4}}\n")

    assert model.signature.inputs[0].shape == ("n", "seq_len")
    assert model.signature.outputs[0].shape == ("n", "seq_len", 8)
    assert model.signature.dims == {"n": (1, 4), "seq_len": (1, 512)}
    assert model.signature.batch == "n"


def test_inputs_that_share_no_first_dimension_have_no_batch(join: Any) -> None:
    document = found([tensor("x", [1, 8]), tensor("state", [2, 1, 16])], [tensor("y", [1, 3])])
    model = join(document)

    assert model.signature.batch is None
    assert model.signature.dims == {}


def test_an_open_dimension_without_a_range_asks_for_one(join: Any) -> None:
    document = found([tensor("ids", [None, None], "int64")], [tensor("y", [None, None])])

    (told,) = refused(join, document)

    assert told.code == "E127"
    assert "`ids_1`" in told.message
    assert "ids_1: {min: 1, max: 128}" in told.remedy
    model = join(document, "  dims: {ids_1: {min: 2, max: 64}}\n")
    assert model.signature.dims == {"batch": (1, 64), "ids_1": (2, 64)}
    assert model.signature.outputs[0].shape is None, "found by running the model"


def test_an_input_of_unknown_rank_has_to_be_declared(join: Any) -> None:
    document = found([tensor("x", None)])
    assert refused(join, document)[0].code == "E127"
    declared = "  inputs: [{name: x, dtype: float32, shape: [batch, 3]}]\n  dims: {batch: {max: 8}}\n"
    assert join(document, declared).signature.inputs[0].shape == ("batch", 3)


@pytest.mark.parametrize("role", ["inputs", "outputs"])
def test_a_type_that_is_not_served_is_named(join: Any, role: str) -> None:
    strange = [tensor("z", [None, 2], "complex64")]
    document = found(strange) if role == "inputs" else found([tensor("x", [None, 2])], strange)
    (told,) = refused(join, document)
    assert told.code == "E128"
    assert "complex64" in told.message


def test_notes_on_such_an_output_are_part_of_the_error(join: Any) -> None:
    outputs = [tensor("label", [None], "int64"), tensor("scores", None, "seq(map(int64, float32))")]
    notes = [
        {"text": "a list of dictionaries: convert the model without ZipMap", "tensor": "scores"},
        {"text": "it is a class, unlike `scores`", "tensor": "label"},
        {"text": "the model names `scores` in its metadata", "tensor": None},
    ]
    (told,) = refused(join, found([tensor("x", [None, 3])], outputs, notes=notes))
    assert (told.code, told.notes) == ("E128", ("a list of dictionaries: convert the model without ZipMap",))


def test_a_declared_name_is_matched_by_the_models_own_or_by_how_a_spec_writes_it(join: Any) -> None:
    document = found([tensor("serving_default_x:0", [None, 3])], [tensor("a", [None, 1]), tensor("b", [None, 2])])
    declared = (
        '  inputs: [{name: image, tensor: "serving_default_x:0", dtype: float32, shape: [batch, 3]}]\n'
        "  outputs: [{name: b}]\n  dims: {batch: {max: 8}}\n"
    )
    model = join(document, declared)
    assert model.names == {"inputs": {"image": "serving_default_x:0"}, "outputs": {"b": "b"}}
    assert [t.name for t in model.signature.outputs] == ["b"]
    written = declared.replace('image, tensor: "serving_default_x:0"', "serving_default_x_0")
    assert join(document, written).names["inputs"] == {"serving_default_x_0": "serving_default_x:0"}


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ("{name: imag, dtype: float32, shape: [batch, 3]}", "no input `imag`"),
        ("{name: image, dtype: int64, shape: [batch, 3]}", "`image` is float32 in the model"),
        ("{name: image, dtype: float32, shape: [batch, 4]}", "dimension 1 of `image` is 3"),
        ("{name: image, dtype: float32, shape: [batch, 3, 1]}", "`image` has the shape [?, 3]"),
        ("{name: image, dtype: float32, shape: [batch, batch]}", "dimension 1 of `image` is 3"),
    ],
)
def test_a_difference_from_the_model_is_reported_at_the_specs_line(join: Any, declared: str, said: str) -> None:
    document = found([tensor("image", [None, 3])])

    told = refused(join, document, f"  inputs: [{declared}]\n  dims: {{batch: {{max: 8}}}}\n")[0]

    assert told.code == "E129"
    assert said in told.message
    assert told.span is not None
    assert told.span.line == 6


def test_every_input_has_to_be_declared_if_one_is(join: Any) -> None:
    document = found([tensor("a", [None, 3]), tensor("b", [None, 3])])
    declared = "  inputs: [{name: a, dtype: float32, shape: [batch, 3]}]\n  dims: {batch: {max: 8}}\n"
    assert "also takes `b`" in refused(join, document, declared)[0].message


def test_a_range_for_a_dimension_that_the_model_lacks_is_reported(join: Any) -> None:
    told = refused(join, found([tensor("x", [None, 3])]), "  dims: {bach: {max: 8}}\n")[0]
    assert told.code == "E129"
    assert "did you mean `batch`?" in told.label


def test_fixed_sizes_may_be_declared_for_open_dimensions(join: Any) -> None:
    document = found([tensor("image", [None, None, None, 3])], [tensor("y", [None, 2])])
    declared = "  inputs: [{name: image, dtype: float32, shape: [batch, 32, 32, 3]}]\n  dims: {batch: {max: 8}}\n"
    assert join(document, declared).signature.inputs[0].shape == ("batch", 32, 32, 3)


@pytest.mark.parametrize(
    ("own", "name"),
    [("x", "x"), ("input:0", "input_0"), ("/a/b.1", "a_b.1"), ("1st", "_1st"), ("Ω", "tensor"), ("a" * 90, "a" * 60)],
)
def test_names_that_a_spec_cannot_hold_are_rewritten(own: str, name: str) -> None:
    assert spec_name(own) == name


def test_an_output_with_the_name_of_an_input_gets_another(join: Any) -> None:
    document = found(
        [tensor("x", [None, 3]), tensor("key", [None])], [tensor("key", [None]), tensor("key_out", [None])]
    )
    model = join(document)
    assert model.names["outputs"] == {"key_out_2": "key", "key_out": "key_out"}
    assert "the output `key` is called `key_out_2` in the spec, because an input has that name" in model.notes


def test_rewritten_names_stay_apart(join: Any) -> None:
    model = join(found([tensor("x:0", [None, 1]), tensor("x/0", [None, 1])], [tensor("y", [None, 1])]))
    assert [t.name for t in model.signature.inputs] == ["x_0", "x_0_2"]


def test_dimensions_that_differ_in_case_alone_have_to_be_named(join: Any) -> None:
    told = refused(join, found([tensor("x", ["N", "n"])]))[0]
    assert told.code == "E129"
    assert "`N` and `n`" in told.message


@pytest.mark.parametrize(
    ("section", "code", "column"),
    [
        ("benchmark: {batch_sizes: [1, 5000]}", "E123", "5000"),
        ("serving: {batching: {max_size: 4096}}", "E126", "4096"),
    ],
)
def test_batches_beyond_what_the_model_takes_are_refused_at_their_place(
    join: Any, section: str, code: str, column: str
) -> None:
    (told,) = refused(join, found([tensor("x", [None, 3])]), f"  dims: {{batch: {{max: 64}}}}\n{section}\n")

    assert told.code == code
    assert told.label.endswith("64")
    assert told.remedy.endswith("extend `model.dims.batch` on line 6")
    assert (told.span.line, told.span.text[told.span.column - 1 :][: len(column)]) == (7, column)


@pytest.mark.parametrize(
    ("section", "code"),
    [("benchmark: {batch_sizes: [1, 8]}", "E123"), ("serving: {batching: {max_size: 8}}", "E126")],
)
def test_a_model_of_fixed_sizes_is_not_batched(join: Any, section: str, code: str) -> None:
    (told,) = refused(join, found([tensor("x", [1, 3])], [tensor("y", [1, 2])]), f"{section}\n")

    assert (told.code, told.label, told.remedy) == (
        code,
        "no named dimension is the first one of every input",
        "remove this key",
    )


def test_a_batch_size_beyond_the_assumed_range_says_how_to_give_one(join: Any) -> None:
    (told,) = refused(join, found([tensor("x", [None, 3])]), "benchmark: {batch_sizes: [1, 128]}\n")

    assert told.code == "E123"
    assert "`batch: {max: 128}`" in told.remedy


def test_batches_that_the_model_takes_are_fine(join: Any) -> None:
    sections = "benchmark: {batch_sizes: [1, 64]}\nserving: {batching: {max_size: 64}}\n"
    assert join(found([tensor("x", [None, 3])]), sections).signature.batch == "batch"


def test_a_dimension_with_the_name_of_the_batch_has_to_be_renamed(join: Any) -> None:
    told = refused(join, found([tensor("x", [None, "Batch"])]))[0]
    assert (told.code, told.message) == (
        "E129",
        "the model's dimension `Batch` would, like the batch dimension, be called `batch`",
    )
    assert join(found([tensor("x", ["Batch", 3])])).signature.inputs[0].shape == ("batch", 3)


def test_a_first_dimension_that_is_no_batch_has_no_range_of_its_own(join: Any) -> None:
    document = found([tensor("x", [None, 1, 3])], [tensor("y", [None, 1, 4])])
    (told,) = refused(join, document, "  batch: none\n")
    assert (told.code, told.message) == ("E127", "dimension `x_0` has no range")

    model = join(document, "  batch: none\n  dims: {x_0: {min: 1, max: 50}}\n")
    assert model.signature.batch is None
    assert (model.signature.inputs[0].shape, model.signature.dims) == (("x_0", 1, 3), {"x_0": (1, 50)})
    assert model.one_by_one == "the spec says `batch: none`"


def test_a_batch_that_is_not_the_first_dimension_is_served_request_by_request(join: Any) -> None:
    document = found([tensor("x", ["Time", "N", 3])], [tensor("y", ["Time", "N", 4])])
    model = join(document, "  batch: n\n  dims: {time: {max: 50}}\n")
    assert (model.signature.batch, model.inner_batch) == (None, "n")
    assert model.signature.dims == {"time": (1, 50), "n": (1, 64)}
    assert model.one_by_one == "`n` is not the first dimension of the input `x`"


def test_a_batch_dimension_that_the_model_lacks(join: Any) -> None:
    (told,) = refused(
        join, found([tensor("x", ["rows", 3])], [tensor("y", ["rows", 4])]), "  batch: row\n  dims: {rows: {max: 4}}\n"
    )
    assert (told.code, told.message, told.label) == (
        "E126",
        "no input has the dimension `row`",
        "did you mean `rows`?",
    )


def test_a_batch_that_two_requests_do_not_fit_into_is_noted(join: Any) -> None:
    model = join(found([tensor("x", [None, 3])]), "  dims: {batch: {min: 2, max: 3}}\n")
    assert model.one_by_one == "`batch` is at most 3, which has no room for two requests"
    assert not join(found([tensor("x", [None, 3])]), "  dims: {batch: {min: 2, max: 4}}\n").one_by_one
