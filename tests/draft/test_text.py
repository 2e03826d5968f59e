"""Drafted text reads as if written by hand, and every YAML reader reads the same from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.artifacts.inspection import FoundNote, Inspection
from orchestrator.artifacts.probed import Probed, ProbedDim, ProbedInput
from orchestrator.draft.factories import FoundClasses, module_classes
from orchestrator.draft.layout import Line, aligned, scalar
from orchestrator.draft.naming import deployment_name, relative_path
from orchestrator.draft.propose import ProposedModel, proposed_model, with_probed
from orchestrator.draft.text import SpecDraft, StateDict, spec_text
from orchestrator.errors import StepFailed
from orchestrator.spec.document import read_document
from orchestrator.spec.yaml_tree import SPEC
from tests.artifacts.made import inspection


def found(
    inputs: list[tuple[str, str, list[int | str | None] | None]],
    outputs: list[tuple[str, str, list[int | str | None] | None]],
    **ranges: tuple[int, int],
) -> Inspection:
    def tensors(given: list[tuple[str, str, list[int | str | None] | None]]) -> list[dict[str, Any]]:
        return [{"tensor": name, "dtype": dtype, "shape": shape} for name, dtype, shape in given]

    return inspection({"inputs": tensors(inputs), "outputs": tensors(outputs), "ranges": ranges})


def text_of(model: ProposedModel, **changes: Any) -> str:
    return spec_text(SpecDraft("m", "onnx", "m.onnx", 10, model, **changes))


def test_open_dimensions_get_names_and_ranges() -> None:
    model = proposed_model(
        found(
            [("ids", "int64", ["N", "seq"]), ("mask", "int64", ["N", None])],
            [("y", "float32", ["N", 8]), ("z", "float32", [None, "other"])],
            N=(1, 2**31), seq=(4, 512),
        ),
        named=True,
    )  # fmt: skip
    assert model.batch == "n"
    assert [each.shape for each in model.inputs] == [("n", "seq"), ("n", "mask_1")]
    assert [each.shape for each in model.outputs] == [("n", 8), None]
    assert {name: (dim.min, dim.max, dim.from_model) for name, dim in model.dims.items()} == {
        "n": (1, 64, False),
        "seq": (4, 512, True),
        "mask_1": (1, 128, False),
    }


def test_dimensions_whose_names_would_be_the_same_in_a_spec_get_different_names() -> None:
    document = found(
        [("a", "float32", ["N", "n", "n_2"]), ("b", "float32", ["N", "N", None])], [("y", "float32", ["N", "n"])],
        n=(3, 9),
    )  # fmt: skip
    model = proposed_model(document, named=True)

    assert [each.shape for each in model.inputs] == [("n", "n_3", "n_2"), ("n", "n", "b_2")]
    assert model.outputs[0].shape == ("n", "n_3")
    assert (model.dims["n_3"].min, model.dims["n_3"].max, model.dims["n_3"].from_model) == (3, 9, True)
    assert model.dims["n"].from_model is False


def test_a_model_of_fixed_sizes_has_no_batch_and_says_so() -> None:
    model = proposed_model(found([("x", "float32", [1, 4])], [("y", "float32", [1, 2])]), named=True)
    assert model.batch is None
    text = text_of(model)
    assert "dims" not in yaml.safe_load(text)["model"]
    assert "All sizes are fixed" in text


def test_an_unknown_rank_is_left_to_the_user() -> None:
    model = proposed_model(found([("x", "float32", None)], [("y", "float32", None)]), named=True)
    assert model.signature() is None
    text = text_of(model)
    assert yaml.safe_load(text)["model"]["inputs"] == [{"name": "x", "dtype": "float32", "shape": None}]
    assert "# Fill in the shapes" in text


def test_a_type_that_is_not_served_is_refused() -> None:
    with pytest.raises(StepFailed) as caught:
        proposed_model(found([("x", "complex64", [1])], []), named=True)
    assert caught.value.diagnostics[0].code == "E128"


def test_a_number_of_python_is_refused_with_how_to_take_a_tensor_in_its_place() -> None:
    with pytest.raises(StepFailed) as caught:
        proposed_model(found([("sr", "int", None)], []), named=False)
    assert "a module around it whose `forward` takes a tensor for `sr`, and calls it with `int(sr)`" in (
        caught.value.diagnostics[0].remedy
    )


def test_comments_are_in_one_column_and_lines_stay_readable() -> None:
    text = aligned([Line("a: 1", "one"), Line("long: 12", "two"), Line("none: 3"), Line(f"key: {'x' * 80}", "three")])
    assert text.splitlines() == ["a: 1       # one", "long: 12   # two", "none: 3", "# Three", f"key: {'x' * 80}"]


@pytest.mark.parametrize(
    "value",
    ["plain", "a/b.onnx", "x:0", "no", "null", "true", "1", "1.5", "a b", "ü", 'say "hi"', "a: b", "#x", "~", "-x", "",
     "back\\slash", "0x1f", "12:30", "{x}", "a\u2028b", "a\u2029b", "a\x85b", "\x1b[2J\x7f", "a\nb\tc", "\u202ex\xa0",
     "\U000e0041", "\U0001f600"],
)  # fmt: skip
def test_every_text_survives_a_round_trip(tmp_path: Path, value: str) -> None:
    written = f"key: {scalar(value)}\nflow: {{a: {scalar(value)}}}\n"
    assert yaml.safe_load(written) == {"key": value, "flow": {"a": value}}
    (tmp_path / "x.yaml").write_text(written)
    assert read_document(tmp_path / "x.yaml", SPEC).data == {"key": value, "flow": {"a": value}}


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028", "\u2029", "\x0b", "\x1b"])
def test_no_text_from_a_model_becomes_a_key_of_the_spec(tmp_path: Path, end: str) -> None:
    name = f"x{end}evil: 1{end}#"
    document = found([(name, "float32", [None, 4])], [(name, "float32", [None, 2])])
    notes = (FoundNote(f"`{name}` is read as it is", name),)
    model = proposed_model(document.model_copy(update={"notes": notes}), named=True)
    state = StateDict("a.b", [(name, [3, 4])], 0, FoundClasses((f"module:Class{end}evil: 1",), f"src{end}evil: 1"))

    for text in (text_of(model), text_of(model, state=state), aligned([Line("key: 1", f"told{end}evil: 1")])):
        assert "evil" not in yaml.safe_load(text)
        assert all(line.isprintable() for line in text.split("\n"))
        (tmp_path / "x.yaml").write_text(text, "utf-8")
        assert "evil" not in read_document(tmp_path / "x.yaml", SPEC).data
    written = yaml.safe_load(text_of(model))["model"]
    assert written["inputs"][0]["tensor"] == name
    assert set(written) == {"source", "inputs", "outputs", "dims"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Digits_V2.keras", "digits-v2"),
        ("resnet50/model.onnx", "resnet50"),
        ("ranker/1", "ranker"),
        ("7b.gguf.onnx", "model-7b"),
        ("ranker/---.onnx", "ranker"),
        (f"{'a' * 60}.onnx", "a" * 40),
        (f"{'a' * 39}-b.onnx", "a" * 39),
        ("été.onnx", "t"),
    ],
)
def test_derived_names_are_valid_in_a_spec(tmp_path: Path, path: str, name: str) -> None:
    model = tmp_path / path
    model.parent.mkdir(exist_ok=True)
    if model.suffix:
        model.touch()
    else:
        model.mkdir()
    assert deployment_name(model) == name


def test_paths_are_relative_through_links(tmp_path: Path) -> None:
    (tmp_path / "deep" / "specs").mkdir(parents=True)
    (tmp_path / "m.onnx").touch()
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "specs")
    relative = relative_path(tmp_path / "m.onnx", tmp_path / "link")
    assert relative == "../../m.onnx"
    assert (tmp_path / "link" / relative).is_file()


def test_factories_are_found_without_running_the_files(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nraise SystemExit\nclass Part(torch.nn.Module): ...\nclass Net(nn.Module): ...\nclass Other: ...\n"
    )
    (tmp_path / "broken.py").write_text("class (")
    (tmp_path / "not-a-module.py").write_text("class Net(nn.Module): ...\n")
    assert module_classes(tmp_path) == FoundClasses(("net:Net", "net:Part"))


def test_modules_of_a_src_layout_are_proposed_with_their_root(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("", "utf-8")
    package = tmp_path / "src" / "acme"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", "utf-8")
    (package / "net.py").write_text("class Net(Module):\n    pass\n", "utf-8")
    (tmp_path / "specs").mkdir()
    assert module_classes(tmp_path / "specs") == FoundClasses(("acme.net:Net",), "../src")
    assert module_classes(tmp_path) == FoundClasses(("acme.net:Net",), "src")
    state = StateDict(None, [], 0, module_classes(tmp_path / "specs"))
    source = yaml.safe_load(text_of(proposed_model(found([], []), named=True), state=state))["model"]["source"]
    assert source["path"] == ["../src"]


def test_what_calls_of_the_model_showed_is_written_with_its_reason_and_a_question_for_the_rest() -> None:
    proposed = proposed_model(
        found(
            [
                ("x", "float32", [None, "h"]),
                ("state", "float32", [2, None]),
                ("rate", "int64", []),
                ("ids", "int64", ["h"]),
            ],
            [("y", "float32", ["h"]), ("z", "float32", ["h"])],
        ),
        named=True,
    )
    probed = Probed(
        dims={
            "x_0": ProbedDim(1, 128, 1, "the largest is assumed"),
            "state_1": ProbedDim(1, 128, 1, "the largest is assumed", "x_0"),
            "h": ProbedDim(32, 640, 32, "a multiple of 32; 33 fails: Concat"),
        },
        inputs={
            "rate": ProbedInput(None, (16000,), "the graph compares it with 16000", question=True),
            "ids": ProbedInput((0, 256), None, "ids: it looks up a table of 257"),
        },
        misdeclared={"z": "dimension 0 is 4 where `h` is 32, but `h` is declared"},
        batch=None,
        why_batch="",
        questions=("`h` may be more",),
        calls=9,
    )
    text = text_of(with_probed(proposed, probed))
    spec = yaml.safe_load(text)["model"]
    assert spec["dims"] == {"x_0": {"min": 1, "max": 128}, "h": {"min": 32, "max": 640, "multiple_of": 32}}
    assert [each["shape"] for each in spec["inputs"]] == [["x_0", "h"], [2, "x_0"], [], ["h"]]
    assert (spec["inputs"][2]["values"], spec["inputs"][3]["range"]) == ([16000], [0, 256])
    assert spec["outputs"] == [{"name": "y", "shape": ["h"]}, {"name": "z"}]
    lines = " ".join(line.strip().removeprefix("# ") for line in text.splitlines())
    assert "it states the shape [h] for the output `z`, which is wrong: dimension 0 is 4 where `h` is 32" in lines
    assert "QUESTION: `h` may be more." in text
    assert "QUESTION: `rate`: the graph compares it with 16000." in text
    assert "a multiple of 32; 33 fails: Concat" in text


def test_an_output_with_the_name_of_an_input_gets_another() -> None:
    document = found(
        [("x", "float32", [None, 3]), ("key", "int64", [None])], [("y", "float32", [None]), ("key", "int64", [None])]
    )
    model = proposed_model(document, named=True)
    assert [(each.name, each.own) for each in model.outputs] == [("y", None), ("key_out", "key")]
    assert "{name: key_out, tensor: key, shape: [batch]}" in text_of(model)
    assert model.notes == ("the output `key` is called `key_out` in the spec, because an input has that name",)


def test_an_output_that_no_response_carries_is_left_out_if_others_are_left() -> None:
    document = found([("x", "float32", [3])], [("label", "int64", [3]), ("odds", "seq(map(int64, float32))", None)])
    assert [each.name for each in proposed_model(document, named=True).outputs] == ["label"]
    with pytest.raises(StepFailed, match="odds"):
        proposed_model(document, named=False)


@pytest.mark.parametrize(
    ("own", "named", "found_batch", "written"),
    [
        (None, "x_0", None, "none"),
        ("Time", "time", None, "none"),
        ("Time", "time", "rows", "rows"),
    ],
)
def test_a_first_dimension_that_is_no_batch_is_told(
    own: str | None, named: str, found_batch: str | None, written: str
) -> None:
    proposed = proposed_model(
        found([("x", "float32", [own, "Rows", 4])], [("y", "float32", [own, "Rows"])]), named=True
    )
    probed = Probed(
        dims={str(proposed.batch): ProbedDim(1, 64, 1, "assumed"), "rows": ProbedDim(1, 128, 1, "assumed")},
        inputs={},
        misdeclared={},
        batch=found_batch,
        why_batch="the order along the first dimension counts for `y`, as in a sequence",
        questions=(),
        calls=9,
    )
    model = with_probed(proposed, probed)
    text = text_of(model, samples="m.npz", random=True)
    spec = yaml.safe_load(text)["model"]
    assert (spec["inputs"][0]["shape"], spec["outputs"][0]["shape"]) == ([named, "rows", 4], [named, "rows"])
    assert (list(spec["dims"]), spec["batch"]) == ([named, "rows"], written)
    assert "the order along the first dimension counts" in text
    assert "one whole request per entry of a first dimension" in " ".join(text.replace("#", "").split())
    signature = model.signature()
    assert signature is not None
    assert (signature.batch, model.inner_batch) == (None, found_batch)
