"""Converting PyTorch models: what comes out runs at every declared size, and what would not is refused with its reason."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from orchestrator.frameworks.onnx import finish as onnx_finish
from orchestrator.frameworks.onnx.quantize import to_int8
from orchestrator.frameworks.pytorch import convert as torch_convert
from orchestrator.frameworks.source.runtime import open_runtime
from orchestrator.optimize.formats import FORMATS
from orchestrator.optimize.transform import Transform
from orchestrator.spec.gates import Precision
from orchestrator.steps.context import StepError
from orchestrator.verify.step import verify
from tests.frameworks.convert_case import PROJECT
from tests.frameworks.step_process import StepProcess, in_two_processes, one_model
from tests.frameworks.verify_case import verify_params

if TYPE_CHECKING:
    from tests.frameworks.convert_case import BuildCase, Case

pytestmark = pytest.mark.frameworks

CONVERT = {
    "onnx": torch_convert.to_onnx,
    "torchscript": torch_convert.to_torchscript,
    "exported-program": torch_convert.to_exported_program,
}
BF16 = {
    "torchscript": torch_convert.torchscript_to_bf16,
    "exported-program": torch_convert.exported_program_to_bf16,
}


def verdict_of(case: Case, variant: Path, format_name: str, precision: Precision, **gates: float) -> dict[str, Any]:
    context = case.context(f"verify-{format_name}-{precision}", {"import": case.imported, "variant": variant})
    context = replace(context, params=verify_params(case.signature, format_name, precision, gates))
    verify(context)
    document: dict[str, Any] = json.loads((context.output / "verdict.json").read_text("utf-8"))
    return document


@pytest.mark.parametrize("format_name", CONVERT)
@pytest.mark.parametrize("model", ["Cnn", "TwoInTwoOut", "Attention", "NoBatch", "SingleNumbers"])
def test_a_model_converts_and_passes_verification(case: BuildCase, model: str, format_name: str) -> None:
    built = case(model)
    context = built.context("convert")

    facts = CONVERT[format_name](context)

    assert sorted(p.name for p in context.output.iterdir()) == ["facts.json", FORMATS[format_name].file]
    for dim, (low, high) in built.signature.dims.items():
        assert {f"{dim} of {low}", f"{dim} of {high}"} <= set(facts["checked"])
    verdict = verdict_of(built, context.output, format_name, "fp32")
    assert verdict["passed"], verdict["gates"]


@pytest.mark.parametrize("format_name", CONVERT)
@pytest.mark.parametrize("kind", ["pytorch", "torchscript", "exported-program"])
def test_a_model_that_writes_into_its_input_is_compared_on_what_it_was_given(
    case: BuildCase, kind: str, format_name: str
) -> None:
    if not isinstance(FORMATS[format_name].convert[kind], Transform):
        return
    built = case("InPlace", kind)
    context = built.context("convert")

    CONVERT[format_name](context)

    verdict = verdict_of(built, context.output, format_name, "fp32")
    assert verdict["passed"], verdict["gates"]
    if format_name == "onnx":
        graph = onnx.load(context.output / "model.onnx").graph
        assert [output.name for output in graph.output] == ["y"], "the changed input is none of the outputs"


@pytest.mark.parametrize("format_name", CONVERT)
def test_a_model_that_takes_only_multiples_converts_for_all_of_them(case: BuildCase, format_name: str) -> None:
    built = case("Pyramid")
    context = built.context("convert")

    facts = CONVERT[format_name](context)

    assert {"height of 16", "height of 48", "width of 16", "width of 40"} <= set(facts["checked"])
    assert all(int(name.split()[-1]) % 8 == 0 for name in facts["checked"] if name.startswith(("height", "width")))
    verdict = verdict_of(built, context.output, format_name, "fp32")
    assert verdict["passed"], verdict["gates"]


@pytest.mark.parametrize("format_name", CONVERT)
@pytest.mark.parametrize("kind", ["torchscript", "exported-program"])
def test_every_source_kind_converts_as_the_table_says(case: BuildCase, kind: str, format_name: str) -> None:
    transform = FORMATS[format_name].convert[kind]
    if not isinstance(transform, Transform):
        return
    built = case("Cnn", kind)
    context = built.context("convert")

    CONVERT[format_name](context)

    assert verdict_of(built, context.output, format_name, "fp32")["passed"]


@pytest.mark.parametrize("format_name", BF16)
@pytest.mark.parametrize("model", ["Cnn", "Attention", "InPlace", "SingleNumbers"])
def test_bfloat16_passes_its_gates_and_keeps_the_interface(case: BuildCase, model: str, format_name: str) -> None:
    built = case(model)
    context = built.context("convert", seed=0)

    BF16[format_name](context)

    verdict = verdict_of(built, context.output, format_name, "bf16")
    assert verdict["passed"], verdict["gates"]
    errors = [gate["measured"] for gate in verdict["gates"] if gate["gate"] == "max_abs_error"]
    assert max(errors) > 1e-5, "nothing was rounded to bfloat16"
    runtime = open_runtime(format_name, context.output, built.signature, 1)
    with np.load(built.imported / "samples.npz") as samples:
        rows = slice(0, 2) if built.signature.batch else 0
        outputs = runtime.run({t.name: samples[t.name][rows] for t in built.signature.inputs})
    assert {array.dtype.name for array in outputs.values()} == {"float32"}


@pytest.mark.parametrize("format_name", BF16)
@pytest.mark.parametrize("kind", ["torchscript", "exported-program"])
def test_every_source_kind_converts_to_bfloat16(case: BuildCase, kind: str, format_name: str) -> None:
    if not isinstance(FORMATS[format_name].convert[kind], Transform):
        return
    built = case("Cnn", kind)
    context = built.context("convert", seed=0)

    BF16[format_name](context)

    assert verdict_of(built, context.output, format_name, "bf16")["passed"]


def test_a_model_that_fixes_its_batch_is_refused_with_the_dimensions_name(case: BuildCase) -> None:
    with pytest.raises(StepError) as failure:
        torch_convert.to_exported_program(case("FixedBatch").context("convert"))

    assert failure.value.code == "E422"
    assert "fixes dimension batch at 2" in failure.value.cause
    assert failure.value.at == ("model", "dims", "batch")


def test_an_unsupported_size_is_reported_as_a_condition(case: BuildCase) -> None:
    with pytest.raises(StepError) as failure:
        torch_convert.to_exported_program(case("FewRows").context("convert"))

    assert failure.value.cause.endswith(
        "for every declared size of dimension batch: it needs 2 <= batch and batch <= 8"
    )
    assert failure.value.at == ("model", "dims", "batch")
    assert (failure.value.code, "narrow the range of dimension batch" in failure.value.remedy) == ("E422", True)
    low, high = re.findall(r"\d+", failure.value.cause.rpartition("needs")[2])
    torch_convert.to_exported_program(case("FewRows", dims={"batch": (int(low), int(high))}).context("narrowed"))


def test_a_branch_on_values_is_refused_with_its_line(case: BuildCase) -> None:
    with pytest.raises(StepError) as failure:
        torch_convert.to_exported_program(case("BranchOnValues").context("convert"))

    assert failure.value.code == "E422"
    assert "depends on the values of a tensor (zoo.py:" in failure.value.cause


TRACED = {"onnx": torch_convert.to_onnx, "torchscript": torch_convert.to_torchscript}


@pytest.mark.parametrize("format_name", TRACED)
@pytest.mark.parametrize("model", ["FixedBatch", "BranchOnValues", "BranchOnRange"])
def test_what_a_trace_would_freeze_is_scripted(case: BuildCase, model: str, format_name: str) -> None:
    facts = TRACED[format_name](case(model).context("convert"))

    assert facts["exporter"] == "script"
    assert not facts.get("frozen")


@pytest.mark.parametrize("format_name", TRACED)
def test_a_branch_on_the_range_of_values_is_right_on_both_sides(case: BuildCase, format_name: str) -> None:
    built = case("BranchInAPart")
    context = built.context("convert")

    facts = TRACED[format_name](context)

    assert facts["exporter"] == "parts"
    assert {"a sample times 255", "a sample negated"} <= set(facts["checked"])
    x = np.array([[0.5, 0.25, 0.1, 0.9], [200.0, 100.0, 0.0, 255.0]], np.float32)
    runtime, module = open_runtime(format_name, context.output, built.signature, 1), built.module()
    for given in (x[:1], x):
        np.testing.assert_allclose(runtime.run({"x": given})["y"], module(given), rtol=1e-4, atol=1e-5)


def test_a_branch_in_a_part_is_scripted_in_bfloat16_too(case: BuildCase) -> None:
    facts = torch_convert.torchscript_to_bf16(case("BranchOnRange").context("convert", seed=0))

    assert facts["exporter"] == "parts"


@pytest.mark.parametrize("format_name", TRACED)
@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("BranchInNumpy", "if x.detach().numpy().sum() > 0:"),
        ("BranchOnEqual", "if torch.equal(inputs[0], inputs[0].clamp(max=30)):"),
    ],
)
def test_a_line_that_a_trace_would_freeze_is_named(case: BuildCase, model: str, code: str, format_name: str) -> None:
    context = case(model).context("convert")

    with pytest.raises(StepError) as failure:
        TRACED[format_name](context)

    error = failure.value
    assert error.code == "E428"
    assert f"zoo.py:{line_of(code)}: {code}" in error.cause
    assert f"`verify: {{accept_traced: [zoo.py:{line_of(code)}]}}`" in error.remedy
    assert any(note.startswith("script: ") for note in error.notes)
    assert not list(context.output.iterdir())


def test_a_number_made_of_values_is_frozen_by_a_trace_and_not_by_torch_export(case: BuildCase) -> None:
    built = case("NumberOfValues")
    context = built.context("convert")

    assert torch_convert.to_onnx(context)["exporter"] == "torch.export"
    with pytest.raises(StepError, match="tracing would freeze"):
        torch_convert.to_torchscript(built.context("traced"))


@pytest.mark.parametrize("format_name", TRACED)
def test_an_accepted_line_is_frozen_and_said(case: BuildCase, format_name: str) -> None:
    code = "if torch.equal(inputs[0], inputs[0].clamp(max=30)):"
    built = case("BranchOnEqual")
    with pytest.raises(StepError) as failure:
        TRACED[format_name](built.context("refused"))
    assert failure.value.code == "E428"
    (place,) = re.findall(r"accept_traced: \[(.+?)\]", failure.value.remedy)
    context = built.context("convert", accept_traced=[place])

    facts = TRACED[format_name](context)

    assert facts["exporter"] == "accepted"
    assert facts["frozen"] == [{"file": "zoo.py", "line": line_of(code), "code": code, "what": "branch"}]


def test_int8_keeps_what_was_frozen_in_the_model_that_it_is_made_of(case: BuildCase) -> None:
    built = case("BranchOnEqual")
    place = f"zoo.py:{line_of('if torch.equal(inputs[0], inputs[0].clamp(max=30)):')}"
    converted = built.context("convert", accept_traced=[place])
    torch_convert.to_onnx(converted)

    facts = to_int8(built.context("int8", {"import": built.imported, "model": converted.output}, seed=0))

    assert [f"{line['file']}:{line['line']}" for line in facts["frozen"]] == [place]


def test_a_model_that_takes_single_numbers_is_quantized(case: BuildCase) -> None:
    built = case("SingleNumbers")
    converted = built.context("convert")
    torch_convert.to_onnx(converted)
    quantized = built.context("int8", {"import": built.imported, "model": converted.output}, seed=0)

    to_int8(quantized)

    verdict = verdict_of(built, quantized.output, "onnx", "int8", max_abs_error=1.0)
    assert verdict["passed"], verdict["gates"]


def test_another_line_is_not_accepted_with_one(case: BuildCase) -> None:
    context = case("BranchInNumpy").context("convert", accept_traced=["zoo.py:1"])

    with pytest.raises(StepError) as failure:
        torch_convert.to_torchscript(context)

    assert failure.value.code == "E428"


@pytest.mark.parametrize("format_name", TRACED)
def test_what_only_raises_is_no_branch(case: BuildCase, format_name: str) -> None:
    facts = TRACED[format_name](case("ChecksOnly").context("convert"))

    assert facts["exporter"] in {"trace", "torch.export"}


def test_a_branch_on_a_size_within_the_range_is_found_by_comparison(case: BuildCase) -> None:
    built = case("BranchOnParity", dims={"batch": (1, 16)})
    source = (PROJECT / "zoo.py").read_text(encoding="utf-8")
    number = next(n for n, line in enumerate(source.splitlines(), 1) if "rows = torch.zeros(1)" in line)

    with pytest.raises(StepError) as failure:
        torch_convert.to_torchscript(built.context("convert", accept_traced=[f"zoo.py:{number}"]))

    assert failure.value.code in {"E423", "E428"}
    told = [failure.value.message, failure.value.cause, *failure.value.notes]
    assert any("batch of 15" in each or "off by" in each for each in told), told


def line_of(code: str) -> int:
    lines = (PROJECT / "zoo.py").read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if line.strip() == code)


def test_an_operator_without_a_translation_is_named(case: BuildCase) -> None:
    with pytest.raises(StepError) as failure:
        torch_convert.to_onnx(case("Sorted").context("convert"))

    assert failure.value.code == "E422"
    assert failure.value.cause == "ONNX has no counterpart for the operator prims.bessel_j0"


def test_a_model_that_torch_export_fixes_goes_through_the_older_exporter(case: BuildCase) -> None:
    built = case("Recurrent")
    context = built.context("convert")

    facts = torch_convert.to_onnx(context)

    assert facts["exporter"] == "trace"
    assert "the trace froze no line of its code" in facts["notes"][0]
    assert verdict_of(built, context.output, "onnx", "fp32")["passed"]


def test_float32_in_the_models_code_is_refused_in_bfloat16(case: BuildCase) -> None:
    with pytest.raises(StepError) as failure:
        torch_convert.torchscript_to_bf16(case("NamesFloat32").context("convert", seed=0))

    assert failure.value.code == "E422"
    assert "same dtype" in failure.value.cause
    assert "naming float32" in failure.value.remedy


def test_the_onnx_file_has_the_declared_names_and_dimensions(case: BuildCase) -> None:
    context = case("TwoInTwoOut").context("convert")
    torch_convert.to_onnx(context)

    graph = onnx.load(str(context.output / "model.onnx")).graph

    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    assert shapes == {"ids": ["batch", "length"], "mask": ["batch", "length"]}
    assert [v.name for v in graph.output] == ["tokens", "score"]


def test_weights_too_large_for_one_file_go_beside_it(case: BuildCase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_finish, "LARGEST_ONNX_FILE", 1000)
    built = case("Cnn")
    context = built.context("convert")

    torch_convert.to_onnx(context)

    assert (context.output / "model.onnx.data").stat().st_size > 10_000
    assert (context.output / "model.onnx").stat().st_size < 10_000
    assert verdict_of(built, context.output, "onnx", "fp32")["passed"]


def test_a_dimension_with_one_size_is_fixed(case: BuildCase) -> None:
    built = case("Cnn", dims={"batch": (1, 1)})
    context = built.context("convert")

    torch_convert.to_onnx(context)

    shape = onnx.load(str(context.output / "model.onnx")).graph.input[0].type.tensor_type.shape
    assert shape.dim[0].dim_value == 1


def test_the_bytes_depend_on_the_model_alone(case: BuildCase) -> None:
    built = case("Cnn")
    inputs = {"weights": built.weights, "import": built.imported}
    plain: dict[str, Any] = {"source": built.source}

    def convert(process: StepProcess) -> dict[str, bytes]:
        steps = {
            "to_onnx": plain,
            "to_torchscript": plain,
            "to_exported_program": plain,
            "torchscript_to_bf16": {**plain, "seed": 0},
            "exported_program_to_bf16": {**plain, "seed": 0},
        }
        done = {
            name: process.step(f"pytorch.convert:{name}", params, inputs, PROJECT) for name, params in steps.items()
        }
        return {name: one_model(each.folder) for name, each in done.items()}

    first, second = in_two_processes(built.root / "processes", convert)

    for name, model in first.items():
        assert model == second[name], name
        for path in (str(built.root), str(Path(__file__).parent), sys.prefix, "site-packages"):
            assert path.encode() not in model, name
