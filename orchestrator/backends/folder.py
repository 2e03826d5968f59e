"""Writes the files of a serving folder with the same bytes and modes on every machine."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.spec.signature import Signature, Tensor

__all__ = [
    "body_limit",
    "copy_file",
    "json_text",
    "largest_batch",
    "least_body",
    "model_file",
    "read_json",
    "write_file",
]

MODEL_FILES = {
    "onnx": "model.onnx",
    "torchscript": "model.pt",
    "exported-program": "model.pt2",
    "saved-model": "saved_model",
    "tflite": "model.tflite",
}
"""Format → the model file or folder of a variant."""

_BYTES_PER_NUMBER = 28
"""A float64 in JSON with its sign, exponent, comma and space."""

_BYTES_PER_TENSOR = 256
"""What a request says of an input besides its numbers."""

_BYTES_PER_TEXT = 4096
"""Texts have no maximum size; this assumed average is a page or two."""


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file that everybody may read; missing parent folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(0o644)


def copy_file(source: Path, target: Path) -> str:
    """Copy bytes without times or owner; returns their sha256 in hex."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o644)
    with target.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def json_text(document: Any) -> str:
    """JSON in the style of all files of mlo: sorted keys, indented by one, a newline at the end."""
    return json.dumps(document, sort_keys=True, indent=1) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file written with `json_text`.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a JSON object.
    """
    document = json.loads(path.read_bytes())
    if not isinstance(document, dict):
        raise ValueError(f"{path.name} is not a JSON object")  # noqa: TRY004 - the content of a file is a value
    return document


def model_file(format_name: str, variant: Path) -> Path:
    """The model file of a variant, or the folder of a SavedModel.

    Raises:
        FileNotFoundError: it is missing.
    """
    path = variant / MODEL_FILES[format_name]
    if not path.exists():
        raise FileNotFoundError(f"the variant has no {path.name}")
    return path


def largest_batch(signature: Signature, wanted: int) -> int:
    """`wanted` rows, or the most below that the model takes; 1 for a model without a batch dimension."""
    if signature.batch is None:
        return 1
    step = signature.multiples.get(signature.batch, 1)
    return max(1, min(wanted, signature.dims[signature.batch][1]) // step * step)


def body_limit(signature: Signature) -> int:
    """A generous limit for the JSON body of the largest valid request, bytes; between 1 MiB and 1 GiB."""

    def needed(tensor: Tensor) -> int:
        largest = {name: bounds[1] for name, bounds in signature.dims.items()}
        elements = 0 if tensor.shape is None else math.prod(signature.shape_at(tensor, largest))
        return elements * (_BYTES_PER_TEXT if tensor.dtype == "string" else _BYTES_PER_NUMBER)

    data = max(sum(map(needed, signature.inputs)), sum(map(needed, signature.outputs)))
    return min(max(data + 2**16, 2**20), 2**30)


def least_body(signature: Signature) -> int:
    """What the smallest valid request needs as JSON, bytes; texts have no minimum size."""
    smallest = {name: bounds[0] for name, bounds in signature.dims.items()}
    numbers = sum(
        math.prod(signature.shape_at(tensor, smallest)) * _BYTES_PER_NUMBER
        for tensor in signature.inputs
        if tensor.shape is not None and tensor.dtype != "string"
    )
    return numbers + _BYTES_PER_TENSOR * len(signature.inputs)
