"""Loads one signature of a SavedModel without the objects beside it: its own part of the graph, its variables and tables.

A SavedModel of TensorFlow 2 holds its graph twice: as a graph of TensorFlow 1 with signatures, which TensorFlow Serving runs,
and as Python objects. Among the objects are optimizers, metrics and layers, which only load where the same library is
installed: the optimizer of Keras 2 fails in Keras 3. A signature needs none of them.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.tensorflow.library import tf  # isort: skip - it has to come first
from tensorflow.core.framework.variable_pb2 import VariableDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.framework import op_def_registry

from orchestrator.frameworks.tensorflow.saved_model_scan import (
    ASSETS,
    VARIABLES,
    Graphs,
    asset_files,
    initializers,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["cut", "has_tables", "load_alone", "lying_beside"]

_PLACEHOLDERS = frozenset({"Placeholder", "PlaceholderV2", "PlaceholderWithDefault"})
_READ = "/Read/ReadVariableOp"
_PREPARES = "saved_model_main_op"
_TABLES = (
    "LookupTable",
    "HashTable",
    "MutableHashTable",
    "MutableDenseHashTable",
    "AnonymousHashTable",
    "AnonymousMutable",
)
_OF_OTHERS = ("_class", "_gradient_op_type")
"""Attributes that name other nodes and functions, which the part may lack: where to place a node, and its gradient."""


def cut(meta_graph: Any, name: str) -> Any:
    """The MetaGraphDef with what one signature needs: its tensors, the operation that prepares tables, and the saver.

    Args:
        meta_graph: a MetaGraphDef whose graph only computes; it is not changed.
        name: of the signature.
    """
    whole = type(meta_graph)()
    whole.CopyFrom(meta_graph)
    signature = whole.signature_def[name]
    _begin_at_inputs(whole.graph_def, signature)
    _end_in_values(whole.graph_def, signature)
    graphs = Graphs(whole)
    prepare = list(initializers(whole))
    assets = [asset.tensor_info.name for asset in asset_files(whole)]
    nodes, functions = graphs.needed([*_tensors(signature), *prepare, *assets])
    saver = whole.saver_def
    restores = any(node.op in VARIABLES for node in whole.graph_def.node if node.name in nodes)
    if restores:
        more = graphs.needed([saver.restore_op_name, saver.filename_tensor_name])
        nodes, functions = nodes | more[0], functions | more[1]

    part = type(meta_graph)()
    part.meta_info_def.CopyFrom(whole.meta_info_def)
    part.graph_def.versions.CopyFrom(whole.graph_def.versions)
    part.graph_def.node.extend(node for node in whole.graph_def.node if node.name in nodes)
    library = whole.graph_def.library.function
    part.graph_def.library.function.extend(each for each in library if each.signature.name in functions)
    for node in _every_node(part):
        for attribute in _OF_OTHERS:
            if attribute in node.attr:
                del node.attr[attribute]
    _add_reads(part.graph_def)
    for function in part.graph_def.library.function:
        _gather_from_values(function)
    part.signature_def[name].CopyFrom(signature)
    if prepare:
        part.collection_def[_PREPARES].node_list.value.extend(prepare[:1])
    if ASSETS in whole.collection_def:
        part.collection_def[ASSETS].CopyFrom(whole.collection_def[ASSETS])
    part.asset_file_def.extend(whole.asset_file_def)
    if restores:
        part.saver_def.CopyFrom(saver)
    return part


def has_tables(meta_graph: Any, name: str) -> bool:
    """Whether a signature uses lookup tables, which cannot become constants."""
    places = Graphs(meta_graph).reached(_tensors(meta_graph.signature_def[name]))
    nodes, functions = {place.node for place in places}, {place.function for place in places}
    used = [node for node in meta_graph.graph_def.node if node.name in nodes]
    for function in meta_graph.graph_def.library.function:
        used.extend(function.node_def if function.signature.name in functions else ())
    return any(node.op.startswith(_TABLES) for node in used)


def load_alone(folder: Path, meta_graph: Any, name: str) -> tuple[Any, Callable[..., Mapping[str, Any]]]:
    """Load one signature: its variables from the folder's checkpoint, its tables from the folder's assets.

    Args:
        folder: the SavedModel.
        meta_graph: of the folder.
        name: of the signature.

    Returns:
        The owner of the variables and tables, and the signature, called by its own names.

    Raises:
        Exception: whatever TensorFlow raises.
    """
    part = cut(meta_graph, name)
    _declare_variables(part, name)
    beside = lying_beside(folder, part)
    loaded = tf.saved_model.load(beside.name, tags=list(part.meta_info_def.tags))
    loaded.files = beside  # its assets are read from there when it is saved
    return loaded, loaded.signatures[name]


def lying_beside(folder: Path, meta_graph: Any) -> tempfile.TemporaryDirectory[str]:
    """A SavedModel with this graph and the variables and assets of `folder`, which it links to.

    It exists as long as the object that is returned.
    """
    made = tempfile.TemporaryDirectory(prefix="mlo-signature-")
    content = SavedModel(saved_model_schema_version=1)
    content.meta_graphs.add().CopyFrom(meta_graph)
    Path(made.name, "saved_model.pb").write_bytes(content.SerializeToString(deterministic=True))
    for part in ("variables", "assets"):
        if (folder / part).is_dir():
            Path(made.name, part).symlink_to((folder / part).resolve())
    return made


def _add_reads(graph: Any) -> None:
    """Give every variable the node by whose name TensorFlow 1 reads its value."""
    made = {node.name for node in graph.node}
    for node in [node for node in graph.node if node.op == "VarHandleOp" and node.name + _READ not in made]:
        read = _new_node(graph, made, node.name + _READ, "ReadVariableOp", [node.name])
        read.attr["dtype"].CopyFrom(node.attr["dtype"])


def _gather_from_values(function: Any) -> None:
    """Let lookups in variables read the variable first: TensorFlow puts no constants into those of functions."""
    made = {node.name for node in function.node_def}
    for node in [node for node in function.node_def if node.op in {"ResourceGather", "ResourceGatherNd"}]:
        read = function.node_def.add(name=_free(made, f"{node.name}/value"), op="ReadVariableOp", input=node.input[:1])
        read.attr["dtype"].CopyFrom(node.attr["dtype"])
        node.input[0] = f"{read.name}:value:0"
        node.attr["Tparams"].CopyFrom(node.attr["dtype"])
        for attribute in ("dtype", "validate_indices"):
            if attribute in node.attr:
                del node.attr[attribute]
        if node.op == "ResourceGather":
            axis = function.node_def.add(name=_free(made, f"{node.name}/axis"), op="Const")
            axis.attr["dtype"].type = tf.int32.as_datatype_enum
            axis.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(0, tf.int32))
            node.input.insert(2, f"{axis.name}:output:0")
            node.attr["Taxis"].type = tf.int32.as_datatype_enum
        node.op = {"ResourceGather": "GatherV2", "ResourceGatherNd": "GatherNd"}[node.op]


def _declare_variables(part: Any, name: str) -> None:
    """List the variables that the signature uses, so that TensorFlow makes objects of them; those of an optimizer stay out."""
    used, _ = Graphs(part).needed(_tensors(part.signature_def[name]))
    handles = [node for node in _every_node(part) if node.op == "VarHandleOp"]
    shared = Counter(_shared_name(node) for node in handles)
    made = {node.name for node in part.graph_def.node}
    # Where two handles are one variable, both have to stay operators.
    own = [node for node in part.graph_def.node if node.op == "VarHandleOp" and node.name in used]
    for node in [node for node in own if shared[_shared_name(node)] == 1]:
        definition = VariableDef(variable_name=f"{node.name}:0", is_resource=True, trainable=True)
        definition.snapshot_name = f"{node.name}{_READ}:0"
        definition.initializer_name = _new_node(part.graph_def, made, f"{node.name}/restored", "NoOp", []).name
        for collection in ("variables", "trainable_variables"):
            part.collection_def[collection].bytes_list.value.append(definition.SerializeToString())


def _tensors(signature: Any) -> list[str]:
    return [info.name for infos in (signature.inputs, signature.outputs) for info in infos.values()]


def _begin_at_inputs(graph: Any, signature: Any) -> None:
    """Put a placeholder where an input is computed from another, as where requests were parsed before."""
    nodes = {node.name: node for node in graph.node}
    made = set(nodes)
    for info in signature.inputs.values():
        name, _, index = info.name.partition(":")
        if name not in nodes or nodes[name].op in _PLACEHOLDERS:
            continue
        old = {f"{name}:{index or 0}", *([name] if index in {"", "0"} else [])}
        given = _new_node(graph, made, f"{name}/given", "Placeholder", [])
        given.attr["dtype"].type = info.dtype
        given.attr["shape"].shape.CopyFrom(info.tensor_shape)
        for node in graph.node:
            node.input[:] = [given.name if source in old else source for source in node.input]
        for each in (*signature.inputs.values(), *signature.outputs.values()):
            if each.name in old:
                each.name = f"{given.name}:0"


def _end_in_values(graph: Any, signature: Any) -> None:
    """Read an output that is a variable of TensorFlow 1 itself: a function cannot return a reference."""
    nodes = {node.name: node for node in graph.node}
    made = set(nodes)
    for info in signature.outputs.values():
        name = info.name.partition(":")[0]
        operator = op_def_registry.get(nodes[name].op) if name in nodes else None
        if operator is not None and any(argument.is_ref for argument in operator.output_arg):
            value = _new_node(graph, made, f"{name}/value", "Identity", [info.name])
            info.dtype = tf.as_dtype(info.dtype).base_dtype.as_datatype_enum
            value.attr["T"].type = info.dtype
            info.name = f"{value.name}:0"


def _shared_name(node: Any) -> str:
    return str(node.attr["shared_name"].s.decode("utf-8", errors="replace") or node.name)


def _new_node(graph: Any, made: set[str], name: str, operator: str, inputs: list[str]) -> Any:
    return graph.node.add(name=_free(made, name), op=operator, input=inputs)


def _free(made: set[str], name: str) -> str:
    """The name, or one like it that no node has yet."""
    while name in made:
        name += "_"
    made.add(name)
    return name


def _every_node(meta_graph: Any) -> Iterator[Any]:
    """The nodes of the graph and of its functions."""
    yield from meta_graph.graph_def.node
    for function in meta_graph.graph_def.library.function:
        yield from function.node_def
