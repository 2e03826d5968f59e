"""SavedModel folders as sources: loaded, inspected, imported, and run as the baseline."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts.inspection import FoundNote, FoundTensor, Inspection
from orchestrator.frameworks.source.model_file import AT_WEIGHTS, expect_kind
from orchestrator.frameworks.tensorflow.library import limit_threads, tf, use_accelerator
from orchestrator.frameworks.tensorflow.model import dtype_name, load_source
from orchestrator.frameworks.tensorflow.runtime import TfRuntime
from orchestrator.frameworks.tensorflow.saved_model_scan import VARIABLES, refuse_effects
from orchestrator.frameworks.tensorflow.signature_graph import load_alone
from orchestrator.frameworks.tensorflow.source import check_model, probe_model
from orchestrator.steps.context import StepError, refuse_on
from orchestrator.steps.parameters import ImportParameters, InspectParameters, ProbeParameters
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.frameworks.source.runtime import Accelerator
    from orchestrator.spec.signature import Signature
    from orchestrator.steps.context import StepContext
    from orchestrator.steps.parameters import SourceParameters

__all__ = [
    "SavedModel",
    "check",
    "fingerprint_notes",
    "inspect",
    "load_signature",
    "open_baseline",
    "probe",
    "read_saved_model",
    "served_signature",
    "tensor_infos",
]

AT_SIGNATURE = ("model", "source", "signature")
_SERVE = "serve"
_INTERNAL = "__saved_model_"  # signatures that TensorFlow adds for itself
_HUB_MODULE = "tfhub_module.pb"


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A complete SavedModel folder whose graph only computes.

    Attributes:
        graph: the MetaGraphDef that is served.
        signatures: name → SignatureDef, sorted, without TensorFlow's own.
    """

    folder: Path
    graph: Any
    signatures: Mapping[str, Any]

    def signature(self, name: str) -> Any:
        """The signature with this name.

        Raises:
            StepError: E350 there is none with this name, E351 there is none at all.
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
                remedy=_how_to_sign(self.graph),
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
    """Read the folder without running any of it.

    Raises:
        StepError: E301 not a SavedModel, E302 damaged, E352 its variables are missing, E353 its graph does more than
            compute, E354 links or files outside the folder, E356 operators that are not part of TensorFlow.
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
    """The tensors of a signature by name, sorted, because a SavedModel has no order.

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
                remedy="save the model with a signature of plain tensors, such as separate indices and values",
                at=AT_SIGNATURE,
            )
    return {name: infos[name] for name in sorted(infos)}


def load_signature(folder: Path, name: str) -> tuple[Any, Callable[..., Mapping[str, Any]], dict[str, list[str]]]:
    """One signature of the folder, ready to be called.

    Returns:
        The owner of the variables; the signature, called by the model's own names; and these names, of `inputs` and
        `outputs`.

    Raises:
        StepError: as `read_saved_model` and `SavedModel.signature`; E302 TensorFlow cannot load it; E358 a tensor is not
            plain.
    """
    read = read_saved_model(folder)
    declared = read.signature(name)
    owns = {
        "inputs": list(tensor_infos(declared.inputs, "input")),
        "outputs": list(tensor_infos(declared.outputs, "output")),
    }
    # The exception depends on the damaged part: NotFoundError, DataLossError, ValueError, ...
    with refuse_on(
        Exception,
        "E302",
        "TensorFlow does not load the SavedModel",
        cause=headline,
        remedy="copy the whole folder again, or save it again",
        at=AT_WEIGHTS,
    ):
        return *load_alone(folder, read.graph, name), owns


def _refuse_links(folder: Path) -> None:
    for parent, folders, files in os.walk(folder):
        for name in sorted([*folders, *files]):
            path = Path(parent, name)
            mode = path.lstat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise StepError(
                    "E354",
                    f"`{path.relative_to(folder)}` is {'a link' if stat.S_ISLNK(mode) else 'not a file'}",
                    cause="only files of the folder itself are read, and a link may lead anywhere",
                    remedy=f"put the file itself there: `cp -rL {folder.name} copy`, then name `copy` in `weights`",
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
    """The graph with the tag `serve`, which TensorFlow Serving uses; or the only graph."""
    graphs = list(content.meta_graphs)
    if len(graphs) == 1:
        return graphs[0]
    for wanted in ({_SERVE}, set()):  # modules for version 1 of TensorFlow Hub have a graph without tags
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


def _how_to_sign(graph: Any) -> str:
    """How to save a graph without signatures again with one, by the functions that it holds."""
    if not graph.HasField("object_graph_def"):
        tags = list(graph.meta_info_def.tags)
        # With the graph's own saver: another one would leave operations that write files.
        return (
            "save it again with one, by its own names of tensors: with tf.Graph().as_default(), tf.compat.v1.Session() as s: "
            f"m = tf.compat.v1.saved_model.load(s, {tags}, 'folder'); b = tf.compat.v1.saved_model.Builder('new'); "
            f"b.add_meta_graph_and_variables(s, {tags}, {{'serving_default': "
            "tf.compat.v1.saved_model.predict_signature_def({'x': s.graph.get_tensor_by_name('x:0')}, "
            "{'y': s.graph.get_tensor_by_name('y:0')})}, saver=tf.compat.v1.train.Saver(saver_def=m.saver_def)); b.save()"
        )
    objects = graph.object_graph_def.nodes
    functions = [
        child.local_name
        for child in (objects[0].children if objects else ())
        if child.local_name.isidentifier() and objects[child.node_id].function.concrete_functions
    ]
    if not functions:
        return "none of its functions was called before it was saved: where it was made, save it with `signatures=`"
    name = "__call__" if "__call__" in functions else functions[0]
    others = f"; its other functions are {', '.join(sorted({*functions} - {name}))}" if len(functions) > 1 else ""
    return (
        "save it again with one, with the shape and type that it takes: model = tf.saved_model.load('folder'); "
        f"tf.saved_model.save(model, 'new', signatures=tf.function(model.{name})"
        f".get_concrete_function(tf.TensorSpec([None, ...], tf.float32))){others}"
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


_FILE = "fingerprint.pb"


def fingerprint_notes(folder: Path) -> list[str]:
    """Parts of the folder that do not match its fingerprint, a sentence each; empty without one, as before TensorFlow 2.11.

    The fingerprint proves nothing, because anybody can write it, and TensorFlow ignores it. So a folder that was edited, or
    assembled from two, is worth a note but not an error.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef
    from tensorflow.python.saved_model.pywrap_saved_model import fingerprinting

    file = folder / _FILE
    if not file.is_file():
        return []
    written, now = FingerprintDef(), FingerprintDef()
    try:
        written.ParseFromString(file.read_bytes())
        now.ParseFromString(fingerprinting.CreateFingerprintDef(str(folder)))
    except (DecodeError, fingerprinting.FingerprintException) as error:
        return [f"its {_FILE} cannot be read: {type(error).__name__}"]
    if written.version.producer != now.version.producer:  # other versions of TensorFlow compute it differently
        return []
    parts = {
        "the graph": written.graph_def_program_hash != now.graph_def_program_hash,
        "the signatures": written.signature_def_hash != now.signature_def_hash,
        "the variables": written.checkpoint_hash != now.checkpoint_hash,
    }
    others = [part for part, differs in parts.items() if differs]
    return (
        [f"{' and '.join(others)} in the folder {'does' if others == ['the graph'] else 'do'} not match its {_FILE}"]
        if others
        else []
    )


