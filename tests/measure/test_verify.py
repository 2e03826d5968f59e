"""The verify step: runs a real variant on samples and edges, and its verdict says which gate, output and case."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from orchestrator.artifacts.imported import SamplesKind
from orchestrator.spec.gates import Precision
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepContext, StepError
from orchestrator.steps.parameters import CandidateParameters, VerifyParameters
from orchestrator.verify.classes import holds_classes
from orchestrator.verify.step import verify
from tests.artifacts.made import imported as imported_model

pytestmark = pytest.mark.frameworks

Array = np.ndarray[Any, Any]
WEIGHT = np.array([[1.0, -1.0, 0.5], [0.25, 2.0, -0.5]], np.float32)
CLASSES = Signature(
    (Tensor("x", "float32", ("batch", 2)),), (Tensor("scores", "float32", ("batch", 3)),), {"batch": (1, 32)}, "batch"
)


def exact(inputs: dict[str, Array]) -> dict[str, Array]:
    return {"scores": inputs["x"] @ WEIGHT}


def write_import(
    folder: Path, signature: Signature = CLASSES, model: Callable[[dict[str, Array]], dict[str, Array]] = exact,
    *, labels: bool = True, samples: SamplesKind = "real", rows: int = 50,
) -> Path:  # fmt: skip
    (folder / "edge").mkdir(parents=True)
    x = np.random.default_rng(0).standard_normal((rows, 2)).astype(np.float32)
    baseline = model({"x": x})
    extra = {"labels": baseline["scores"].argmax(1)} if labels else {}
    np.savez(folder / "samples.npz", x=x, allow_pickle=False, **extra)
    np.savez(folder / "baseline.npz", allow_pickle=False, **baseline)
    edges = {"zeros": np.zeros((1, 2), np.float32), "largest values": np.full((1, 2), 1e6, np.float32)}
    for index, (_, edge) in enumerate(edges.items()):
        np.savez(folder / "edge" / f"{index}.inputs.npz", x=edge)
        np.savez(folder / "edge" / f"{index}.outputs.npz", allow_pickle=False, **model({"x": edge}))
    classes = ["scores"] if labels else []
    imported_model(signature, samples=samples, rows=rows, classes=classes, edges=list(edges)).write(folder)
    return folder


def write_variant(folder: Path, weight: Array = WEIGHT, *, batch: int | str = "batch") -> Path:
    folder.mkdir()
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["scores"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "model.onnx"
    )
    return folder


def run(tmp_path: Path, imported: Path, variant: Path, precision: Precision = "fp32", **gates: float) -> dict[str, Any]:
    output = tmp_path / f"output-{len(list(tmp_path.iterdir()))}"
    output.mkdir()
    name = f"onnx-{precision}"
    parameters = VerifyParameters(CandidateParameters(name, name, "onnx", precision, "onnxruntime"), CLASSES, gates)
    context = StepContext(parameters.as_json(), {"import": imported, "variant": variant}, output, tmp_path, tmp_path)
    summary = verify(context)
    verdict: dict[str, Any] = json.loads((output / "verdict.json").read_text("utf-8"))
    assert verdict["passed"] == summary["passed"]
    return verdict


def failed(verdict: dict[str, Any]) -> set[str]:
    return {gate["gate"] for gate in verdict["gates"] if not gate["passed"]}


def test_the_row_that_points_elsewhere_is_named_where_the_spec_asks_for_rows(tmp_path: Path) -> None:
    tilted = WEIGHT + np.float32(0.2) * np.ascontiguousarray(WEIGHT[:, ::-1])

    verdict = run(
        tmp_path, write_import(tmp_path / "import"), write_variant(tmp_path / "variant", tilted), "int8",
        min_row_cosine=0.999,
    )  # fmt: skip

    (gate,) = [gate for gate in verdict["gates"] if gate["gate"] == "min_row_cosine"]
    (samples,) = [case["outputs"]["scores"] for case in verdict["cases"] if case["case"] == "all samples"]
    assert (gate["passed"], gate["case"]) == (False, "all samples")
    assert gate["measured"] == samples["row_cosine"] < samples["cosine"]
    assert gate["detail"].startswith(f"row {samples['farthest_row']} has ")


def test_the_same_model_passes_every_gate(tmp_path: Path) -> None:
    verdict = run(tmp_path, write_import(tmp_path / "import"), write_variant(tmp_path / "variant"))

    assert verdict["passed"]
    assert {gate["gate"] for gate in verdict["gates"]} == {
        "finite",
        "max_abs_error",
        "min_cosine",
        "max_column_error",
        "min_column_cosine",
        "min_top1_agreement",
    }
    names = [case["case"] for case in verdict["cases"]]
    assert {"all samples", "row 0 alone", "a batch of 32", "zeros", "largest values"} <= set(names)
    assert verdict["samples"] == "real"
    assert verdict["accuracy"] == {"scores": {"baseline": 1.0, "variant": 1.0}}


def test_a_wrong_model_gets_a_verdict_that_names_gate_output_and_case(tmp_path: Path) -> None:
    variant = write_variant(tmp_path / "variant", np.ascontiguousarray(WEIGHT[:, ::-1]))

    verdict = run(tmp_path, write_import(tmp_path / "import"), variant)

    columns = {"max_column_error", "min_column_cosine"}
    assert failed(verdict) == {"max_abs_error", "min_cosine", "min_top1_agreement"} | columns
    gate = next(gate for gate in verdict["gates"] if gate["gate"] == "min_top1_agreement")
    assert gate["output"] == "scores"
    assert gate["case"] == "all samples"
    assert gate["measured"] < gate["limit"]


def test_the_spec_can_tighten_and_loosen_a_gate(tmp_path: Path) -> None:
    imported = write_import(tmp_path / "import")
    variant = write_variant(tmp_path / "variant", WEIGHT * np.float32(1.01))

    assert failed(run(tmp_path, imported, variant)) == {"max_abs_error", "max_column_error"}
    # The spec's limit is about samples; edge inputs keep the default limits of the precision.
    assert failed(run(tmp_path, imported, variant, "bf16", max_abs_error=1e-6)) == {"max_abs_error"}
    assert failed(run(tmp_path, imported, variant, "bf16", max_abs_error=0.5)) == set()


def test_a_looser_limit_of_the_spec_holds_for_edge_inputs_too(tmp_path: Path) -> None:
    imported = write_import(tmp_path / "import")
    with np.load(imported / "edge" / "0.outputs.npz") as file:
        expected = {name: file[name] + np.float32(0.01) for name in file.files}
    np.savez(imported / "edge" / "0.outputs.npz", allow_pickle=False, **expected)
    variant = write_variant(tmp_path / "variant")

    assert failed(run(tmp_path, imported, variant)) == {"max_abs_error"}
    assert failed(run(tmp_path, imported, variant, max_abs_error=0.005)) == {"max_abs_error"}
    assert failed(run(tmp_path, imported, variant, max_abs_error=0.02)) == set()


def test_a_variant_that_yields_nan_fails(tmp_path: Path) -> None:
    variant = write_variant(tmp_path / "variant", np.full_like(WEIGHT, np.nan))

    assert "finite" in failed(run(tmp_path, write_import(tmp_path / "import"), variant, "int8"))


def test_extremes_that_int8_clips_are_measured_and_not_gated(tmp_path: Path) -> None:
    imported = write_import(tmp_path / "import")
    clipped = {"scores": np.array([[1.0, 1.0, 1.0]], np.float32)}
    np.savez(imported / "edge" / "1.outputs.npz", allow_pickle=False, **clipped)
    variant = write_variant(tmp_path / "variant")

    assert failed(run(tmp_path, imported, variant, "fp32")) == {"max_abs_error"}
    verdict = run(tmp_path, imported, variant, "int8")
    assert verdict["passed"]
    extreme = next(case for case in verdict["cases"] if case["case"] == "largest values")
    assert extreme["outputs"]["scores"]["max_abs_error"] > 1e5


@pytest.mark.parametrize(
    ("width", "scores", "classes"), [(384, False, False), (10, False, True), (384, True, True), (9, True, False)]
)
def test_an_embedding_as_wide_as_the_labels_is_not_taken_for_classes(width: int, scores: bool, classes: bool) -> None:
    draw = np.random.default_rng(0)
    labels = np.arange(100) % 10
    output = draw.standard_normal((100, width)).astype(np.float32)
    if scores and width > 10:
        output[np.arange(100), labels] += 3
    assert holds_classes(output, labels) is classes


def test_without_labels_top1_is_measured_and_not_gated(tmp_path: Path) -> None:
    verdict = run(tmp_path, write_import(tmp_path / "import", labels=False), write_variant(tmp_path / "variant"))

    assert "min_top1_agreement" not in {gate["gate"] for gate in verdict["gates"]}
    assert verdict["cases"][0]["outputs"]["scores"]["top1_agreement"] == 1.0
    assert verdict["accuracy"] == {}


def test_random_samples_are_called_so(tmp_path: Path) -> None:
    verdict = run(tmp_path, write_import(tmp_path / "import", samples="random"), write_variant(tmp_path / "variant"))

    assert verdict["samples"] == "random"


def test_a_variant_that_cannot_run_is_an_error(tmp_path: Path) -> None:
    variant = write_variant(tmp_path / "variant", batch=7)

    with pytest.raises(StepError) as failure:
        run(tmp_path, write_import(tmp_path / "import"), variant)

    assert failure.value.code == "E426"
    assert "samples 0 to 31" in failure.value.message


def test_a_model_without_a_batch_is_run_row_by_row(tmp_path: Path) -> None:
    signature = Signature(
        (Tensor("x", "float32", (2,)),), (Tensor("scores", "float32", (3,)),), {}, None
    )  # fmt: skip
    imported = write_import(tmp_path / "import", signature, rows=5)
    for index in range(2):
        for role in ("inputs", "outputs"):
            path = imported / "edge" / f"{index}.{role}.npz"
            with np.load(path) as file:
                arrays = {name: file[name][0] for name in file.files}
            np.savez(path, allow_pickle=False, **arrays)
    variant = tmp_path / "variant"
    variant.mkdir()
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["scores"])], "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [3])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), variant / "model.onnx"
    )

    verdict = run(tmp_path, imported, variant)

    assert verdict["passed"], verdict["gates"]
    assert verdict["rows"] == 5


def test_a_last_batch_smaller_than_the_smallest_is_filled_up(tmp_path: Path) -> None:
    signature = Signature(CLASSES.inputs, CLASSES.outputs, {"batch": (8, 32)}, "batch")

    verdict = run(tmp_path, write_import(tmp_path / "import", signature), write_variant(tmp_path / "variant"))

    assert verdict["passed"]
    assert "row 0 alone" not in {case["case"] for case in verdict["cases"]}
