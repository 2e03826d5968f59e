"""What the import step leaves for the steps after it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.frameworks.pytorch.source import load_source, open_baseline
from orchestrator.spec.signature import Signature
from orchestrator.steps.parameters import SourceParameters
from tests.frameworks.pytorch.case import Imported, run, run_model, signature

pytestmark = pytest.mark.frameworks

DIGITS = Path(__file__).parents[3] / "specs" / "digits"
SOURCE = {"kind": "pytorch", "factory": "digits_model:DigitsNet", "kwargs": {}}
DECLARED = signature({"image": ("float32", ["batch", 1, 8, 8])}, {"logits": None}, {"batch": (1, 64)})


def _digits(path: Path) -> Imported:
    path.mkdir()
    with np.load(DIGITS / "digits.npz") as file:
        samples = dict(file)
    return run(path, SOURCE, DIGITS / "digits.safetensors", DECLARED, samples, DIGITS)


def test_the_digits_example_is_imported(tmp_path: Path) -> None:
    imported = _digits(tmp_path / "a")
    assert imported.json("imported.json")["signature"]["outputs"] == [
        {"name": "logits", "dtype": "float32", "shape": ["batch", 10], "allowed": None}
    ]
    facts = imported.facts
    document = imported.json("imported.json")
    assert {name: document[name] for name in facts if name in document} == {
        name: value for name, value in facts.items() if name != "edge_cases_not_finite"
    }
    assert (facts["samples"], facts["rows"], facts["classes"]) == ("real", 256, ["logits"])
    assert facts["parameters"] > 100_000
    assert facts["framework"] == {"torch": torch.__version__.partition("+")[0]}
    samples = imported.arrays("samples.npz")
    accuracy = (imported.arrays("baseline.npz")["logits"].argmax(axis=1) == samples["labels"]).mean()
    assert accuracy >= 0.97


def test_every_edge_case_is_a_complete_call(tmp_path: Path) -> None:
    imported = _digits(tmp_path / "a")
    names = [case["name"] for case in imported.json("imported.json")["edge_cases"]]
    assert names == [
        "zeros, smallest batch",
        "largest values, smallest batch",
        "smallest values, smallest batch",
        "batch of 1",
        "batch of 64",
        "batch of 42",
        "batch of 45",
    ]
    inputs, outputs = imported.edge("batch of 64")
    assert (inputs["image"].shape, outputs["logits"].shape) == ((64, 1, 8, 8), (64, 10))
    inputs, _ = imported.edge("largest values, smallest batch")
    assert (inputs["image"] == 1).all()


def test_the_import_of_the_same_source_is_reproducible(tmp_path: Path) -> None:
    first, second = _digits(tmp_path / "a"), _digits(tmp_path / "b")
    files = sorted(path.relative_to(first.folder) for path in first.folder.rglob("*") if path.is_file())
    assert len(files) == 17
    for file in files:
        assert (first.folder / file).read_bytes() == (second.folder / file).read_bytes(), file


def test_the_baseline_answers_as_recorded(tmp_path: Path) -> None:
    imported = _digits(tmp_path / "a")
    resolved = Signature.from_json(imported.json("imported.json")["signature"])
    weights = {"weights": DIGITS / "digits.safetensors"}
    runtime = open_baseline(SourceParameters.from_json(SOURCE), weights, DIGITS, resolved, 1)
    rows = imported.arrays("samples.npz")["image"][:8]
    answer = runtime.run({"image": rows})["logits"]
    np.testing.assert_allclose(answer, imported.arrays("baseline.npz")["logits"][:8], atol=1e-4)
    assert runtime.facts().threads == 1


def test_the_source_is_loaded_for_inference_on_the_cpu() -> None:
    model = load_source(SourceParameters.from_json(SOURCE), {"weights": DIGITS / "digits.safetensors"}, DIGITS)
    assert not any(module.training for module in model.modules())
    assert not any(weight.requires_grad for weight in model.parameters())
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}


def test_without_samples_the_inputs_are_random_and_a_note_says_so(tmp_path: Path) -> None:
    imported = run_model(tmp_path, "Linear")
    assert (imported.facts["samples"], imported.facts["classes"]) == ("random", [])
    assert "samples: none are given, so the inputs are random" in imported.facts["notes"]
    largest, _ = imported.edge("largest values, smallest batch")
    assert (largest["x"] == 3).all()


def test_the_ids_of_an_integer_input_without_samples_are_those_of_its_embedding(tmp_path: Path) -> None:
    inputs: dict[str, tuple[str, list[int | str]]] = {
        "ids": ("int64", ["batch", "seq"]),
        "mask": ("float32", ["batch", "seq"]),
    }
    declared = signature(inputs, {"a": None, "b": None}, {"batch": (1, 4), "seq": (2, 64)})
    imported = run_model(tmp_path, "Tokens", declared)
    assert set(np.unique(imported.arrays("samples.npz")["ids"])) == set(range(10))
    assert any("`ids` holds ids, which are drawn from 0 to 9" in note for note in imported.facts["notes"])


def test_a_model_without_a_batch_dimension_gets_a_row_axis(tmp_path: Path) -> None:
    declared = signature({"signal": ("float32", ["samples"])}, {"level": []}, {"samples": (1, 100)}, batch=None)
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    imported = run_model(tmp_path, "NoBatch", declared, {"signal": rows})
    np.testing.assert_allclose(imported.arrays("baseline.npz")["level"], rows.mean(axis=1))
    inputs, outputs = imported.edge("samples of 100")
    assert (inputs["signal"].shape, outputs["level"].shape) == ((100,), ())


def test_values_that_the_model_refuses_are_left_out_and_recorded(tmp_path: Path) -> None:
    imported = run_model(tmp_path, "Picky")
    assert imported.facts["edge_cases_left_out"] == [
        {"name": "zeros, smallest batch", "reason": "ValueError: nothing to see"}
    ]
    assert all("zeros" not in case["name"] for case in imported.json("imported.json")["edge_cases"])


def test_sizes_between_the_ends_that_the_model_refuses_are_left_out_and_said(tmp_path: Path) -> None:
    inputs: dict[str, tuple[str, list[int | str]]] = {"x": ("float32", ["batch", "length"])}
    imported = run_model(tmp_path, "EvenLengths", signature(inputs, None, {"batch": (1, 4), "length": (2, 16)}))
    assert imported.facts["edge_cases_left_out"] == [{"name": "length of 15", "reason": "ValueError: an odd length"}]
    said = (
        "source: the model refuses a length of 15, as clients will see too; where it takes only multiples of a number, "
        "declare `multiple_of` in `dims:`: ValueError: an odd length"
    )
    assert said in imported.facts["notes"]
    names = [case["name"] for case in imported.json("imported.json")["edge_cases"]]
    assert "length of 6" in names


def test_nan_at_the_edges_is_allowed_and_recorded(tmp_path: Path) -> None:
    samples = {"x": np.eye(4, dtype=np.float32)}
    imported = run_model(tmp_path, "Returns", None, {"x": samples["x"] * 2}, what="nan at 3")
    assert imported.facts["edge_cases_not_finite"] == []
    (tmp_path / "b").mkdir()
    inputs = {"x": np.concatenate([-np.eye(4, dtype=np.float32), np.array([[0, 0, 0, 4]], np.float32)])}
    imported = run_model(tmp_path / "b", "Returns", None, inputs, what="nan at 3")
    assert imported.facts["edge_cases_not_finite"] == ["largest values, smallest batch"]


def test_a_remainder_below_the_smallest_batch_is_run_too(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((7, 4)).astype(np.float32)
    imported = run_model(tmp_path, "Linear", signature(dims={"batch": (3, 3)}), {"x": rows})
    assert imported.arrays("baseline.npz")["y"].shape == (7, 3)