_DEFAULT = "serving_default"
_VERSIONS = {"tensorflow": tf.__version__}


def served_signature(source: SourceParameters) -> str:
    """The name of the served signature."""
    return source.signature or _DEFAULT


def inspect(context: StepContext) -> dict[str, Any]:
    """Step: read the tensors of the served signature, by the model's own names, without running it.

    Params: `InspectParameters`. Inputs: `weights`, the folder. Writes an `Inspection`.

    Raises:
        StepError: as `read_saved_model`; E350, E351 there is no such signature, E358 it takes or returns something other
            than plain tensors.
    """
    name = served_signature(InspectParameters.from_json(context.params).source)
    read = read_saved_model(context.inputs["weights"])
    signature = read.signature(name)
    found = Inspection(
        inputs=_found_in(tensor_infos(signature.inputs, "input")),
        outputs=_found_in(tensor_infos(signature.outputs, "output")),
        ranges={},
        multiples={},
        files=(),
        notes=tuple(map(FoundNote, _notes_on(read, name))),
        weights=None,
    )
    found.write(context.output)
    return {"inputs": len(found.inputs), "outputs": len(found.outputs), "signatures": list(read.signatures)}


def check(context: StepContext) -> dict[str, Any]:
    """The import step: loads the model, checks it against the spec, and records its outputs.

    Params: `ImportParameters`. Inputs:
    `weights`, the folder, and `samples` if given. Writes the files that `write_import` lists.

    Raises:
        StepError: as `load_source` and `check_model`.
    """
    parameters = ImportParameters.from_json(context.params)
    signature = parameters.signature
    context.progress("loading the model")
    model = load_source(parameters.source, context.inputs, signature)
    read = read_saved_model(context.inputs["weights"])
    notes = _notes_on(read, served_signature(parameters.source))
    return check_model(context, parameters, model, framework=_VERSIONS, notes=notes)


