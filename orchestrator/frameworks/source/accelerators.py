"""The accelerator that a model runs on: a runtime gets the one that the spec asks for, or says that it did not."""

from __future__ import annotations

from typing import Literal

from orchestrator.steps import StepError

__all__ = ["Accelerator", "not_used"]

Accelerator = Literal["none", "cuda"]
"""As in the spec's `hardware.accelerator`; `cuda` is the first device that this process may use."""


def not_used(runtime: str, cause: str) -> StepError:
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
