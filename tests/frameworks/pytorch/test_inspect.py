"""Inputs and outputs are read from PyTorch's files as they are, and nothing is invented."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.frameworks.pytorch.source import inspect
from orchestrator.steps.context import StepContext, StepError

pytestmark = pytest.mark.frameworks


class Two(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """Two inputs, a dictionary of outputs."""

    def forward(self, image: torch.Tensor, flags: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"scores": image.mean((2, 3)), "flags": flags * 2}


def read(tmp_path: Path, kind: str, weights: Path) -> dict[str, Any]:
    for name in ("output", "scratch"):
        (tmp_path / name).mkdir()
    context = StepContext(
        {"source": {"kind": kind}}, {"weights": weights}, tmp_path / "output", tmp_path / "scratch", tmp_path
    )
    inspect(context)
    document: dict[str, Any] = json.loads((tmp_path / "output" / "inspection.json").read_text())
    return document


def tensors(found: dict[str, Any], role: str) -> list[tuple[str, str, list[Any] | None]]:
    return [(each["tensor"], each["dtype"], each["shape"]) for each in found[role]]


def export(path: Path, *, dims: Any) -> Path:
    inputs = torch.randn(2, 3, 8, 8), torch.ones(2, 4, dtype=torch.int32)
    torch.export.save(torch.export.export(Two().eval(), inputs, dynamic_shapes=dims), path)
    return path


def test_an_exported_program_has_names_types_shapes_and_ranges(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1, max=16)
    found = read(tmp_path, "exported-program", export(tmp_path / "m.pt2", dims=({0: batch}, {0: batch})))
    assert tensors(found, "inputs") == [
        ("image", "float32", ["batch", 3, 8, 8]),
        ("flags", "int32", ["batch", 4]),
    ]
    assert tensors(found, "outputs") == [("scores", "float32", ["batch", 3]), ("flags", "int32", ["batch", 4])]
    assert found["ranges"] == {"batch": [1, 16]}


def test_unnamed_dimensions_are_named_after_their_input(tmp_path: Path) -> None:
    auto = torch.export.Dim.AUTO
    found = read(tmp_path, "exported-program", export(tmp_path / "m.pt2", dims=({0: auto, 2: auto}, {0: auto})))
    assert found["inputs"][0]["shape"] == ["batch", 3, "image_2", 8]
    assert found["ranges"]["image_2"][1] == 2**31


def scripted(path: Path, module: torch.nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        torch.jit.script(module).save(str(path))
    return path


class Pair(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """A tuple of outputs, and an argument that may be left out."""

    def forward(self, a: torch.Tensor, b: torch.Tensor, scale: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
        return a * scale, b


class Counted(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """An argument that is no tensor."""

    def forward(self, a: torch.Tensor, times: int) -> torch.Tensor:
        return a * times


def test_torchscript_only_has_names(tmp_path: Path) -> None:
    found = read(tmp_path, "torchscript", scripted(tmp_path / "m.pt", Pair()))
    assert tensors(found, "inputs") == [("a", "", None), ("b", "", None)]
    assert [name for name, _, _ in tensors(found, "outputs")] == ["output_0", "output_1"]


def test_unknown_outputs_of_torchscript_are_left_to_the_user(tmp_path: Path) -> None:
    found = read(tmp_path, "torchscript", scripted(tmp_path / "m.pt", Two()))
    assert found["outputs"] == []
    assert "Dict[str, Tensor]" in found["notes"][0]["text"]


def test_an_argument_that_is_not_a_tensor_is_reported_with_its_type(tmp_path: Path) -> None:
    found = read(tmp_path, "torchscript", scripted(tmp_path / "m.pt", Counted()))
    assert tensors(found, "inputs")[1] == ("times", "int", None)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (lambda state: state, None),
        (lambda state: {"epoch": 3, "state_dict": state, "optimizer_states": [{"lr": 0.1}]}, "state_dict"),
        (lambda state: {"ema": dict(state), "model": state}, "model"),
        (lambda state: {"run": {"net.v1": state}}, "run.net.v1"),
    ],
)
def test_a_state_dict_is_found_in_a_checkpoint(tmp_path: Path, content: Any, key: str | None) -> None:
    state = {f"layers.{number}.weight": torch.zeros(4, number) for number in range(1, 12)} | {"bias": torch.zeros(4)}
    torch.save(content(state), tmp_path / "m.ckpt")
    found = read(tmp_path, "pytorch", tmp_path / "m.ckpt")
    assert found["inputs"] == found["outputs"] == []
    told = found["weights"]
    assert told["weights_key"] == key
    assert [name for name, _ in told["tensors"]] == [f"layers.{number}.weight" for number in range(1, 5)]
    assert told["more"] == 7


def test_a_checkpoint_without_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "m.ckpt")
    with pytest.raises(StepError) as caught:
        read(tmp_path, "pytorch", tmp_path / "m.ckpt")
    assert caught.value.code == "E308"


class Apart(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
    """Two inputs whose sizes have nothing to do with each other."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2, y.sum(1)


