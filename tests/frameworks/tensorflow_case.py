"""Runs the steps of TensorFlow's and LiteRT's models in processes of their own: pytest's may have loaded PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.frameworks.samples import Array

HERE = Path(__file__).parent
FRAMEWORKS = "orchestrator.frameworks"
SOURCES = {
    "keras": f"{FRAMEWORKS}.keras_source",
    "saved-model": f"{FRAMEWORKS}.saved_model_source",
    "tflite": f"{FRAMEWORKS}.tflite_source",
}
CONVERSIONS = {
    "keras": {
        name: f"{FRAMEWORKS}.tf_convert:to_{name.replace('-', '_')}" for name in ("saved-model", "onnx", "tflite")
    },
    "tflite": {name: f"{FRAMEWORKS}.tflite_convert:to_{name}" for name in ("onnx", "tflite")},
}
CONVERSIONS["saved-model"] = CONVERSIONS["keras"]


@dataclass(frozen=True)
class Case:
    """A model, and what the spec says of it.

    Attributes:
        inputs: name → (dtype, shape).
        own: `{"inputs": {name in the spec: name in the model}, "outputs": {...}}`.
        samples: by name; random ones are made where there are none.
    """

    kind: str
    weights: str
    inputs: Mapping[str, tuple[str, list[int | str]]]
    outputs: Sequence[str]
    dims: Mapping[str, tuple[int, int]]
    batch: str | None = "batch"
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    samples: str | None = None

    @property
    def signature(self) -> dict[str, Any]:
        return {
            "inputs": [{"name": n, "dtype": d, "shape": s} for n, (d, s) in self.inputs.items()],
            "outputs": [{"name": n, "dtype": "", "shape": None} for n in self.outputs],
            "dims": {name: list(bounds) for name, bounds in self.dims.items()},
            "batch": self.batch,
        }


@dataclass(frozen=True)
class Result:
    """What became of a step: its summary, or what it was refused for."""

    folder: Path
    document: Mapping[str, Any]

    @property
    def summary(self) -> Any:
        assert "summary" in self.document, f"{self.document['message']}: {self.document['cause']}"
        return self.document["summary"]

    @property
    def refusal(self) -> Mapping[str, Any]:
        assert self.document.get("code"), self.document
        return self.document

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text("utf-8"))

    def arrays(self, name: str) -> dict[str, Array]:
        with np.load(self.folder / name, allow_pickle=False) as file:
            return dict(file)


def run_steps(root: Path, steps: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Result]:
    """Run the steps in one process, in the folder `root`, which must be empty.

    Args:
        root: gets `NAME/output` for each step.
        steps: `name`, `function`, `params`, `inputs` (role → path).
        seed: of Python's hashes.
    """
    root.mkdir(parents=True, exist_ok=True)
    request = root / "request.json"
    request.write_text(json.dumps(list(steps), default=str), "utf-8")
    process = subprocess.run(
        [sys.executable, str(HERE / "run_steps.py"), str(request)],
        env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": ":".join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    results = json.loads((root / "results.json").read_text("utf-8"))
    return {name: Result(root / name / "output", document) for name, document in results["steps"].items()}


def loaded(root: Path) -> list[str]:
    """Which frameworks the process of `run_steps` had loaded in the end."""
    names: list[str] = json.loads((root / "results.json").read_text("utf-8"))["loaded"]
    return names


def steps_of(
    case: Case, models: Path, root: Path, formats: Sequence[str], precisions: Sequence[str] = ("fp32",)
) -> list[dict[str, Any]]:
    """Import, then each format converted and verified, then in the other precisions: `onnx`, `verify.onnx`, `onnx-int8`, ..."""
    source = {"kind": case.kind, "names": case.own}
    weights = {"weights": models / case.weights}
    given = {} if case.samples is None else {"samples": models / case.samples}
    common = {"source": source, "signature": case.signature, "seed": 0}
    imported = root / "import" / "output"
    steps: list[dict[str, Any]] = [
        _step("import", f"{SOURCES[case.kind]}:check", {**common, "max_rows": 256}, {**weights, **given})
    ]
    for name in formats:
        variant = root / name / "output"
        steps += [
            _step(name, CONVERSIONS[case.kind][name], common, {**weights, "import": imported}),
            _verify(name, name, "fp32", variant, imported),
        ]
        if "int8" in precisions and name != "saved-model":
            quantize = "onnx_quantize" if name == "onnx" else "tflite_quantize"
            start = {"model": variant} if name == "onnx" else weights
            steps += [
                _step(f"{name}-int8", f"{FRAMEWORKS}.{quantize}:to_int8", common, {**start, "import": imported}),
                _verify(f"{name}-int8", name, "int8", root / f"{name}-int8" / "output", imported),
            ]
    return steps


def _step(name: str, function: str, params: Mapping[str, Any], inputs: Mapping[str, Path]) -> dict[str, Any]:
    return {"name": name, "function": function, "params": params, "inputs": inputs}


def _verify(name: str, format_name: str, precision: str, variant: Path, imported: Path) -> dict[str, Any]:
    params = {"variant": name, "format": format_name, "precision": precision, "gates": {}}
    return _step(
        f"verify.{name}", "orchestrator.measure.verify:verify", params, {"import": imported, "variant": variant}
    )
