"""A model of TensorFlow with its weights as constants, which TensorFlow and the converters can fold into the operators.

A SavedModel with constants answers faster (a convolution and the normalization behind it become one) and loads faster than
one with variables, and LiteRT runs loops only if the weights inside them are constants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.tensorflow.process import tf  # isort: skip - it has to come first
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from orchestrator.frameworks.tensorflow.tensors import spec_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.frameworks.tensorflow.loaded_model import TfModel
    from orchestrator.spec.signature import Signature, Tensor

__all__ = ["LARGEST_GRAPH", "Traced", "as_declared", "input_specs", "trace"]

LARGEST_GRAPH = 1900 * 2**20
"""Bytes of weights that a graph can hold as constants: a protobuf message ends at 2 GiB."""


def input_specs(signature: Signature) -> list[Any]:
    """The inputs in the signature's order; a dimension whose range is a single size has it, others are open."""

    def fixed(tensor: Tensor) -> Any:
        spec = spec_of(tensor)
        sizes = [
            signature.dims[dim][0] if isinstance(dim, str) and len(set(signature.dims[dim])) == 1 else size
            for dim, size in zip(tensor.shape or (), spec.shape, strict=True)
        ]
        return tf.TensorSpec(sizes, spec.dtype, name=tensor.name)

    return [fixed(tensor) for tensor in signature.inputs]


def as_declared(model: TfModel) -> Any:
    """The model as a tf.function whose inputs are `input_specs` and whose outputs are of the types that `import` found.

    Those are numpy's, which has no bfloat16: such an output is a float32 then.
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
    """A model as one graph, by the spec's names.

    Attributes:
        concrete: a ConcreteFunction whose inputs are `input_specs`, so that what is fixed is known everywhere in it.
        module: holds what `concrete` uses.
        constant: whether the weights are constants; otherwise they are variables of the module.
    """

    concrete: Any
    module: Any
    constant: bool

    def operators(self) -> set[str]:
        """The names of all operators, as TensorFlow calls them."""
        return set(_operators(self.concrete))


def trace(model: TfModel) -> Traced:
    """The model as one graph, with constants for its weights where that is possible.

    They stay variables where they are too large for a graph, or where the model holds more than variables that are only
    read: tables of words, state.

    Raises:
        Exception: whatever TensorFlow or the model's layers raise.
    """
    declared = as_declared(model)
    concrete = declared.get_concrete_function()
    weights = sum(variable.dtype.size * variable.shape.num_elements() for variable in concrete.variables)
    if weights > LARGEST_GRAPH or not _only_reads_variables(concrete):
        return Traced(concrete, model.module, constant=False)
    # Loops and branches stay what they are; LiteRT and ONNX have both.
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    names = sorted(concrete.structured_outputs)

    def call(*tensors: Any) -> dict[str, Any]:
        # What is frozen returns a list, in the order in which TensorFlow flattens a dictionary: by its sorted keys.
        return dict(zip(names, tf.nest.flatten(frozen(*tensors)), strict=True))

    module = tf.Module()
    module.call = tf.function(call, input_signature=declared.input_signature, autograph=False)
    return Traced(module.call.get_concrete_function(), module, constant=True)


def _only_reads_variables(concrete: Any) -> bool:
    handles = {id(variable.handle) for variable in concrete.variables}
    captured = [outer for outer, _ in concrete.graph.captures if outer.dtype == tf.resource]
    return all(id(outer) in handles for outer in captured) and not any(
        name.startswith(("Assign", "ResourceScatter")) for name in _operators(concrete)
    )


def _operators(concrete: Any) -> Iterator[str]:
    definition = concrete.graph.as_graph_def()
    for nodes in (definition.node, *(function.node_def for function in definition.library.function)):
        yield from (node.op for node in nodes)
