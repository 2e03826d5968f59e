"""Refuses a model file that is not of the kind in the spec, for all frameworks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.spec.model_files import describe, file_kind
from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.spec.model_files import FileKind

__all__ = ["AT_WEIGHTS", "expect_kind"]

AT_WEIGHTS = ("model", "source", "weights")

_NEEDED: dict[FileKind, str] = {
    "torchscript": "write `kind: torchscript`",
    "exported-program": "write `kind: exported-program`",
    "checkpoint": "write `kind: pytorch` with a `factory:` that builds the architecture",
    "safetensors": "write `kind: pytorch` with a `factory:` that builds the architecture",
    "onnx": "write `kind: onnx`",
    "keras": "write `kind: keras`",
    "tflite": "write `kind: tflite`",
    "saved-model": "write `kind: saved-model`",
}
_FILES: dict[FileKind, str] = {
    "safetensors": "a safetensors file",
    "checkpoint": "a state dict that torch.save wrote",
    "torchscript": "an archive that torch.jit.save wrote",
    "exported-program": "an archive that torch.export.save wrote",
    "onnx": "an ONNX model",
    "keras": "a whole model that Keras saved (.keras or .h5)",
    "tflite": "a LiteRT (TFLite) model",
    "saved-model": "a folder that tf.saved_model.save or Keras' model.export wrote",
}


def expect_kind(path: Path, kind: str, *wanted: FileKind) -> None:
    """Refuse a file or folder that is not of the kind in `kind:`.

    Args:
        path: the path in `weights:`.
        kind: as in the spec, for the message.
        wanted: the accepted kinds of files.

    Raises:
        StepError: E301.
    """
    if not path.exists():
        raise StepError(
            "E301",
            "the weights do not exist",
            cause=f"there is no `{path.name}`",
            remedy="correct the path",
            at=AT_WEIGHTS,
        )
    found = file_kind(path)
    if found in wanted:
        return
    raise StepError(
        "E301",
        f"the weights are not what `kind: {kind}` reads",
        cause=f"the {'path leads to' if path.is_dir() else 'file looks like'} {describe(path)}",
        remedy=_NEEDED.get(found, f"give {' or '.join(_FILES[name] for name in wanted)}"),
        at=AT_WEIGHTS,
    )
