"""Where a model comes from: one model of the spec for each kind of source."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from orchestrator.spec.strict import Strict
from orchestrator.spec.types import FactoryRef, KeyPath, PythonName, RelPath, Sha256, SignatureName

__all__ = [
    "FOLDERS",
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
FOLDERS: frozenset[SourceKind] = frozenset({"saved-model", "transformers"})
"""Kinds whose model is a folder."""

SAY_NOTHING: frozenset[SourceKind] = frozenset({"pytorch", "torchscript", "exported-program"})
"""Kinds whose files do not say, or not by name, what goes in and what comes out: tensors are known by their place."""

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
_Sha256 = Annotated[Sha256, Field(description="What the file's sha256 must be.")]


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
        default=None, description="Where the state dict, or a part of it, sits in a checkpoint: `state_dict.model`."
    )
    sha256: _Sha256 | None = None


class TorchscriptSource(Strict):
    """A TorchScript archive."""

    kind: Literal["torchscript"]
    weights: _Weights
    sha256: _Sha256 | None = None


class ExportedProgramSource(Strict):
    """A `.pt2` archive of `torch.export.save`."""

    kind: Literal["exported-program"]
    weights: _Weights
    sha256: _Sha256 | None = None


class KerasSource(Strict):
    """A whole Keras model, `.keras` or `.h5`, without code of its own."""

    kind: Literal["keras"]
    weights: _Weights
    sha256: _Sha256 | None = None


_Folder = Annotated[RelPath, Field(description="The folder, relative to the spec.", examples=["model"])]
_FolderSha256 = Annotated[Sha256, Field(description="What the folder's digest must be; `E204` says what it is.")]
_SignatureName = Field(default="serving_default", description="Which of the model's signatures is served.")


class SavedModelSource(Strict):
    """A SavedModel folder of TensorFlow."""

    kind: Literal["saved-model"]
    weights: _Folder
    signature: SignatureName = _SignatureName
    sha256: _FolderSha256 | None = None


class OnnxSource(Strict):
    """An ONNX model; its external data lie beside it."""

    kind: Literal["onnx"]
    weights: _Weights
    sha256: Sha256 | None = Field(
        default=None,
        description="What the file's sha256 must be; of all its files, where there are several, as `E204` says it.",
    )


class TfliteSource(Strict):
    """A LiteRT (TFLite) model."""

    kind: Literal["tflite"]
    weights: _Weights
    sha256: _Sha256 | None = None


class TransformersSource(Strict):
    """A folder of the Transformers library: config.json, the tokenizer and safetensors. Its code is never run."""

    kind: Literal["transformers"]
    weights: _Folder
    task: Task = Field(default="auto", description="What the model is asked; `auto` reads it from its configuration.")
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
