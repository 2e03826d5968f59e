"""Reads a SavedModel folder: what is in it, checked before TensorFlow loads it, and one of its signatures to call."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.frameworks.source.expected_kind import AT_WEIGHTS, expect_kind, headline
from orchestrator.frameworks.tensorflow.errors import said
from orchestrator.frameworks.tensorflow.process import tf
from orchestrator.frameworks.tensorflow.saved_model_ops import VARIABLES
from orchestrator.frameworks.tensorflow.saved_model_scan import refuse_effects
from orchestrator.steps import StepError

__all__ = ["SavedModel", "load_signature", "read_saved_model", "tensor_infos"]

AT_SIGNATURE = ("model", "source", "signature")
_SERVE = "serve"
_INTERNAL = "__saved_model_"  # signatures that TensorFlow adds for itself
_HUB_MODULE = "tfhub_module.pb"


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A SavedModel folder whose parts are all there and do no more than compute.

    Attributes:
        graph: the MetaGraphDef that is served.
        signatures: name → SignatureDef, sorted, without TensorFlow's own.
    """

    folder: Path
    graph: Any
    signatures: Mapping[str, Any]

    def signature(self, name: str) -> Any:
        """The signature of this name.

        Raises:
            StepError: E350 there is none of this name, E351 there is none at all.
        """
        if name in self.signatures:
            return self.signatures[name]
        if not self.signatures:
            raise StepError(
                "E351",
                "the SavedModel has no signatures",
                cause="it holds an object that Python code may call, and nothing says with which inputs"
                if self.graph.HasField("object_graph_def")
                else "its graph does not say which tensors are inputs and outputs",
                remedy="save it again with one: model = tf.saved_model.load('folder'); tf.saved_model.save(model, 'new', "
                "signatures=tf.function(model.__call__).get_concrete_function(tf.TensorSpec([None, ...], tf.float32)))",
                at=AT_WEIGHTS,
            )
        listed = ", ".join(f"`{name}`" for name in self.signatures)
        raise StepError(
            "E350",
            f"the SavedModel has no signature `{name}`",
            cause=f"its signatures are {listed}",
            remedy=f"write `signature: {next(iter(self.signatures))}`"
            if len(self.signatures) == 1
            else f"write `signature:` with one of {listed}",
            at=AT_SIGNATURE,
        )


def read_saved_model(folder: Path) -> SavedModel:
    """What the folder holds, without running any of it.

    Raises:
        StepError: E301 not a SavedModel, E302 damaged, E352 its variables are missing, E353 its graph does more than
            compute, E354 links or files outside the folder, E356 operators that are not TensorFlow's.
    """
    expect_kind(folder, "saved-model", "saved-model")
    _refuse_links(folder)
    content = _parsed(folder / "saved_model.pb")
    graph = _served(content)
    for meta_graph in content.meta_graphs:
        refuse_effects(meta_graph, folder)
    _require_variables(folder, graph)
    signatures = {name: graph.signature_def[name] for name in sorted(graph.signature_def) if _INTERNAL not in name}
    return SavedModel(folder, graph, signatures)


def tensor_infos(infos: Mapping[str, Any], role: str) -> dict[str, Any]:
    """The tensors of a signature by name, sorted, since a SavedModel keeps no order.

    Raises:
        StepError: E358, one is not a plain tensor.
    """
    for name in sorted(infos):
        form = infos[name].WhichOneof("encoding")
        if form in {"coo_sparse", "composite_tensor"}:
            raise StepError(
                "E358",
                f"the {role} `{name}` is a {'sparse' if form == 'coo_sparse' else 'composite'} tensor",
                cause="a request carries plain tensors only",
                remedy="save the model with a signature of plain tensors, such as indices and values apart",
                at=AT_SIGNATURE,
            )
    return {name: infos[name] for name in sorted(infos)}


def load_signature(folder: Path, name: str) -> tuple[Any, Callable[..., Mapping[str, Any]], dict[str, list[str]]]:
    """One signature of the folder, ready to be called.

    Returns:
        What owns the variables; the signature, called by the model's own names; and these, of its `inputs` and `outputs`.

    Raises:
        StepError: as `read_saved_model` and `SavedModel.signature`; E302 TensorFlow does not load it; E358 its tensors are
            not all plain.
    """
    read = read_saved_model(folder)
    declared = read.signature(name)
    owns = {
        "inputs": list(tensor_infos(declared.inputs, "input")),
        "outputs": list(tensor_infos(declared.outputs, "output")),
    }
    try:
        loaded = tf.saved_model.load(str(folder), tags=list(read.graph.meta_info_def.tags))
        return loaded, loaded.signatures[name], owns
    except MemoryError:
        raise
    # A damaged part raises what the reader of that part raises: NotFoundError, DataLossError, ValueError, ...
    except Exception as error:
        raise StepError(
            "E302",
            "TensorFlow does not load the SavedModel",
            cause=said(error),
            remedy="copy the whole folder again, or save it again",
            at=AT_WEIGHTS,
        ) from error


def _refuse_links(folder: Path) -> None:
    for parent, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise StepError(
                    "E354",
                    f"`{path.relative_to(folder)}` is {'a link' if stat.S_ISLNK(mode) else 'not a file'}",
                    cause="a SavedModel is taken as it lies, and a link may lead anywhere",
                    remedy=f"put the file itself there: cp -rL {folder.name} copy",
                    at=AT_WEIGHTS,
                )


def _parsed(path: Path) -> Any:
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel as Message

    content = Message()
    cause = ""
    try:
        content.ParseFromString(path.read_bytes())
    except DecodeError as error:
        cause = headline(error)
    if not cause and not content.meta_graphs:
        cause = "the file is empty" if path.stat().st_size == 0 else "it holds no graph"
    if cause:
        raise StepError(
            "E302",
            "saved_model.pb is damaged",
            cause=cause,
            remedy="copy the folder again, or save it again",
            at=AT_WEIGHTS,
        )
    return content


def _served(content: Any) -> Any:
    """The graph with the tag `serve`, as TensorFlow Serving takes it; or the only one there is."""
    graphs = list(content.meta_graphs)
    if len(graphs) == 1:
        return graphs[0]
    for wanted in ({_SERVE}, set()):  # modules for TensorFlow Hub of version 1 have a graph without tags
        for graph in graphs:
            if set(graph.meta_info_def.tags) == wanted:
                return graph
    tags = "; ".join("{" + ", ".join(graph.meta_info_def.tags) + "}" for graph in graphs)
    raise StepError(
        "E350",
        "none of the SavedModel's graphs is for serving",
        cause=f"it holds {len(graphs)} graphs with the tags {tags}",
        remedy="save it with the tag `serve`",
        at=AT_WEIGHTS,
    )


def _require_variables(folder: Path, graph: Any) -> None:
    objects = graph.object_graph_def.nodes if graph.HasField("object_graph_def") else ()
    has_some = any(node.WhichOneof("kind") == "variable" for node in objects) or any(
        node.op in VARIABLES for node in graph.graph_def.node
    )
    if not has_some:
        return
    variables = folder / "variables"
    missing = "the folder `variables`" if not variables.is_dir() else ""
    if not missing and not (variables / "variables.index").is_file():
        missing = "`variables/variables.index`"
    if not missing and not list(variables.glob("variables.data-*")):
        missing = "`variables/variables.data-00000-of-00001`"
    if missing:
        raise StepError(
            "E352",
            "the SavedModel lacks its variables",
            cause=f"{missing} is missing, and the graph has variables",
            remedy="copy the whole folder, or save the model again",
            at=AT_WEIGHTS,
        )
