"""Every runtime loads its format, calls it with numpy arrays, keeps to its threads and says what it is."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from orchestrator.frameworks.pytorch import convert as torch_convert
from orchestrator.frameworks.pytorch.runtime import TorchRuntime, call
from orchestrator.frameworks.source.runtime import open_runtime
from orchestrator.optimize.formats import FORMATS
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from tests.frameworks.convert_case import BuildCase

pytestmark = pytest.mark.frameworks

ANY = Signature((Tensor("x", "float32", (2,)),), (Tensor("y", "float32", (2,)),), {}, None)
CONVERT = {
    "onnx": torch_convert.to_onnx,
    "torchscript": torch_convert.to_torchscript,
    "exported-program": torch_convert.to_exported_program,
}


@pytest.mark.parametrize("format_name", CONVERT)
def test_a_runtime_returns_outputs_by_name_and_describes_itself(case: BuildCase, format_name: str) -> None:
    built = case("TwoInTwoOut")
    context = built.context("convert")
    CONVERT[format_name](context)
    ids = np.arange(6, dtype=np.int64).reshape(2, 3)
    mask = np.ones((2, 3), np.float32)
    mask.flags.writeable = False

    runtime = open_runtime(format_name, context.output, built.signature, 1)
    outputs = runtime.run({"mask": mask, "ids": np.asfortranarray(ids)})

    assert {name: (array.shape, array.dtype.name) for name, array in outputs.items()} == {
        "tokens": ((2, 3, 8), "float32"),
        "score": ((2, 1), "float32"),
    }
    facts = runtime.facts()
    assert facts.threads == 1
    assert all(facts.versions.values())


class Stateful(torch.nn.Module):  # type: ignore[misc]  # PyTorch is not followed by mypy
    """Answers with memory of its own, which the next call overwrites."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("answer", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Twice the input, which becomes zero."""
        self.answer.copy_(x * 2)
        x.zero_()
        return self.answer


def test_calls_share_no_arrays(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Stateful()).save(str(tmp_path / "model.pt"))
    runtime = open_runtime("torchscript", tmp_path, ANY, 1)
    x = np.array([1.0, 2.0], np.float32)

    first, second = runtime.run({"x": x})["y"], runtime.run({"x": x + 4})["y"]

    assert x.tolist() == [1.0, 2.0]
    assert (first.tolist(), second.tolist()) == ([2.0, 4.0], [10.0, 12.0])


def test_a_source_shares_no_arrays() -> None:
    module = Stateful()
    x = np.array([1.0, 2.0], np.float32)

    first, second = call(module, ANY, {"x": x})["y"], call(module, ANY, {"x": x + 4})["y"]

    assert x.tolist() == [1.0, 2.0]
    assert (first.tolist(), second.tolist()) == ([2.0, 4.0], [10.0, 12.0])


@pytest.mark.parametrize("format_name", CONVERT)
def test_a_file_that_is_not_a_model_is_refused(tmp_path: Path, format_name: str) -> None:
    (tmp_path / FORMATS[format_name].file).write_bytes(b"not a model")

    with pytest.raises(StepError) as failure:
        open_runtime(format_name, tmp_path, ANY, 1)

    assert failure.value.code == "E420"
    assert failure.value.cause


def test_bfloat16_comes_back_as_float32() -> None:
    runtime = TorchRuntime(lambda x: x.to(torch.bfloat16), ANY, 1, "lambda")

    assert runtime.run({"x": np.ones(2, np.float32)})["y"].dtype == np.float32


def test_a_wrong_number_of_outputs_is_reported() -> None:
    runtime = TorchRuntime(lambda x: (x, x), ANY, 1, "lambda")

    with pytest.raises(StepError, match="returns 2 tensors, but the spec declares 1"):
        runtime.run({"x": np.ones(2, np.float32)})


def test_the_requested_threads_are_used() -> None:
    before = torch.get_num_threads()
    try:
        TorchRuntime(lambda x: x, ANY, 2, "lambda")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_model_answers_once_every_output_is_named() -> None:
    def twice(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, 2 * x

    tensor = Tensor("x", "float32", ("batch", 2))
    first = Signature((tensor,), (Tensor("y", "float32", ("batch", 2)),), {"batch": (1, 4)}, "batch")
    given = {"x": np.ones((1, 2), np.float32)}
    with pytest.raises(StepError) as caught:
        call(twice, first, given)
    assert (caught.value.code, caught.value.remedy) == ("E421", "name every output that the model returns, in order")
    both = replace(first, outputs=(*first.outputs, Tensor("z", "float32", ("batch", 2))))
    np.testing.assert_array_equal(call(twice, both, given)["z"], 2 * given["x"])
