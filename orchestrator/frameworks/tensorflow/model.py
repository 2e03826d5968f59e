"""A TensorFlow model from any kind of file, called by the spec's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from orchestrator.frameworks.tensorflow.library import tf
from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Array
    from orchestrator.spec.signature import Signature, Tensor
    from orchestrator.steps.parameters import SourceParameters, TensorNames

__all__ = ["STRING", "TfModel", "called_by", "dtype_name", "from_tf", "load_source", "spec_of", "to_tf"]

STRING = "string"


def to_tf(array: Array) -> Any:
    """A tensor with these values; unicode becomes UTF-8."""
    if array.dtype.kind == "U":
        return tf.constant(np.char.encode(array, "utf-8"))
    return tf.convert_to_tensor(array)


def from_tf(tensor: Any) -> Array:
    """A new array with these values; bfloat16 becomes float32, because numpy lacks it, and strings become unicode."""
    if tensor.dtype == tf.bfloat16:
        tensor = tf.cast(tensor, tf.float32)
    array: Array = np.asarray(tensor.numpy())
    if tensor.dtype == tf.string:
        flat = [value.decode("utf-8", errors="backslashreplace") for value in array.reshape(-1)]
        return np.array(flat, dtype=np.str_).reshape(array.shape)
    return array


def spec_of(tensor: Tensor) -> Any:
    """The TensorSpec of an input: every named dimension is open."""
    shape = None if tensor.shape is None else [dim if isinstance(dim, int) else None for dim in tensor.shape]
    return tf.TensorSpec(shape, tf.as_dtype(tensor.dtype), name=tensor.name)


def dtype_name(dtype: Any) -> str:
    """A dtype of TensorFlow or Keras as in a spec, or by its own name if specs do not have it."""
    name: str = tf.as_dtype(dtype).base_dtype.name
    return name


@dataclass(frozen=True)
class TfModel:
    """A TensorFlow model from any kind of file, in inference mode.

    Attributes:
        signature: the inputs and outputs by the spec's names.
        function: a tf.function; takes the inputs by position in the signature's order, each a tensor by the spec's name
            with every named dimension open; returns a dictionary of the outputs by the spec's names.
        module: owns `function` and everything it uses: `tf.saved_model.save(module, path, signatures=function)`.
        keras_model: the Keras model if it is one.
        saved_model_dir: the SavedModel's folder if it is one.
    """

    signature: Signature
    function: Any
    module: Any
    keras_model: Any | None = None
    saved_model_dir: Path | None = None

    @cached_property
    def concrete(self) -> Any:
        """`function` traced once, as a ConcreteFunction.

        Raises:
            Exception: whatever TensorFlow or the model's layers raise if they do not accept such inputs.
        """
        return self.function.get_concrete_function()

    def call(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One call: every input by name, every output by name; bfloat16 is returned as float32.

        Raises:
            Exception: whatever TensorFlow or the model's layers raise.
        """
        return self._called(self.concrete, inputs)

    def call_step_by_step(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Like `call`, but without a graph: every operation sees the actual sizes of the inputs. Slow.

        Raises:
            Exception: as `call`.
        """
        return self._called(self.function.python_function, inputs)

    def _called(self, function: Callable[..., Mapping[str, Any]], inputs: Mapping[str, Array]) -> dict[str, Array]:
        answer = function(*[to_tf(inputs[tensor.name]) for tensor in self.signature.inputs])
        return {tensor.name: from_tf(answer[tensor.name]) for tensor in self.signature.outputs}


def load_source(source: SourceParameters, inputs: Mapping[str, Path], signature: Signature) -> TfModel:
    """The source model, called by the spec's names.

    Args:
        source: the parameters of the source.
        inputs: the source's `weights`.
        signature: the inputs and outputs by the spec's names.

    Raises:
        StepError: E301-E303, E350-E358 the model, E320, E324 it has no tensor with one of the names.
    """
    path, names = inputs["weights"], source.names
    if source.kind == "keras":
        from orchestrator.frameworks.tensorflow.keras_source import as_function, input_names, load_keras, output_names

        model = load_keras(path)
        owns = {"inputs": input_names(model), "outputs": output_names(model)}
        return called_by(names, as_function(model), owns, model, signature, keras_model=model)
    from orchestrator.frameworks.tensorflow.saved_model_source import load_signature, served_signature

    loaded, called, owns = load_signature(path, served_signature(source))
    return called_by(names, called, owns, loaded, signature, saved_model_dir=path)


def called_by(
    names: TensorNames,
    called: Callable[..., Mapping[str, Any]],
    owns: Mapping[str, Sequence[str]],
    owner: Any,
    signature: Signature,
    *,
    keras_model: Any = None,
    saved_model_dir: Path | None = None,
) -> TfModel:
    """A model that is called by the spec's names.

    Args:
        names: name in the spec → the model's own, where they differ.
        called: takes tensors and returns a dictionary by the model's own names.
        owns: the model's own names of its `inputs` and `outputs`.
        owner: owns the variables that `called` uses.
        signature: the inputs and outputs by the spec's names.
        keras_model: as in `TfModel`.
        saved_model_dir: as in `TfModel`.

    Raises:
        StepError: E320, E324.
    """
    inputs = _own_names("inputs", "E320", owns, names, [tensor.name for tensor in signature.inputs])
    outputs = _own_names("outputs", "E324", owns, names, [tensor.name for tensor in signature.outputs])
    if lacking := [own for own in owns["inputs"] if own not in inputs.values()]:
        raise StepError(
            "E320",
            f"the model takes {len(owns['inputs'])} inputs, but the spec declares {len(inputs)}",
            cause=f"nothing is declared for {', '.join(f'`{own}`' for own in lacking)}",
            remedy="declare every input, or leave `inputs` out to have them read from the model",
            at=("model", "inputs"),
        )

    def call(*tensors: Any) -> dict[str, Any]:
        answer = called(**dict(zip(inputs.values(), tensors, strict=True)))
        # Two outputs may be the same tensor, or an input; a graph needs a node for each.
        return {name: tf.identity(answer[own]) for name, own in outputs.items()}

    module = tf.Module()
    module.source = owner
    module.call = tf.function(call, input_signature=[spec_of(t) for t in signature.inputs], autograph=False)
    return TfModel(signature, module.call, module, keras_model, saved_model_dir)


def _own_names(
    role: Literal["inputs", "outputs"],
    code: str,
    owns: Mapping[str, Sequence[str]],
    names: TensorNames,
    wanted: Sequence[str],
) -> dict[str, str]:
    """Name in the spec → the model's own."""
    found = {name: names.of(role).get(name, name) for name in wanted}
    for index, (name, own) in enumerate(found.items()):
        if own not in owns[role]:
            raise StepError(
                code,
                f"the model has no {role[:-1]} `{own}`",
                cause=f"its {role} are {', '.join(f'`{each}`' for each in owns[role])}",
                remedy=f"write `tensor:` beside `name: {name}`, with the model's own name of it",
                at=("model", role, index, "name"),
            )
    return found
