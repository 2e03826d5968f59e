"""The spec's `model.source`: one pydantic model for each kind of source."""

# No `from __future__ import annotations`: pydantic would evaluate every annotation from its text, a quarter of the import.
from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.spec.model_files import FileKind
from orchestrator.spec.strict import Strict
from orchestrator.spec.types import FactoryRef, KeyPath, PythonName, RelPath, Sha256, SignatureName, VariableName

__all__ = [
    "FOLDERS",
    "KIND_OF_FILE",
    "SAY_NOTHING",
    "ExportedProgramSource",
    "KerasSource",
    "OnnxSource",
    "PytorchSource",
    "SavedModelSource",
    "Source",
    "SourceKind",
    "Task",
    "TfliteSource",
    "TorchscriptSource",
    "TransformersSource",
]

SourceKind = Literal[
    "pytorch", "torchscript", "exported-program", "keras", "saved-model", "onnx", "tflite", "transformers"
]
KIND_OF_FILE: dict[FileKind, SourceKind] = {
    "safetensors": "pytorch",
    "checkpoint": "pytorch",
    "torchscript": "torchscript",
    "exported-program": "exported-program",
    "onnx": "onnx",
    "keras": "keras",
    "tflite": "tflite",
    "saved-model": "saved-model",
}
"""What a file looks like → the kind that reads it."""

FOLDERS: frozenset[SourceKind] = frozenset({"saved-model", "transformers"})
"""Kinds whose model is a folder."""

SAY_NOTHING: frozenset[SourceKind] = frozenset({"pytorch", "torchscript", "exported-program"})
"""Kinds whose files do not describe their inputs and outputs, at least not by name: tensors are identified by position."""

Task = Literal[
    "auto",
    "feature-extraction",
    "sentence-embedding",
    "text-classification",
    "token-classification",
    "fill-mask",
    "question-answering",
    "image-classification",
]

_Weights = Annotated[RelPath, Field(description="The file, relative to the spec.", examples=["model.safetensors"])]
_Sha256 = Annotated[Sha256, Field(description="Expected sha256 of the file.")]


class PytorchSource(Strict):
    """A state dict (safetensors, or a checkpoint that is only tensors) and the code that builds its architecture."""

    kind: Literal["pytorch"]
    weights: _Weights
    factory: FactoryRef = Field(
        description="`module:attribute` that builds the architecture; imported from the spec's folder.",
        examples=["digits_model:DigitsNet"],
    )
    kwargs: dict[PythonName, Any] = Field(
        default_factory=dict, max_length=100, description="Keyword arguments for the factory."
    )
    weights_key: KeyPath | None = Field(
        default=None, description="Location of the state dict, or a part of it, in a checkpoint: `state_dict.model`."
    )
    path: list[RelPath] = Field(
        default=[],
        max_length=16,
        description="Folders that modules are imported from besides the spec's own, relative to it.",
        examples=[["../src"]],
    )
    env: list[VariableName] = Field(
        default=[],
        max_length=64,
        description="Environment variables that the code reads; it sees few others, and their values count as its inputs.",
        examples=[["RANKER_CONFIG"]],
    )
    sha256: _Sha256 | None = None


class TorchscriptSource(Strict):
    """A TorchScript archive."""

    kind: Literal["torchscript"]
    weights: _Weights
    sha256: _Sha256 | None = None


class ExportedProgramSource(Strict):
    """A `.pt2` archive written by `torch.export.save`."""

    kind: Literal["exported-program"]
    weights: _Weights
    sha256: _Sha256 | None = None


class KerasSource(Strict):
    """A whole Keras model, `.keras` or `.h5`, without custom code."""

    kind: Literal["keras"]
    weights: _Weights
    sha256: _Sha256 | None = None


_Folder = Annotated[RelPath, Field(description="The folder, relative to the spec.", examples=["model"])]
_FolderSha256 = Annotated[
    Sha256, Field(description="Expected digest of the folder; error `E204` shows the actual one.")
]
_SignatureName = Field(default="serving_default", description="The signature to serve.")


class SavedModelSource(Strict):
    """A TensorFlow SavedModel folder."""

    kind: Literal["saved-model"]
    weights: _Folder
    signature: SignatureName = _SignatureName
    sha256: _FolderSha256 | None = None


class OnnxSource(Strict):
    """An ONNX model, with its external data beside it."""

    kind: Literal["onnx"]
    weights: _Weights
    sha256: Sha256 | None = Field(
        default=None,
        description="Expected sha256 of the file; for several files, the digest that error `E204` shows.",
    )


class TfliteSource(Strict):
    """A LiteRT (TFLite) model."""

    kind: Literal["tflite"]
    weights: _Weights
    sha256: _Sha256 | None = None


class TransformersSource(Strict):
    """A folder of the Transformers library: config.json, tokenizer, and safetensors or pytorch_model.bin. Its code is never run."""

    kind: Literal["transformers"]
    weights: _Folder
    task: Task = Field(default="auto", description="The model's task; `auto` reads it from its configuration.")
    sha256: _FolderSha256 | None = None


Source = Annotated[
    PytorchSource
    | TorchscriptSource
    | ExportedProgramSource
    | KerasSource
    | SavedModelSource
    | OnnxSource
    | TfliteSource
    | TransformersSource,
    Field(discriminator="kind", description="Where the model comes from.", examples=[{"kind": "pytorch"}]),
]