def apart(path: Path, x: tuple[int, ...], dims: Any) -> Path:
    torch.export.save(torch.export.export(Apart().eval(), (torch.ones(x), torch.ones(2, 8)), dynamic_shapes=dims), path)
    return path


def test_a_multiple_of_a_dimension_is_a_range_of_multiples(tmp_path: Path) -> None:
    batch, height = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("height", min=1, max=16)
    found = read(
        tmp_path, "exported-program", apart(tmp_path / "m.pt2", (2, 16), ({0: batch, 1: 4 * height}, {0: batch}))
    )
    assert found["inputs"][0]["shape"] == ["batch", "x_1"]
    assert found["outputs"][0]["shape"] == ["batch", "x_1"]
    # torch.export has no sizes of 1 in an expression, so that the smallest is not 4.
    assert found["ranges"] == {"batch": [1, 8], "x_1": [8, 64]}
    assert found["multiples"] == {"x_1": 4}
    assert found["notes"] == []


def test_a_multiple_without_a_largest_size_stays_open(tmp_path: Path) -> None:
    batch, height = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("height")
    found = read(
        tmp_path, "exported-program", apart(tmp_path / "m.pt2", (2, 16), ({0: batch, 1: 4 * height}, {0: batch}))
    )
    assert found["ranges"]["x_1"] == [8, 2**31]
    assert found["multiples"] == {"x_1": 4}


@pytest.mark.parametrize("case", ["tied", "odd"])
def test_sizes_that_no_spec_can_say_are_fixed_as_exported(tmp_path: Path, case: str) -> None:
    batch, size = torch.export.Dim("batch", min=1, max=8), torch.export.Dim("size", min=2, max=20)
    if case == "tied":
        weights = apart(tmp_path / "m.pt2", (2, 16), ({0: batch, 1: 2 * size}, {0: batch, 1: size}))
        shapes, why = [["batch", 16], ["batch", 8]], "depends on"
    else:
        weights = apart(tmp_path / "m.pt2", (2, 17), ({0: batch, 1: 2 * size + 1}, {0: batch}))
        shapes, why = [["batch", 17], ["batch", 8]], "no range of multiples"
    found = read(tmp_path, "exported-program", weights)
    assert [each["shape"] for each in found["inputs"]] == shapes
    assert all(why in note["text"] and "as in the example" in note["text"] for note in found["notes"])
    assert len(found["notes"]) == (2 if case == "tied" else 1)


def test_constants_are_neither_inputs_nor_outputs(tmp_path: Path) -> None:
    class Constants(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
        def forward(
            self, x: torch.Tensor, times: int, mask: torch.Tensor | None = None
        ) -> dict[str, torch.Tensor | None]:
            return {"mask": mask, "y": x * times}

    torch.export.save(torch.export.export(Constants(), (torch.ones(2, 3), 4), {"mask": None}), tmp_path / "m.pt2")
    found = read(tmp_path, "exported-program", tmp_path / "m.pt2")
    assert tensors(found, "inputs") == [("x", "float32", [2, 3])]
    assert tensors(found, "outputs") == [("y", "float32", [2, 3])]
