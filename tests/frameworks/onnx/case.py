"""Builds small ONNX models as producers write them, and runs the steps of ONNX sources on them as the engine would."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from orchestrator.frameworks.onnx.convert import to_onnx
from orchestrator.frameworks.onnx.source import check, inspect
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import StepContext, StepError
from orchestrator.steps.parameters import (
    ConvertParameters,
    ImportParameters,
    InspectParameters,
    Parameters,
    SourceParameters,
    TensorNames,
)

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Array

OPSET = 17
WEIGHTS = np.arange(12, dtype=np.float32).reshape(4, 3) / 10
X = np.linspace(-1, 1, 20, dtype=np.float32).reshape(5, 4)
"""Rows for `linear`."""

Shape = Sequence[int | str | None]
WEIGHTS_PLACE = ("model", "source", "weights")


def value(name: str, dtype: int, shape: Shape | None) -> Any:
    """An input or output."""
    return helper.make_tensor_value_info(name, dtype, shape)


def floats(name: str, shape: Shape | None) -> Any:
    """A float32 input or output."""
    return value(name, TensorProto.FLOAT, shape)


def model(
    nodes: Iterable[Any],
    inputs: Iterable[Any],
    outputs: Iterable[Any],
    stored: Iterable[Any] = (),
    *,
    opset: int = OPSET,
    ir: int = 8,
    domains: Mapping[str, int] | None = None,
    functions: Iterable[Any] = (),
) -> Any:
    """A ModelProto."""
    graph = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), list(stored))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in (domains or {}).items())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir, functions=list(functions))


def stored(name: str, array: Array) -> Any:
    """A tensor whose values stand in the model."""
    return numpy_helper.from_array(np.asarray(array), name)


def outside(name: str, array: Array, location: str = "weights.bin", **more: int | str | None) -> Any:
    """A tensor whose values lie in another file; `more` are or replace `offset` and `length`, None leaves them out."""
    tensor = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, entry in {"location": location, "offset": 0, "length": array.nbytes, **more}.items():
        if entry is not None:
            tensor.external_data.add(key=key, value=str(entry))
    return tensor


def linear(weights: Any = None, *, inputs: str = "x", outputs: str = "y", **more: Any) -> Any:
    """`y = x @ w`: x [N, 4] and y [N, 3]."""
    weights = stored("w", WEIGHTS) if weights is None else weights
    return model(
        [helper.make_node("MatMul", [inputs, "w"], [outputs])],
        [floats(inputs, ["N", 4])],
        [floats(outputs, ["N", 3])],
        [weights],
        **more,
    )


def wide(rows: int = 4, columns: int = 2000) -> Array:
    """Weights that are large enough to stay in a file of their own."""
    return np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)


def saved(proto: Any, folder: Path, name: str = "model.onnx") -> Path:
    """The model's file; data that lie in other files are not written."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return path


@dataclass(frozen=True)
class Ran:
    """What a step left."""

    folder: Path
    facts: dict[str, Any]

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def arrays(self, name: str) -> dict[str, Array]:
        with np.load(self.folder / name, allow_pickle=False) as file:
            return dict(file)

    @property
    def proto(self) -> Any:
        return onnx.load(str(self.folder / "model.onnx"))


def signature(
    inputs: Mapping[str, tuple[str, Sequence[int | str]]],
    outputs: Sequence[str] = ("y",),
    dims: Mapping[str, tuple[int, int]] | None = None,
    batch: str | None = "batch",
) -> dict[str, Any]:
    """A signature as the planner hands it on: outputs without dtype and shape."""
    return {
        "inputs": [{"name": n, "dtype": d, "shape": list(s)} for n, (d, s) in inputs.items()],
        "outputs": [{"name": name, "dtype": "", "shape": None} for name in outputs],
        "dims": {name: list(bounds) for name, bounds in (dims or {"batch": (1, 8)}).items()},
        "batch": batch,
    }


LINEAR = signature({"x": ("float32", ["batch", 4])})


def run_inspect(path: Path, root: Path) -> Ran:
    """The step `inspect` on this file."""
    return _run(inspect, root / "inspect", InspectParameters(SourceParameters("onnx")), {"weights": path})


def run_check(
    path: Path,
    root: Path,
    declared: Mapping[str, Any] = LINEAR,
    names: Mapping[str, Mapping[str, str]] | None = None,
    samples: Mapping[str, Array] | None = None,
) -> Ran:
    """The import step on this file, with the model's own names where `names` says none."""
    inputs = {"weights": path}
    root.mkdir(exist_ok=True)
    if samples is not None:
        inputs["samples"] = root / "samples.npz"
        np.savez(inputs["samples"], **dict(samples))  # type: ignore[arg-type]  # the stub takes the names for options
    return _run(
        check,
        root / "import",
        ImportParameters(_source(names), Signature.from_json(declared), seed=0, max_rows=256),
        inputs,
    )


def run_convert(
    path: Path,
    root: Path,
    declared: Mapping[str, Any] = LINEAR,
    names: Mapping[str, Mapping[str, str]] | None = None,
    samples: Mapping[str, Array] | None = None,
) -> Ran:
    """The import step and then the conversion."""
    imported = run_check(path, root, declared, names, samples)
    inputs = {"weights": path, "import": imported.folder}
    return _run(to_onnx, root / "convert", ConvertParameters(_source(names)), inputs)


def _source(names: Mapping[str, Mapping[str, str]] | None) -> SourceParameters:
    return SourceParameters("onnx", names=TensorNames(**(names or {})))


def _run(step: Any, folder: Path, parameters: Parameters, inputs: Mapping[str, Path]) -> Ran:
    for name in ("output", "scratch"):
        (folder / name).mkdir(parents=True)
    facts = step(StepContext(parameters.as_json(), inputs, folder / "output", folder / "scratch", folder))
    return Ran(folder / "output", facts)


def refused(code: str, step: Any, *args: Any, at: tuple[str | int, ...] | None = None, **kwargs: Any) -> StepError:
    """The error of the step, which has this code and, if asked, blames this place of the spec."""
    with pytest.raises(StepError) as caught:
        step(*args, **kwargs)
    assert caught.value.code == code, (caught.value.code, caught.value.message, caught.value.cause)
    if at is not None:
        assert caught.value.at == at
    return caught.value
