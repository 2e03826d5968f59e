"""Runs the steps `inspect` and `import` of a source in the process that has its framework."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.frameworks.source.samples import Array
from orchestrator.steps.context import StepError
from tests.frameworks.step_process import Done, StepProcess

Tensors = Mapping[str, tuple[str, list[int | str]]]
WEIGHTS = ("model", "source", "weights")


def signature(
    inputs: Tensors,
    outputs: list[str],
    dims: Mapping[str, tuple[int, int]] | None = None,
    batch: str | None = "batch",
) -> dict[str, Any]:
    """A signature as the planner hands it on: outputs without dtype and shape."""
    return {
        "inputs": [{"name": name, "dtype": dtype, "shape": shape} for name, (dtype, shape) in inputs.items()],
        "outputs": [{"name": name, "dtype": "", "shape": None} for name in outputs],
        "dims": {name: list(bounds) for name, bounds in (dims or {"batch": (1, 8)}).items()},
        "batch": batch,
    }


@dataclass(frozen=True)
class Source:
    """One model as a spec names it."""

    process: StepProcess
    kind: str
    weights: Path
    said: Mapping[str, Any]

    @property
    def module(self) -> str:
        rooms = {"keras": "tensorflow.keras_source", "saved-model": "tensorflow.saved_model_source"}
        return rooms[self.kind]

    def source(self, names: Mapping[str, Mapping[str, str]] | None = None) -> dict[str, Any]:
        return {"kind": self.kind, "names": dict(names or {}), **self.said}

    def inspect(self) -> Any:
        """What `inspection.json` holds."""
        done = self.process.step(f"{self.module}:inspect", {"source": self.source()}, {"weights": self.weights})
        return done.json("inspection.json")

    def check(
        self,
        declared: Mapping[str, Any],
        samples: Mapping[str, Array] | Path | None = None,
        names: Mapping[str, Mapping[str, str]] | None = None,
    ) -> Done:
        """What the import step leaves."""
        inputs = {"weights": self.weights}
        if isinstance(samples, Path):
            inputs["samples"] = samples
        elif samples is not None:
            inputs["samples"] = self.weights.with_name(f"{self.weights.name}.samples.npz")
            np.savez(inputs["samples"], **dict(samples))  # type: ignore[arg-type]  # the stub takes names for options
        params = {"source": self.source(names), "signature": dict(declared), "seed": 0, "max_rows": 256}
        return self.process.step(f"{self.module}:check", params, inputs)

    def baseline(
        self,
        resolved: Mapping[str, Any],
        inputs: Mapping[str, Array],
        names: Mapping[str, Mapping[str, str]] | None = None,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """The answers and the facts of the model as given."""
        arguments = {
            "source": self.source(names),
            "inputs": {"weights": self.weights},
            "project": self.weights.parent,
            "signature": resolved,
            "threads": 1,
        }
        return self.process.call(f"{self.module}:open_baseline", arguments, inputs)

    def refused(self, code: str, at: tuple[str | int, ...] = WEIGHTS) -> StepError:
        """The error of `inspect`."""
        return told(code, at, self.inspect)

    def check_refused(self, code: str, at: tuple[str | int, ...], *arguments: Any, **keywords: Any) -> StepError:
        """The error of `check`."""
        return told(code, at, self.check, *arguments, **keywords)


def told(code: str, at: tuple[str | int, ...], function: Any, *arguments: Any, **keywords: Any) -> StepError:
    """The error that a call raises, which has this code and blames this place of the spec."""
    with pytest.raises(StepError) as caught:
        function(*arguments, **keywords)
    error = caught.value
    assert (error.code, error.at) == (code, at), f"{error.code} {error.at} {error.message}: {error.cause}"
    assert error.remedy
    return error
