"""Converting PyTorch models: what comes out runs at every declared size, and what would not is refused with its reason."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from orchestrator.frameworks.onnx import finish as onnx_finish
from orchestrator.frameworks.pytorch import convert as torch_convert
from orchestrator.frameworks.source.runtime import open_runtime
from orchestrator.optimize.formats import FORMATS, Transform
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
@pytest.mark.parametrize("model", ["Cnn", "TwoInTwoOut", "Attention", "NoBatch"])
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
@pytest.mark.parametrize("model", ["Cnn", "Attention"])
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
        outputs = runtime.run({t.name: samples[t.name][:2] for t in built.signature.inputs})
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


@pytest.mark.parametrize("format_name", ["onnx", "exported-program"])
def test_a_model_that_fixes_its_batch_is_refused_with_the_dimensions_name(case: BuildCase, format_name: str) -> None:
    with pytest.raises(StepError) as failure:
        CONVERT[format_name](case("FixedBatch").context("convert"))

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


@pytest.mark.parametrize("format_name", ["onnx", "exported-program"])
def test_a_branch_on_values_is_refused_with_its_line(case: BuildCase, format_name: str) -> None:
    with pytest.raises(StepError) as failure:
        CONVERT[format_name](case("BranchOnValues").context("convert"))

    assert failure.value.code == "E422"
    assert "depends on the values of a tensor (zoo.py:" in failure.value.cause


@pytest.mark.parametrize("model", ["FixedBatch", "BranchOnValues"])
def test_what_a_trace_gets_wrong_is_scripted(case: BuildCase, model: str) -> None:
    facts = torch_convert.to_torchscript(case(model).context("convert"))

    assert facts["exporter"] == "script"


def test_a_wrong_trace_that_cannot_be_scripted_is_refused(case: BuildCase) -> None:
    context = case("BranchInNumpy").context("convert")

    with pytest.raises(StepError) as failure:
        torch_convert.to_torchscript(context)

    assert failure.value.code == "E423"
    assert "differs from its source with" in failure.value.message
    assert any(note.startswith("script: ") for note in failure.value.notes)
    assert not list(context.output.iterdir())


def test_an_operator_without_a_translation_is_named(case: BuildCase) -> None:
    with pytest.raises(StepError) as failure:
        torch_convert.to_onnx(case("Sorted").context("convert"))

    assert failure.value.code == "E422"
    assert failure.value.cause == "ONNX has no counterpart for the operator prims.bessel_j0"


def test_a_model_that_torch_export_fixes_goes_through_the_older_exporter(case: BuildCase) -> None:
    built = case("Recurrent")
    context = built.context("convert")

    facts = torch_convert.to_onnx(context)

    assert facts["exporter"] == "torchscript"
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
