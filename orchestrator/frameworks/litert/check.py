"""Checks a LiteRT model that a converter wrote: inputs, outputs, and which of their dimensions are open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.litert.runtime import FILE, open_interpreter
from orchestrator.frameworks.source.expected_kind import headline
from orchestrator.steps import StepError

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.frameworks.litert.file import TfliteTensor
    from orchestrator.spec.signature import Signature, Tensor

__all__ = ["finish"]


def finish(directory: Path, signature: Signature) -> dict[str, Any]:
    """Compare `model.tflite` in `directory` with the signature.

    Returns:
        `{"operators": [names]}`.

    Raises:
        StepError: E424, the file is invalid, or its inputs or outputs are not the declared ones.
    """
    try:
        _, file = open_interpreter(directory / FILE, 1)
    except (ValueError, RuntimeError) as error:
        raise StepError(
            "E424", "the converter wrote a file that LiteRT does not load", cause=headline(error)
        ) from error
    _compare("input", file.inputs, signature.inputs, signature)
    _compare("output", file.outputs, signature.outputs, signature)
    return {"operators": sorted(file.operators)}


def _compare(role: str, found: tuple[TfliteTensor, ...], declared: tuple[Tensor, ...], signature: Signature) -> None:
    by_name = {tensor.name: tensor for tensor in found}
    if set(by_name) != {tensor.name for tensor in declared}:
        cause = f"{sorted(by_name)} instead of {sorted(tensor.name for tensor in declared)}"
        raise StepError("E424", f"the LiteRT file has other {role}s than declared", cause=cause)
    for tensor in declared:
        own = by_name[tensor.name]
        if own.dtype != tensor.dtype:
            raise StepError(
                "E424", f"the {role} {tensor.name} is {own.dtype} in the LiteRT file, and {tensor.dtype} in the model"
            )
        if role == "output":
            continue  # the sizes of outputs are what running shows
        for size, dim in zip(own.shape, tensor.shape or (), strict=True):
            if size is not None and isinstance(dim, str) and signature.dims[dim] != (size, size):
                raise StepError(
                    "E424",
                    f"the conversion fixed dimension {dim} of {role} {tensor.name} at {size}",
                    remedy=f"take sizes from the tensor's shape in the model's code, or declare dimension {dim} as {size}",
                    at=("model", "dims", dim),
                )
