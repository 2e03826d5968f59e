"""The protocol of runtimes, and how to open one for a format."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np

from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.artifacts.runtime_facts import RuntimeFacts
    from orchestrator.spec.signature import Signature
    from orchestrator.steps.parameters import SourceParameters

__all__ = [
    "RUNTIMES",
    "Accelerator",
    "OpenBaseline",
    "OpenRuntime",
    "Runtime",
    "gpu_not_used",
    "open_runtime",
    "open_with",
]

Accelerator = Literal["none", "cuda"]
"""As in the spec's `hardware.accelerator`; `cuda` is the first device that this process may use."""


def gpu_not_used(runtime: str, cause: str) -> StepError:
    """The error that is raised instead of silently computing on the CPU.

    Args:
        runtime: its name, such as `ONNX Runtime`.
        cause: the reason, a clause.
    """
    return StepError(
        "E427",
        f"{runtime} does not use the GPU that the spec asks for",
        cause=cause,
        remedy="install the package as built for CUDA, and a driver that it accepts: `mlo doctor` shows which of them is missing",
        at=("hardware", "accelerator"),
    )


RUNTIMES: Mapping[str, str] = MappingProxyType(
    {
        "onnx": "orchestrator.frameworks.onnx.runtime:open_onnx",
        "torchscript": "orchestrator.frameworks.pytorch.runtime:open_torchscript",
        "exported-program": "orchestrator.frameworks.pytorch.runtime:open_exported_program",
        "saved-model": "orchestrator.frameworks.tensorflow.runtime:open_saved_model",
        "tflite": "orchestrator.frameworks.litert.runtime:open_tflite",
    }
)
"""Format → the runtime with which a conversion checks its result: that of the format's default backend."""


class Runtime(Protocol):
    """A loaded model, ready to be called, with a fixed number of threads."""

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """One call in inference mode.

        Args:
            inputs: every input of the signature by name, in its dtype and shape. PyTorch shares memory with numpy, so a
                model that writes into its inputs changes these arrays, unless the runtime was opened with `open_with`.

        Returns:
            Every output of the signature by name; bfloat16 is returned as float32, because numpy lacks it. With the same
            exception, they may be memory of the model, which its next call overwrites.
        """

    def facts(self) -> RuntimeFacts:
        """The runtime's name, packages and threads."""


class OpenRuntime(Protocol):
    """The signature of the functions in `RUNTIMES`."""

    def __call__(
        self,
        directory: Path,
        signature: Signature,
        threads: int,
        accelerator: Accelerator = "none",
        **options: str | bool,
    ) -> Runtime:
        """Load the variant in `directory` to run on `threads` threads, or on a GPU if `accelerator` says so.

        `options`: those of `RuntimeOptions` that the backend declares and the candidate sets.
        """


class OpenBaseline(Protocol):
    """The signature of every source's `open_baseline`, which opens the original model: the baseline of all variants."""

    def __call__(
        self,
        source: SourceParameters,
        inputs: Mapping[str, Path],
        project: Path,
        signature: Signature,
        threads: int,
        accelerator: Accelerator = "none",
    ) -> Runtime:
        """Load the source.

        Args:
            source: the parameters of the source, as in the import step.
            inputs: with the role `weights`.
            project: the spec's folder, for sources that import the user's code.
            signature: as resolved by the import step, with the outputs in the model's order.
            threads: for the operators of one call.
            accelerator: the device that runs the model.
        """


@dataclass(frozen=True, slots=True)
class _Apart:
    """A runtime that neither changes its caller's arrays nor returns memory that a later call changes.

    The measured child opens runtimes without it, since a server does not copy either, and restores the inputs between calls.
    """

    runtime: Runtime

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """One call; see `Runtime.run`."""
        outputs = self.runtime.run({name: np.array(array, order="C") for name, array in inputs.items()})
        return {name: np.array(array) for name, array in outputs.items()}

    def facts(self) -> RuntimeFacts:
        """See `Runtime.facts`."""
        return self.runtime.facts()


def open_runtime(format_name: str, directory: Path, signature: Signature, threads: int) -> Runtime:
    """Load the variant in `directory` with the runtime of its format, on the CPU.

    Args:
        format_name: a key of `RUNTIMES`.
        directory: the folder of the variant.
        signature: as resolved by the import step.
        threads: for the operators of one call; at least 1.

    Raises:
        StepError: E420, the model file cannot be loaded.
    """
    return open_with(RUNTIMES[format_name], directory, signature, threads)


def open_with(
    opener: str,
    directory: Path,
    signature: Signature,
    threads: int,
    accelerator: Accelerator = "none",
    **options: str | bool,
) -> Runtime:
    """Load the variant in `directory` with the runtime of a backend, for comparisons: its calls share no arrays.

    Args:
        opener: `module:function` with the signature of `OpenRuntime`.
        directory: as for `open_runtime`.
        signature: as for `open_runtime`.
        threads: as for `open_runtime`.
        accelerator: the device that runs the model.
        options: further options of the runtime, such as `graph_optimization`; only those that the backend declares.

    Raises:
        StepError: as `open_runtime`; E427, the accelerator cannot be used.
    """
    module, _, function = opener.partition(":")
    opened = cast("OpenRuntime", getattr(importlib.import_module(module), function))
    return _Apart(opened(directory, signature, threads, accelerator, **options))
