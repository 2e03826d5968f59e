"""The table of passes is complete, and the variants worth trying follow from it, from the model and from the machine."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from orchestrator.backends.table import backends_of
from orchestrator.machine.fingerprint import fingerprint
from orchestrator.machine.here import Here
from orchestrator.optimize.changes import changes_of
from orchestrator.optimize.combinations import combined, relaxed, runs_on, variants_to_try
from orchestrator.optimize.formats import FORMATS
from orchestrator.optimize.passes import PASSES, PassRow
from orchestrator.optimize.transform import Transform, Unsupported
from orchestrator.optimize.variants import Candidate, Pass, Variant
from orchestrator.spec.gates import PRECISIONS
from orchestrator.steps.pass_options import OnnxInt4Options, OnnxInt8Options

MADE = [row for row in PASSES if isinstance(row.made, Transform)]
TOOLS = {tool for row in MADE if isinstance(row.made, Transform) for tool in row.made.tools}
HERE = Here({**fingerprint(), "architecture": "x86_64"}, dict.fromkeys(TOOLS, "1.0"), cpu_flags=frozenset({"avx2"}))
CNN = frozenset({"Conv", "Relu", "Gemm"})
TRANSFORMER = frozenset({"MatMul", "Softmax", "LayerNormalization"})


def _id(row: PassRow) -> str:
    return f"{row.format}-{row.name}"


def names(format_name: str = "onnx", here: Here = HERE, operators: frozenset[str] | None = CNN) -> list[str]:
    return [each.name for each in variants_to_try(format_name, "pytorch", here, samples=True, operators=operators)]


@pytest.mark.parametrize("row", PASSES, ids=_id)
def test_a_row_says_what_it_makes_or_why_not(row: PassRow) -> None:
    assert row.format in FORMATS
    assert (row.kind == "precision") == (row.precision is not None)
    if isinstance(row.made, Unsupported):
        assert row.made.reason
        assert not row.made.reason.endswith(".")
        assert not row.trials
        return
    assert row.made.function
    assert row.made.tools
    for options in (*(trial.options for trial in row.trials), *([row.relaxed] if row.relaxed else [])):
        assert type(options) is row.made.options
        assert options.changed()


def test_what_compilers_of_a_format_are_not_used_is_told() -> None:
    refused = {(row.format, row.name) for row in PASSES if isinstance(row.made, Unsupported) and row.kind == "graph"}

    assert {("exported-program", "aot-inductor"), ("saved-model", "grappler"), ("saved-model", "xla")} <= refused


def test_a_format_has_a_pass_once() -> None:
    assert len({_id(row) for row in PASSES}) == len(PASSES)


@pytest.mark.parametrize("row", MADE, ids=_id)
def test_every_option_is_worth_trying_or_relaxes(row: PassRow) -> None:
    """An option that nothing varies is none."""
    assert isinstance(row.made, Transform)
    if row.made.options is None:
        return
    varied = {name for trial in row.trials for name in trial.options.changed()}
    varied |= set(() if row.relaxed is None else row.relaxed.changed())

    assert varied == {each.name for each in fields(row.made.options)}


def test_the_plain_variants_come_first_and_none_twice() -> None:
    found = names()

    assert found[0] == "onnx-fp32"
    assert len(set(found)) == len(found)
    assert {"onnx-fp32", "onnx-int8"} <= set(found)


def test_what_the_model_lacks_is_not_tried() -> None:
    images, texts = names(operators=CNN), names(operators=TRANSFORMER)

    assert "onnx-int8:percentile=99.99" in set(images) - set(texts)
    assert {"onnx-int8:method=static", "onnx-fuse"} <= set(texts) - set(images)
    assert {*images, *texts} <= set(names(operators=None))


@pytest.mark.parametrize("rule", ["percentile=99.99", "calibration=entropy"])
def test_rules_of_ranges_are_tried_with_static_ranges_of_matrix_products(rule: str) -> None:
    static = {each for each in names(operators=TRANSFORMER) if "method=static" in each and rule in each}

    assert len(static) == 1
    assert rule not in " ".join(names(operators=frozenset({"LSTM"})))
    assert not static & set(names(operators=CNN))


@pytest.mark.parametrize(
    ("architecture", "flags", "tried"),
    [("x86_64", {"avx2"}, True), ("x86_64", {"avx2", "avx512_vnni"}, False), ("aarch64", {"asimddp"}, False)],
)
def test_eight_bits_are_tried_where_the_cpu_gets_seven(architecture: str, flags: set[str], tried: bool) -> None:
    here = replace(HERE, fingerprint={**HERE.fingerprint, "architecture": architecture}, cpu_flags=frozenset(flags))

    assert ("onnx-int8:weight-bits=8" in names(here=here)) is tried


def test_without_samples_or_packages_or_the_precision_nothing_is_quantized() -> None:
    def found(here: Here = HERE, *, samples: bool = True) -> set[str]:
        return {each.precision for each in variants_to_try("onnx", "pytorch", here, samples=samples)}

    assert "int8" in found()
    assert "int8" not in found(samples=False)
    assert found(replace(HERE, packages={**HERE.packages, "onnxruntime": None})) == {"fp32"}
    only = variants_to_try("onnx", "pytorch", HERE, samples=True, precisions=["int8"])
    assert {each.precision for each in only} == {"int8"}


def test_a_format_that_is_not_made_of_the_source_has_no_variants() -> None:
    assert variants_to_try("saved-model", "pytorch", HERE, samples=True) == ()


def test_variants_are_joined_in_the_order_of_the_table() -> None:
    every = {each.name: each for each in variants_to_try("onnx", "pytorch", HERE, samples=True)}

    assert combined([every["onnx-int8"]]) == every["onnx-int8"]
    assert combined([every["onnx-fp32"], every["onnx-int8"]]) == every["onnx-int8"]
    assert combined([every["onnx-int8"], every["onnx-int8:percentile=99.99"]]) is None
    with pytest.raises(ValueError, match="variants of one conversion"):
        combined([every["onnx-fp32"], variants_to_try("torchscript", "pytorch", HERE, samples=True)[0]])


def test_a_variant_with_nothing_to_relax_stays_as_it_is() -> None:
    conversion = FORMATS["onnx"].convert["pytorch"]
    assert isinstance(conversion, Transform)

    assert relaxed(Variant("onnx", conversion)) is None


def test_a_variant_that_failed_its_gates_is_tried_with_layers_in_float() -> None:
    every = {each.name: each for each in variants_to_try("onnx", "pytorch", HERE, samples=True)}

    for name, mended in {
        "onnx-int8": "onnx-int8:exclude=auto",
        "onnx-slim-int8": "onnx-slim-int8:exclude=auto",
        "onnx-int8:per-channel=false": "onnx-int8:exclude=auto:per-channel=false",
        "onnx-int4": "onnx-int4:block=16",
    }.items():
        found = relaxed(every[name])
        assert found is not None
        assert found.name == mended
        assert relaxed(found) is None
    assert relaxed(every["onnx-slim"]) is None
    with pytest.raises(ValueError, match="cannot be joined"):
        OnnxInt8Options().joined(OnnxInt4Options())


def test_a_pass_starts_from_what_an_earlier_one_made() -> None:
    """Graphs are slimmed before they are quantized, and optimized in advance after it; two precisions are none."""
    found = names(operators=None)

    assert "onnx-slim-fuse-int8-ort" in found
    assert not any(
        "int8-slim" in each or "int8-fuse" in each or "ort-int8" in each or "int8-fp16" in each for each in found
    )


def test_options_are_joined() -> None:
    one, other = OnnxInt8Options(percentile=99.9, weight_bits=7), OnnxInt8Options(weight_bits=8, smoothing=0.5)

    assert one.joined(other) == OnnxInt8Options(percentile=99.9, weight_bits=8, smoothing=0.5)


def test_every_precision_of_a_spec_has_a_row_for_every_format() -> None:
    for name, row in FORMATS.items():
        assert set(row.precisions) == set(PRECISIONS), name


def test_a_pass_refuses_what_it_does_not_take() -> None:
    row = next(each for each in MADE if each.name == "int8")
    assert isinstance(row.made, Transform)
    with pytest.raises(ValueError, match="at most 24"):
        Pass("Upper", row.made)


def test_what_only_one_backend_runs_is_not_tried_on_another() -> None:
    every = {each.name: each for each in variants_to_try("onnx", "pytorch", HERE, samples=True)}

    def passes(backend: str) -> set[str]:
        return {each.subject for each in changes_of(Candidate(every["onnx-int8"], backend), every.values(), 2)}

    assert "ort" in passes("onnxruntime")
    assert "ort" not in passes("openvino")
    assert "slim" in passes("openvino")
    assert not runs_on(every["onnx-slim-int8-ort"], "openvino")


def test_a_pass_names_backends_of_its_format() -> None:
    for row in PASSES:
        assert row.backends <= set(backends_of(row.format)), row.name
