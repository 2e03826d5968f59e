"""Evaluation mode is verified: active dropout or batch statistics are reported with the layer and the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.steps.context import StepError
from tests.frameworks.pytorch.case import exported, model, refused, run, run_model, signature, traced

pytestmark = pytest.mark.frameworks

FACTORY = ("model", "source", "factory")
WEIGHTS = ("model", "source", "weights")
IMAGES = signature({"image": ("float32", ["batch", 1, 3, 3])})


def _line(text: str) -> str:
    source = Path(__file__).parent / "project" / "source_models.py"
    lines = source.read_text(encoding="utf-8").splitlines()
    return f"source_models.py:{next(number for number, line in enumerate(lines, 1) if text in line)}"


def test_dropout_left_on_is_named_with_its_layer_and_line(tmp_path: Path) -> None:
    error = refused("E330", tmp_path, "DropoutLeftOn", at=FACTORY)
    assert "dropout" in error.message
    assert "layer `body` (WithDropoutAlways)" in error.cause
    assert _line("training=True") in error.cause
    assert "training=self.training" in error.remedy


def test_other_randomness_is_named(tmp_path: Path) -> None:
    error = refused("E330", tmp_path, "Noisy", at=FACTORY)
    assert "randn" in error.cause
    assert "make the random values an input" in error.remedy


@pytest.mark.parametrize("name", ["BatchStatisticsOfImages", "BackInTraining"])
def test_batch_statistics_are_named_with_their_layer(tmp_path: Path, name: str) -> None:
    error = refused("E331", tmp_path, name, IMAGES, at=FACTORY)
    assert "the other rows of its batch" in error.message
    assert "layer `norm` (BatchNorm2d)" in error.cause
    assert "statistics of the batch" in error.cause
    assert "track_running_stats=True" in error.remedy


def test_batch_statistics_that_fail_on_one_row_are_reported_in_the_same_way(tmp_path: Path) -> None:
    error = refused("E331", tmp_path, "BatchStatistics", at=FACTORY)
    assert "layer `norm` (BatchNorm1d)" in error.cause


def test_a_mean_over_the_batch_is_named_with_its_line(tmp_path: Path) -> None:
    error = refused("E331", tmp_path, "CentredOverBatch", at=FACTORY)
    assert "mixes the rows of a batch" in error.cause
    assert "mean" in error.cause
    assert _line("x.mean(dim=0)") in error.cause


def test_rows_that_mix_are_found_although_there_is_only_one_sample(tmp_path: Path) -> None:
    refused("E331", tmp_path, "CentredOverBatch", samples={"x": np.ones((1, 4), np.float32)}, at=FACTORY)


def test_rows_that_mix_are_found_although_the_batch_has_one_size_only(tmp_path: Path) -> None:
    declared = signature(dims={"batch": (4, 4)})
    refused("E331", tmp_path, "CentredOverBatch", declared, at=FACTORY)


def test_state_that_is_kept_between_calls_is_refused(tmp_path: Path) -> None:
    error = refused("E332", tmp_path, "Counting", at=FACTORY)
    assert "one call affects the next" in error.message
    assert _line("self.calls += 1") in error.cause


@pytest.mark.parametrize("name", ["WithDropout", "Linear"])
def test_a_model_whose_dropout_respects_evaluation_mode_passes(tmp_path: Path, name: str) -> None:
    assert run_model(tmp_path, name).facts["rows"] == 32


def test_normalizing_each_row_by_itself_is_allowed(tmp_path: Path) -> None:
    assert run_model(tmp_path, "InstanceNormed", IMAGES).facts["parameters"] == 0


def test_torchscript_traced_with_dropout_on_is_refused(tmp_path: Path) -> None:
    weights = traced(model("WithDropout").train(), tmp_path, torch.ones(2, 4), check_trace=False)
    with pytest.raises(StepError) as caught:
        run(tmp_path, {"kind": "torchscript"}, weights)
    assert (caught.value.code, caught.value.at) == ("E330", WEIGHTS)
    assert "model.eval()" in caught.value.remedy


def test_an_exported_program_with_dropout_on_is_refused(tmp_path: Path) -> None:
    weights = exported(model("WithDropout").train(), tmp_path, torch.ones(2, 4))
    with pytest.raises(StepError) as caught:
        run(tmp_path, {"kind": "exported-program"}, weights)
    assert (caught.value.code, caught.value.at) == ("E330", WEIGHTS)
    assert "model.eval()" in caught.value.remedy


IDS = signature({"x": ("int64", ["batch", 6])})


@pytest.mark.parametrize(("declared", "ids"), [(None, False), (IDS, True)])
def test_a_model_that_amplifies_rounding_is_no_model_that_mixes_rows(tmp_path: Path, declared: Any, ids: bool) -> None:
    """In float32 the rows are 1 apart; in double precision, they agree."""
    ran = run_model(tmp_path, "Chaotic", declared, ids=ids)
    assert any("a row's `y` differs a little with the size of its batch" in note for note in ran.facts["notes"])


@pytest.mark.parametrize("mix", ["statistics", "size"])
@pytest.mark.parametrize(("declared", "ids"), [(None, False), (IDS, True)])
@pytest.mark.parametrize("steps", [0, 5])
def test_a_model_that_amplifies_rounding_and_mixes_rows_is_refused(
    tmp_path: Path, mix: str, declared: Any, ids: bool, steps: int
) -> None:
    refused("E331", tmp_path, "Chaotic", declared, steps=steps, ids=ids, mix=mix, at=FACTORY)


def test_a_sequence_along_the_first_dimension_is_told_from_a_batch(tmp_path: Path) -> None:
    declared = signature({"x": ("float32", ["batch", 1, 4])})
    error = refused("E331", tmp_path, "ReadsForwards", declared, at=FACTORY)
    assert "lstm" in error.cause
    assert error.remedy.endswith("such as the steps of a sequence, declare `model: {batch: none}`")
