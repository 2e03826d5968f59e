"""A model of TensorFlow with its weights as constants, which TensorFlow and the converters can fold into the operators.

A SavedModel with constants answers faster (a convolution and the normalization behind it become one) and loads faster than
one with variables, and LiteRT runs loops only if the weights inside them are constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from orchestrator.frameworks.tf_process import tf
from orchestrator.frameworks.tf_tensors import spec_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.frameworks.tf_model import TfModel
    from orchestrator.spec.signature import Signature, Tensor

__all__ = ["LARGEST_GRAPH", "frozen", "input_specs", "retraced"]

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


def retraced(model: TfModel) -> Any:
    """The model as a concrete function whose inputs are `input_specs`, so that what is fixed is known everywhere in it."""
    traced = tf.function(model.function.python_function, input_signature=input_specs(model.signature), autograph=False)
    return traced.get_concrete_function()


def frozen(model: TfModel) -> Any | None:
    """A module whose attribute `call` is the model as a tf.function without variables, by the spec's names.

    None where the model holds more than variables that are only read (tables of words, state), or weights that are too
    large for a graph.
    """
    concrete = retraced(model)
    if (
        not _only_reads_variables(concrete)
        or sum(v.dtype.size * v.shape.num_elements() for v in concrete.variables) > LARGEST_GRAPH
    ):
        return None
    # Loops and branches stay what they are; LiteRT and ONNX have both.
    constant = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    names = sorted(concrete.structured_outputs)

    def call(*tensors: Any) -> dict[str, Any]:
        # What is frozen returns a list, in the order in which TensorFlow flattens a dictionary: by its sorted keys.
        return dict(zip(names, tf.nest.flatten(constant(*tensors)), strict=True))

    module = tf.Module()
    module.call = tf.function(call, input_signature=input_specs(model.signature), autograph=False)
    return module


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
