"""SavedModels of TensorFlow 1: graphs whose variables and tables live in a session, where a function does not find them.

Such a graph is made constant inside a session of its own. One with tables, which are no constants, is copied instead, and
the names of its signature are written anew: TensorFlow reads a graph of this kind by the names in that signature alone.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.tensorflow.loaded_model import TfModel, called_by
from orchestrator.frameworks.tensorflow.process import tf
from orchestrator.frameworks.tensorflow.saved_model_file import read_saved_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestrator.frameworks.tensorflow.saved_model_file import SavedModel
    from orchestrator.spec.signature import Signature

__all__ = ["OldGraph"]

_TABLES = ("HashTable", "MutableHashTable", "MutableDenseHashTable")
_SERVE = "serve"
_INTERNAL = "__saved_model_"


class OldGraph:
    """The served graph of a folder that TensorFlow 1 wrote.

    Args:
        read: the folder.
        source: the parameter `source`, with `signature` and `names`.
    """

    def __init__(self, read: SavedModel, source: Mapping[str, Any]) -> None:
        self._read = read
        self._declared = read.signature(source.get("signature", "serving_default"))
        self._names = source.get("names", {})

    @staticmethod
    def of(folder: Path, source: Mapping[str, Any]) -> OldGraph | None:
        """The graph in the folder; None where TensorFlow 2 wrote it.

        Raises:
            StepError: as `read_saved_model`.
        """
        read = read_saved_model(folder)
        return None if read.graph.HasField("object_graph_def") else OldGraph(read, source)

    @property
    def has_tables(self) -> bool:
        """Whether words are looked up in tables."""
        definition = self._read.graph.graph_def
        bodies = (definition.node, *(function.node_def for function in definition.library.function))
        return any(node.op.startswith(_TABLES) for nodes in bodies for node in nodes)

    def constant(self, signature: Signature) -> TfModel:
        """The graph with constants for its variables, called by the spec's names.

        Raises:
            Exception: whatever TensorFlow raises.
        """
        inputs = {name: info.name for name, info in sorted(self._declared.inputs.items())}
        outputs = {name: info.name for name, info in sorted(self._declared.outputs.items())}
        operations = sorted({name.partition(":")[0] for name in outputs.values()})
        v1 = tf.compat.v1
        with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            v1.saved_model.load(session, list(self._read.graph.meta_info_def.tags), str(self._read.folder))
            definition = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), operations)
        whole = v1.wrap_function(lambda: v1.import_graph_def(definition, name=""), [])
        tensor = whole.graph.get_tensor_by_name
        pruned = whole.prune([tensor(name) for name in inputs.values()], [tensor(name) for name in outputs.values()])

        def called(**tensors: Any) -> dict[str, Any]:
            answer = pruned(*(tensors[name] for name in inputs))
            return dict(zip(outputs, tf.nest.flatten(answer), strict=True))

        owns = {"inputs": list(inputs), "outputs": list(outputs)}
        return called_by(self._names, called, owns, whole, signature, saved_model_dir=self._read.folder)

    def copy(self, target: Path, signature: Signature) -> None:
        """Write the folder to `target` with one signature, `serving_default`, that has the spec's names."""
        from tensorflow.core.protobuf.saved_model_pb2 import SavedModel as Message

        ignored = shutil.ignore_patterns("saved_model.pb", "fingerprint.pb")
        shutil.copytree(self._read.folder, target, ignore=ignored, copy_function=shutil.copyfile)
        content = Message(saved_model_schema_version=1)
        graph = content.meta_graphs.add()
        graph.CopyFrom(self._read.graph)
        if _SERVE not in graph.meta_info_def.tags:  # TensorFlow Serving takes no other
            graph.meta_info_def.tags.append(_SERVE)
        for name in [name for name in graph.signature_def if not name.startswith(_INTERNAL)]:
            del graph.signature_def[name]
        renamed = graph.signature_def["serving_default"]
        renamed.method_name = self._declared.method_name
        for role, tensors in (("inputs", signature.inputs), ("outputs", signature.outputs)):
            own = self._names.get(role, {})
            for tensor in tensors:
                getattr(renamed, role)[tensor.name].CopyFrom(
                    getattr(self._declared, role)[own.get(tensor.name, tensor.name)]
                )
        (target / "saved_model.pb").write_bytes(content.SerializeToString(deterministic=True))
