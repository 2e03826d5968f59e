"""TensorFlow graphs with constants for variables, as converters need them; including those that need a session.

A SavedModel with constants runs faster (a convolution and the normalization after it become one operator) and loads faster
than one with variables, and LiteRT runs loops only if the weights inside them are constants.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.frameworks.tensorflow.constants import operators, with_constants
from orchestrator.frameworks.tensorflow.library import tf
from orchestrator.frameworks.tensorflow.model import TfModel, called_by, spec_of
from orchestrator.frameworks.tensorflow.saved_model_source import read_saved_model, served_signature
from orchestrator.frameworks.tensorflow.signature_graph import cut, has_tables, lying_beside

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.frameworks.tensorflow.saved_model_source import SavedModel
    from orchestrator.spec.signature import Signature, Tensor
    from orchestrator.steps.parameters import SourceParameters

__all__ = ["SessionGraph", "Traced", "as_declared", "input_specs", "trace"]


def input_specs(signature: Signature) -> list[Any]:
    """The inputs in the signature's order; a dimension whose range is a single size is fixed, others are open."""

    def fixed(tensor: Tensor) -> Any:
        spec = spec_of(tensor)
        sizes = [
            signature.dims[dim][0] if isinstance(dim, str) and len(set(signature.dims[dim])) == 1 else size
            for dim, size in zip(tensor.shape or (), spec.shape, strict=True)
        ]
        return tf.TensorSpec(sizes, spec.dtype, name=tensor.name)

    return [fixed(tensor) for tensor in signature.inputs]


def as_declared(model: TfModel) -> Any:
    """The model as a tf.function with the inputs `input_specs` and the output dtypes from the import step.

    These are numpy's, which lacks bfloat16: such an output becomes float32.
    """
    dtypes = {tensor.name: tf.as_dtype(tensor.dtype) for tensor in model.signature.outputs}

    def call(*tensors: Any) -> dict[str, Any]:
        outputs = model.function.python_function(*tensors)
        return {
            name: output if output.dtype == dtypes[name] else tf.cast(output, dtypes[name])
            for name, output in outputs.items()
        }

    return tf.function(call, input_signature=input_specs(model.signature), autograph=False)


@dataclass(frozen=True, slots=True)
class Traced:
    """A model as one graph with the spec's names.

    Attributes:
        concrete: a ConcreteFunction with the inputs `input_specs`, so that fixed sizes are known in the whole graph.
        module: owns everything that `concrete` uses.
        constant: whether the weights are constants; otherwise they are variables of the module.
    """

    concrete: Any
    module: Any
    constant: bool

    def operators(self) -> set[str]:
        """TensorFlow's names of all operators."""
        return set(operators(self.concrete))


def trace(model: TfModel) -> Traced:
    """The model as one graph, with constants for its weights if possible.

    They stay variables if they are too large for a graph, or if the model has more than read-only variables: lookup tables,
    state.

    Raises:
        Exception: whatever TensorFlow or the model's layers raise.
    """
    declared = as_declared(model)
    concrete = declared.get_concrete_function()
    frozen = with_constants(concrete)
    if frozen is None:
        return Traced(concrete, model.module, constant=False)
    names = sorted(concrete.structured_outputs)

    def call(*tensors: Any) -> dict[str, Any]:
        # A frozen function returns a list in the order in which TensorFlow flattens a dictionary: by its sorted keys.
        return dict(zip(names, tf.nest.flatten(frozen(*tensors)), strict=True))

    module = tf.Module()
    module.call = tf.function(call, input_signature=declared.input_signature, autograph=False)
    return Traced(module.call.get_concrete_function(), module, constant=True)


_SERVE = "serve"


class SessionGraph:
    """The graph of one signature whose variables and tables belong to a session, as TensorFlow Serving runs it.

    A graph of TensorFlow 1 is frozen in a session of its own. One with tables, which cannot be constants, is copied instead,
    with the new names in its signature, which is all that TensorFlow uses to call such a graph.

    Args:
        read: the folder.
        source: with `signature` and `names`.
    """

    def __init__(self, read: SavedModel, source: SourceParameters) -> None:
        name = served_signature(source)
        self._read = read
        read.signature(name)  # or it is refused
        self._source = source
        self._part = cut(read.graph, name)
        self._declared = self._part.signature_def[name]

    @staticmethod
    def of(folder: Path, source: SourceParameters) -> SessionGraph | None:
        """The graph in the folder; None if it was written by TensorFlow 2 and has no tables.

        Raises:
            StepError: as `read_saved_model`.
        """
        read = read_saved_model(folder)
        graph = SessionGraph(read, source)
        return None if read.graph.HasField("object_graph_def") and not graph.has_tables else graph

    @property
    def has_tables(self) -> bool:
        """Whether the signature uses lookup tables."""
        return has_tables(self._part, served_signature(self._source))

    def constant(self, signature: Signature) -> TfModel:
        """The graph with constants for its variables, called by the spec's names.

        Raises:
            Exception: whatever TensorFlow raises.
        """
        inputs = {name: info.name for name, info in sorted(self._declared.inputs.items())}
        outputs = {name: info.name for name, info in sorted(self._declared.outputs.items())}
        operations = sorted({name.partition(":")[0] for name in outputs.values()})
        v1 = tf.compat.v1
        # The graph may name the devices of the machine that made it.
        anywhere = v1.ConfigProto(allow_soft_placement=True)
        with (
            lying_beside(self._read.folder, self._part) as folder,
            tf.Graph().as_default() as graph,
            v1.Session(graph=graph, config=anywhere) as session,
        ):
            v1.saved_model.load(session, list(self._part.meta_info_def.tags), folder)
            definition = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), operations)
        whole = v1.wrap_function(lambda: v1.import_graph_def(definition, name=""), [])
        tensor = whole.graph.get_tensor_by_name
        pruned = whole.prune([tensor(name) for name in inputs.values()], [tensor(name) for name in outputs.values()])

        def called(**tensors: Any) -> dict[str, Any]:
            answer = pruned(*(tensors[name] for name in inputs))
            return dict(zip(outputs, tf.nest.flatten(answer), strict=True))

        owns = {"inputs": list(inputs), "outputs": list(outputs)}
        return called_by(self._source.names, called, owns, whole, signature, saved_model_dir=self._read.folder)

    def copy(self, target: Path, signature: Signature) -> None:
        """Write the folder to `target` with one signature, `serving_default`, that has the spec's names."""
        from tensorflow.core.protobuf.saved_model_pb2 import SavedModel as Message

        ignored = shutil.ignore_patterns("saved_model.pb", "fingerprint.pb")
        shutil.copytree(self._read.folder, target, ignore=ignored, copy_function=shutil.copyfile)
        content = Message(saved_model_schema_version=1)
        graph = content.meta_graphs.add()
        graph.CopyFrom(self._part)
        if _SERVE not in graph.meta_info_def.tags:  # TensorFlow Serving requires this tag
            graph.meta_info_def.tags.append(_SERVE)
        graph.signature_def.clear()
        renamed = graph.signature_def["serving_default"]
        renamed.method_name = self._declared.method_name
        roles: tuple[tuple[Literal["inputs", "outputs"], tuple[Tensor, ...]], ...]
        roles = (("inputs", signature.inputs), ("outputs", signature.outputs))
        for role, tensors in roles:
            own = self._source.names.of(role)
            for tensor in tensors:
                getattr(renamed, role)[tensor.name].CopyFrom(
                    getattr(self._declared, role)[own.get(tensor.name, tensor.name)]
                )
        (target / "saved_model.pb").write_bytes(content.SerializeToString(deterministic=True))
