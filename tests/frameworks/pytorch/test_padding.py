"""A tagger whose padded positions differ from format to format is told about them, and the advice helps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from orchestrator.frameworks.pytorch import convert as torch_convert
from orchestrator.frameworks.pytorch.evaluation import verify_evaluation_mode
from orchestrator.frameworks.pytorch.source import load_source
from orchestrator.frameworks.source.samples import Samples
from orchestrator.steps.context import StepError
from orchestrator.steps.parameters import SourceParameters
from tests.frameworks.convert_case import PROJECT

if TYPE_CHECKING:
    from tests.frameworks.convert_case import BuildCase

pytestmark = [
    pytest.mark.frameworks,
    # PyTorch's own encoder uses them by default.
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
]

_LENGTH = 8


def _texts() -> Samples:
    """Texts of several lengths, padded at the end, as tokenizers return them."""
    random = np.random.default_rng(0)
    mask = np.arange(_LENGTH) < random.integers(1, _LENGTH + 1, (16, 1))
    ids = np.where(mask, random.integers(1, 16, mask.shape), 0)
    return Samples({"ids": ids, "mask": mask}, None, real=True)


def test_a_conversion_that_differs_at_padded_positions_only_is_told_about_them(case: BuildCase) -> None:
    with pytest.raises(StepError) as caught:
        torch_convert.to_onnx(case("Tagger", given=_texts()).context("convert"))

    error = caught.value
    assert error.code == "E423"
    assert "at padded positions only" in error.message
    assert error.cause.startswith("output scores, where `mask` is 0: ")
    assert "set `scores` to a constant where `mask` is 0" in error.remedy
    assert "size" not in error.remedy
    assert error.at == ()


def test_rows_that_mix_at_padded_positions_only_are_told_about_them(case: BuildCase) -> None:
    """Nested tensors are used where all rows are padded at their ends, so zeros at padded positions depend on the other rows."""
    built = case("Tagger", given=_texts())
    samples = _texts()
    samples.inputs["mask"][3:] = ~samples.inputs["mask"][3:]
    model = load_source(SourceParameters.from_json(built.source), {"weights": built.weights}, PROJECT)

    with pytest.raises(StepError) as caught:
        verify_evaluation_mode(model, built.signature, samples, PROJECT)

    error = caught.value
    assert error.code == "E331"
    assert error.cause.endswith("at padded positions only: where `mask` is 0")
    assert "set `scores` to a constant where `mask` is 0" in error.remedy

    steady = {**built.source, "factory": "zoo:ConstantPaddingTagger"}
    model = load_source(SourceParameters.from_json(steady), {"weights": built.weights}, PROJECT)
    verify_evaluation_mode(model, built.signature, samples, PROJECT)


def test_a_constant_at_padded_positions_helps(case: BuildCase) -> None:
    """As E423 says of the same model without it, above."""
    torch_convert.to_onnx(case("ConstantPaddingTagger", given=_texts()).context("convert"))
