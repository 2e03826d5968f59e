"""Runs the import step on the models of `source_project`, as the engine would."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from orchestrator.frameworks.pytorch.source import check
from orchestrator.frameworks.source.user_code import build
from orchestrator.steps.context import StepContext, StepError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.frameworks.source.samples import Array

PROJECT = Path(__file__).parent / "project"
ROWS: dict[str, tuple[str, list[int | str]]] = {"x": ("float32", ["batch", 4])}


@dataclass(frozen=True)
class Imported:
    """What the step left."""

    folder: Path
    facts: dict[str, Any]

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def arrays(self, name: str) -> dict[str, Array]:
        with np.load(self.folder / name, allow_pickle=False) as file:
            return dict(file)

    def edge(self, name: str) -> tuple[dict[str, Array], dict[str, Array]]:
        number = next(case["number"] for case in self.json("imported.json")["edge_cases"] if case["name"] == name)
        return self.arrays(f"edge/{number}.inputs.npz"), self.arrays(f"edge/{number}.outputs.npz")


def signature(
    inputs: Mapping[str, tuple[str, list[int | str]]] | None = None,
    outputs: Mapping[str, list[int | str] | None] | None = None,
    dims: Mapping[str, tuple[int, int]] | None = None,
    batch: str | None = "batch",
) -> dict[str, Any]:
    """A signature as the planner hands it on: outputs without a dtype."""
    return {
        "inputs": [{"name": n, "dtype": d, "shape": s} for n, (d, s) in (inputs or ROWS).items()],
        "outputs": [{"name": n, "dtype": "", "shape": s} for n, s in (outputs or {"y": None}).items()],
        "dims": {name: list(bounds) for name, bounds in (dims or {"batch": (1, 16)}).items()},
        "batch": batch,
    }


def model(name: str, **kwargs: Any) -> torch.nn.Module:
    """A model of the project, the same weights each time."""
    build("source_models:Linear", {}, PROJECT)  # the first time, what it imports draws random numbers
    torch.manual_seed(0)
    built: torch.nn.Module = build(f"source_models:{name}", kwargs, PROJECT)
    return built


def saved(name: str, path: Path, **kwargs: Any) -> Path:
    """Its weights as safetensors."""
    file = path / "model.safetensors"
    save_file({key: value.clone() for key, value in model(name, **kwargs).state_dict().items()}, file)
    return file


def traced(module: torch.nn.Module, path: Path, *inputs: torch.Tensor, check_trace: bool = True) -> Path:
    """A TorchScript archive made by tracing."""
    file = path / "model.pt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        torch.jit.trace(module, inputs, check_trace=check_trace).save(str(file))
    return file


def exported(module: torch.nn.Module, path: Path, *inputs: torch.Tensor, dynamic: bool = True) -> Path:
    """An exported program; all first dimensions are dynamic."""
    shapes = tuple({0: torch.export.Dim("batch", min=1, max=1024)} for _ in inputs) if dynamic else None
    file = path / "model.pt2"
    torch.export.save(torch.export.export(module, inputs, dynamic_shapes=shapes), file)
    return file


def run(
    path: Path,
    source: Mapping[str, Any],
    weights: Path,
    declared: Mapping[str, Any] | None = None,
    samples: Mapping[str, Array] | None = None,
    project: Path = PROJECT,
) -> Imported:
    """The import step on these weights, in an empty folder below `path`."""
    output = path / "output"
    scratch = path / "scratch"
    output.mkdir()
    scratch.mkdir()
    inputs = {"weights": weights}
    if samples is not None:
        inputs["samples"] = path / "samples.npz"
        np.savez(inputs["samples"], **dict(samples))  # type: ignore[arg-type]  # the stub takes the names for options
    params = {"source": dict(source), "signature": dict(declared or signature()), "seed": 0, "max_rows": 256}
    facts = check(StepContext(params, inputs, output, scratch, project))
    return Imported(output, facts)


def run_model(
    path: Path,
    name: str,
    declared: Mapping[str, Any] | None = None,
    samples: Mapping[str, Array] | None = None,
    **kwargs: Any,
) -> Imported:
    """The import step on a model of the project, its own weights stored as safetensors."""
    source = {"kind": "pytorch", "factory": f"source_models:{name}", "kwargs": kwargs}
    return run(path, source, saved(name, path, **kwargs), declared, samples)


def refused(code: str, *args: Any, at: tuple[str | int, ...], **kwargs: Any) -> StepError:
    """The error of `run_model(*args)`, which has this code and blames this place of the spec."""
    with pytest.raises(StepError) as caught:
        run_model(*args, **kwargs)
    assert (caught.value.code, caught.value.at) == (code, at), caught.value.message
    return caught.value
