"""Models of `pytorch/project/zoo.py` with what the import step leaves of them, for the tests of conversions."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from orchestrator.frameworks.pytorch.export import quiet
from orchestrator.frameworks.pytorch.runtime import call
from orchestrator.frameworks.pytorch.source import load_source
from orchestrator.frameworks.source.edge_cases import edge_cases
from orchestrator.frameworks.source.samples import Samples, random_samples, row_shape
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import SourceParameters
from tests.artifacts.made import imported as imported_model

PROJECT = Path(__file__).parent / "pytorch" / "project"

_TAGGER = Signature(
    (Tensor("ids", "int64", ("batch", "length")), Tensor("mask", "bool", ("batch", "length"))),
    (Tensor("scores", "float32", ("batch", "length", 3)),),
    {"batch": (1, 8), "length": (2, 32)},
    "batch",
)
SIGNATURES = {
    "Cnn": Signature(
        (Tensor("image", "float32", ("batch", 1, 8, 8)),),
        (Tensor("logits", "float32", ("batch", 10)),),
        {"batch": (1, 64)},
        "batch",
    ),
    "TwoInTwoOut": Signature(
        (Tensor("ids", "int64", ("batch", "length")), Tensor("mask", "float32", ("batch", "length"))),
        (Tensor("tokens", "float32", ("batch", "length", 8)), Tensor("score", "float32", ("batch", 1))),
        {"batch": (1, 16), "length": (1, 128)},
        "batch",
    ),
    "Tagger": _TAGGER,
    "ConstantPaddingTagger": _TAGGER,
    "Attention": Signature(
        (Tensor("x", "float32", ("batch", "length", 16)),),
        (Tensor("y", "float32", ("batch", "length", 16)),),
        {"batch": (1, 8), "length": (2, 64)},
        "batch",
    ),
    "Recurrent": Signature(
        (Tensor("x", "float32", ("batch", "length", 6)),),
        (Tensor("y", "float32", ("batch", 3)),),
        {"batch": (1, 8), "length": (1, 40)},
        "batch",
    ),
    "Pyramid": Signature(
        (Tensor("image", "float32", ("batch", 3, "height", "width")),),
        (Tensor("boxes", "float32", ("batch", 4, "height", "width")),),
        {"batch": (1, 4), "height": (16, 48), "width": (16, 40)},
        "batch",
        {"height": 8, "width": 8},
    ),
    "NoBatch": Signature(
        (Tensor("signal", "float32", ("length", 3)),),
        (Tensor("mean", "float32", (2,)), Tensor("top", "int64", ("length",))),
        {"length": (2, 50)},
        None,
    ),
    "SingleNumbers": Signature(
        (Tensor("x", "float32", ("length", 4)), Tensor("gain", "float32", ()), Tensor("step", "int64", ())),
        (Tensor("y", "float32", ("length", 4)), Tensor("sum", "float32", ())),
        {"length": (1, 16)},
        None,
    ),
}
_FOUR = Signature(
    (Tensor("x", "float32", ("batch", 4)),), (Tensor("y", "float32", ("batch", 4)),), {"batch": (1, 16)}, "batch"
)


@dataclass(frozen=True)
class Case:
    """A source model and what the import step left of it."""

    source: dict[str, Any]
    weights: Path
    imported: Path
    signature: Signature
    root: Path

    def module(self) -> Callable[[Any], Any]:
        """The source model, from one array to its only output."""
        built = load_source(SourceParameters.from_json(self.source), {"weights": self.weights}, PROJECT)
        return lambda array: built(torch.from_numpy(array)).detach().numpy()

    def context(self, name: str, inputs: Mapping[str, Path] | None = None, **params: Any) -> StepContext:
        """A context with empty folders; `name` keeps the runs of one test apart."""
        folders = {role: self.root / name / role for role in ("output", "scratch")}
        for folder in folders.values():
            folder.mkdir(parents=True)
        return StepContext(
            params={"source": self.source, **params},
            inputs=inputs or {"weights": self.weights, "import": self.imported},
            output=folders["output"],
            scratch=folders["scratch"],
            project=PROJECT,
        )


BuildCase = Callable[..., Case]


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BuildCase:
    """Builds a case of one of the models in `zoo.py`."""
    monkeypatch.syspath_prepend(PROJECT)

    def build(
        model: str,
        kind: str = "pytorch",
        dims: dict[str, tuple[int, int]] | None = None,
        given: Samples | None = None,
    ) -> Case:
        signature = SIGNATURES.get(model, _FOUR)
        signature = replace(signature, dims={**signature.dims, **(dims or {})})
        torch.manual_seed(0)
        module = getattr(importlib.import_module("zoo"), model)().eval()
        weights = tmp_path / f"{model}.weights"
        source: dict[str, Any] = {"kind": kind}
        samples = given or random_samples(signature, 0)
        if kind == "pytorch":
            save_file(module.state_dict(), weights)
            source["factory"] = f"zoo:{model}"
        else:
            args = tuple(torch.from_numpy(samples.inputs[t.name][:2]) for t in signature.inputs)
            _save(kind, module, args, signature, weights)
        built = sum(1 for _ in tmp_path.glob("import*"))
        imported = tmp_path / (f"import-{built}" if built else "import")
        _write_import(imported, module, signature, samples)
        return Case(source, weights, imported, signature, tmp_path)

    return build


def _save(kind: str, module: Any, args: tuple[Any, ...], signature: Signature, path: Path) -> None:
    with quiet():
        if kind == "torchscript":
            torch.jit.trace(module, args).save(str(path))
            return
        dims = {name: torch.export.Dim(name, min=low, max=high) for name, (low, high) in signature.dims.items()}
        shapes = tuple({a: dims[d] for a, d in enumerate(t.shape or ()) if d in dims} for t in signature.inputs)
        with path.open("wb") as file:
            torch.export.save(torch.export.export(module, args, dynamic_shapes=shapes), file)


def _write_import(folder: Path, module: Any, signature: Signature, samples: Samples) -> None:
    (folder / "edge").mkdir(parents=True)
    for tensor in signature.inputs:
        assert samples.real or samples.inputs[tensor.name].shape[1:] == row_shape(
            tensor, signature, {d: min(max(32, low), high) for d, (low, high) in signature.dims.items()}
        )
    np.savez(folder / "samples.npz", allow_pickle=False, **samples.inputs)
    if signature.batch is not None:
        baseline = call(module, signature, samples.inputs)
    else:
        calls = [call(module, signature, {n: a[row] for n, a in samples.inputs.items()}) for row in range(samples.rows)]
        baseline = {name: np.stack([outputs[name] for outputs in calls]) for name in calls[0]}
    np.savez(folder / "baseline.npz", allow_pickle=False, **baseline)
    cases = edge_cases(samples, signature)
    imported_model(signature, rows=samples.rows, edges=[case.name for case in cases]).write(folder)
    for index, edge in enumerate(cases):
        np.savez(folder / "edge" / f"{index}.inputs.npz", allow_pickle=False, **edge.inputs)
        np.savez(folder / "edge" / f"{index}.outputs.npz", allow_pickle=False, **call(module, signature, edge.inputs))


def _json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
