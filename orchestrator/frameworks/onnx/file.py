"""Reads an ONNX model as given: its protobuf and the files beside it, checked before any of it is loaded to be run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from orchestrator.frameworks.onnx.data import ExternalData, open_external_data
from orchestrator.frameworks.onnx.walk import nodes, tensors, texts
from orchestrator.frameworks.source.expected_kind import AT_WEIGHTS, expect_kind
from orchestrator.steps import StepError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LARGEST_FILE", "GivenModel", "embed", "objection", "read_onnx", "stored_bytes"]

LARGEST_FILE = 2**31 - 1
"""Bytes of the largest protobuf message; what is larger keeps its weights in files of their own."""

_LARGEST_CHECKED = 2**30
"""Bytes of a model that is still given to the checker, which copies it several times."""

_SMALL = 4096
"""Bytes of a tensor below which it is copied into the model."""

_LISTED = 8
_KNOWN_DOMAINS = frozenset(
    {
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.preview",
        "ai.onnx.preview.training",
        "com.microsoft",
        "com.microsoft.experimental",
        "com.microsoft.nchwc",
        "com.ms.internal.nhwc",
        "org.pytorch.aten",
    }
)
"""Domains that ONNX Runtime itself registers operators of."""


@dataclass(frozen=True, slots=True)
class GivenModel:
    """A model as given.

    Attributes:
        proto: the ModelProto. Large weights, initializers of the graph itself, may lie in other files and are not loaded.
        data: those files.
    """

    proto: Any
    data: ExternalData

    @property
    def inputs(self) -> list[Any]:
        """What a call gives; an initializer that is an input too (before IR version 4 all are) is none."""
        graph = self.proto.graph
        stored = {tensor.name for tensor in graph.initializer}
        stored |= {sparse.values.name for sparse in graph.sparse_initializer}
        return [value for value in graph.input if value.name not in stored]

    @property
    def opset(self) -> int:
        """The version of the standard operators; 0 where the model uses none."""
        versions = [entry.version for entry in self.proto.opset_import if entry.domain in {"", "ai.onnx"}]
        return max(versions, default=0)


def read_onnx(path: Path) -> GivenModel:
    """The model at `path`.

    Raises:
        StepError: E301 no ONNX file, E302 cut off or damaged, E360 and E361 the files beside it, E364 operators that ONNX
            Runtime does not have, E365 nothing to run.
    """
    expect_kind(path, "onnx", "onnx")
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise _damaged(
            "the file is larger than an ONNX file can be",
            f"it has {size} bytes, and a protobuf message ends at 2 GiB",
            "export the model with its weights as external data",
        )
    try:
        proto = onnx.ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise _damaged(
            "the ONNX file cannot be read", f"it is cut off or damaged: {error}", "copy or export it again"
        ) from error
    if any(isinstance(text, bytes) for text in texts(proto)):
        raise _damaged("the ONNX file cannot be read", "a name in it is not UTF-8", "copy or export it again")
    # How the model was trained is no part of what is run, and may name files of its own.
    del proto.training_info[:]
    data = open_external_data(proto, path.parent)
    _embed_small(proto, data)
    model = GivenModel(proto, data)
    _check_runs_something(model)
    _check_domains(proto)
    return model


def embed(model: Any, data: ExternalData) -> None:
    """Put all that lies in other files into the model (a ModelProto) itself."""
    for tensor in tensors(model):
        if uses_external_data(tensor):
            content = bytes(data.of(tensor))
            del tensor.external_data[:]
            tensor.ClearField("data_location")
            tensor.raw_data = content


def _embed_small(model: Any, data: ExternalData) -> None:
    """Put all into the model itself but its large weights: only initializers can be handed to ONNX Runtime apart."""
    large = [
        tensor
        for tensor in model.graph.initializer
        if uses_external_data(tensor) and len(data.of(tensor)) >= _SMALL and data.array(tensor) is not None
    ]
    for tensor in large:
        tensor.data_location = onnx.TensorProto.DEFAULT  # so that it is passed over
    embed(model, data)
    for tensor in large:
        tensor.data_location = onnx.TensorProto.EXTERNAL


def stored_bytes(model: GivenModel) -> int:
    """Bytes that the model takes as one file."""
    outside = sum(len(model.data.of(t)) for t in tensors(model.proto) if uses_external_data(t))
    return int(model.proto.ByteSize()) + outside


def objection(model: GivenModel) -> str:
    """What ONNX's own checker has against the model; nothing where it has nothing.

    Runtimes take some models that the checker does not, such as those of producers that name operators otherwise.
    """
    if stored_bytes(model) > _LARGEST_CHECKED:
        return ""
    whole = onnx.ModelProto()
    whole.CopyFrom(model.proto)
    embed(whole, model.data)
    try:
        onnx.checker.check_model(whole, full_check=True)
    # Beside its own errors come those of C++, when what it meets is damaged.
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told as what the checker says
        return (str(error).strip().splitlines() or ["it does not say what"])[0]
    return ""


def _check_runs_something(model: GivenModel) -> None:
    graph = model.proto.graph
    missing = next(
        (
            what
            for what, found in (("nodes", graph.node), ("inputs", model.inputs), ("outputs", graph.output))
            if not found
        ),
        None,
    )
    if missing is None:
        return
    raise StepError(
        "E365",
        f"the model's graph has no {missing}",
        cause=f"it has {len(graph.node)} nodes, {len(model.inputs)} inputs and {len(graph.output)} outputs"
        + (", beside initializers" if graph.input and not model.inputs else ""),
        remedy="export the whole model; a file of weights alone cannot be run",
        at=AT_WEIGHTS,
    )


def _check_domains(model: Any) -> None:
    own = {(function.domain, function.name) for function in model.functions}
    foreign = {
        f"{node.domain}:{node.op_type}"
        for node in nodes(model)
        if node.domain not in _KNOWN_DOMAINS and (node.domain, node.op_type) not in own
    }
    if not foreign:
        return
    named = sorted(foreign)
    more = f" and {len(named) - _LISTED} more" if len(named) > _LISTED else ""
    raise StepError(
        "E364",
        f"the model uses operators that ONNX Runtime does not have: {', '.join(named[:_LISTED])}{more}",
        cause="they belong to a custom domain; a library that brings them is code, and none is loaded",
        remedy="export the model with standard operators, or with the custom ones written as functions of the model",
        at=AT_WEIGHTS,
    )


def _damaged(message: str, cause: str, remedy: str) -> StepError:
    return StepError("E302", message, cause=cause, remedy=remedy, at=AT_WEIGHTS)
