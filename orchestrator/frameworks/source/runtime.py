"""The protocol of a runtime, and the opening of one by its format."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

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
    """What is raised instead of computing on the CPU without a word.

    Args:
        runtime: whose concern it is, such as `ONNX Runtime`.
        cause: why, in a clause.
    """
    return StepError(
        "E427",
        f"{runtime} does not use the GPU that the spec asks for",
        cause=cause,
        remedy="`mlo doctor` shows the driver and which packages are built for CUDA",
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
"""Format → what a conversion opens its own result with: the runtime of the format's usual backend."""


class Runtime(Protocol):
    """A loaded model, ready to be called; it holds the threads that it was opened with."""

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """One call in inference mode.

        Args:
            inputs: every input of the signature by name, in its dtype and shape.

        Returns:
            Every output of the signature by name; bfloat16 comes as float32, which numpy knows.
        """

    def facts(self) -> RuntimeFacts:
        """What runs it."""


class OpenRuntime(Protocol):
    """The shape of the functions that `RUNTIMES` names."""

    def __call__(
        self, directory: Path, signature: Signature, threads: int, accelerator: Accelerator = "none", **options: str
    ) -> Runtime:
        """Load the variant in `directory`, to run on `threads` threads, on a GPU if that is the accelerator.

        `options`: those of `RuntimeOptions` that the backend declares and the candidate sets.
        """


class OpenBaseline(Protocol):
    """The shape of every source's `open_baseline`, which opens the model as given: the baseline of every variant."""

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
            source: how it is loaded, as the import step has it.
            inputs: with the role `weights`.
            project: the spec's folder, for sources that import the user's code.
            signature: as the import step left it, with the outputs in the model's order.
            threads: for the operators of one call.
            accelerator: what computes.
        """


def open_runtime(
    format_name: str, directory: Path, signature: Signature, threads: int, accelerator: Accelerator = "none"
) -> Runtime:
    """Load the variant in `directory` with the runtime of its format.

    Args:
        format_name: a key of `RUNTIMES`.
        directory: the variant: one model file.
        signature: with output shapes and dtypes resolved, as `import` leaves it.
        threads: for the operators of one call; at least 1.
        accelerator: what computes.

    Raises:
        StepError: E420, the model file does not load; E427, the accelerator is not used.
    """
    return open_with(RUNTIMES[format_name], directory, signature, threads, accelerator)


def open_with(
    opener: str, directory: Path, signature: Signature, threads: int, accelerator: Accelerator = "none", **options: str
) -> Runtime:
    """Load the variant in `directory` with the runtime that a backend names.

    Args:
        opener: `module:function` of the shape of `OpenRuntime`.
        directory: as for `open_runtime`.
        signature: as for `open_runtime`.
        threads: as for `open_runtime`.
        accelerator: what computes.
        options: further options of the runtime, such as `graph_optimization`; only those that the backend declares.

    Raises:
        StepError: as `open_runtime`.
    """
    module, _, function = opener.partition(":")
    opened = cast("OpenRuntime", getattr(importlib.import_module(module), function))
    return opened(directory, signature, threads, accelerator, **options)