def probe(context: StepContext) -> dict[str, Any]:
    """Step: find out by calling the model what sizes and integers it takes.

    Params: `ProbeParameters`. Inputs: `weights`. Leaves a `Probed`.

    Raises:
        StepError: as `load_source`.
    """
    parameters = ProbeParameters.from_json(context.params)
    context.progress("loading the model")
    return probe_model(context, load_source(parameters.source, context.inputs, parameters.signature))


def open_baseline(
    source: SourceParameters,
    inputs: Mapping[str, Path],
    project: Path,
    signature: Signature,
    threads: int,
    accelerator: Accelerator = "none",
) -> TfRuntime:
    """The model as given: its signature, as TensorFlow runs it.

    Called as an `OpenBaseline`.

    Raises:
        StepError: as `load_source`; E427 the GPU cannot be used.
    """
    del project
    threads = limit_threads(threads)
    use_accelerator(accelerator)
    return TfRuntime(load_source(source, inputs, signature), threads, "saved-model", _VERSIONS)


def _found_in(infos: Mapping[str, Any]) -> tuple[FoundTensor, ...]:
    return tuple(
        FoundTensor(
            name,
            dtype_name(info.dtype),
            None
            if info.tensor_shape.unknown_rank
            else tuple(dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim),
        )
        for name, info in infos.items()
    )


def _notes_on(read: SavedModel, name: str) -> list[str]:
    notes = fingerprint_notes(read.folder)
    writer = read.graph.meta_info_def.tensorflow_version
    if not read.graph.HasField("object_graph_def"):
        notes.append(f"the SavedModel is in the format of TensorFlow 1{f' (written by {writer})' if writer else ''}")
    served = _tensors(read.signatures[name])
    others = [other for other in read.signatures if _tensors(read.signatures[other]) != served]
    if others:
        notes.append(f"the signature `{name}` is served; the others are not: {', '.join(f'`{o}`' for o in others)}")
    return notes


def _tensors(signature: Any) -> Any:
    """A signature's inputs and outputs without its name: Keras writes the same signature under two names."""
    return [
        [(name, infos[name].dtype, str(infos[name].tensor_shape)) for name in sorted(infos)]
        for infos in (signature.inputs, signature.outputs)
    ]
