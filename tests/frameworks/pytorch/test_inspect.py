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
