"""Loads a Keras model or a SavedModel into one thing that is called by the spec's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.tf_process import tf
from orchestrator.frameworks.tf_tensors import from_tf, spec_of, to_tf

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from orchestrator.frameworks.samples import Array
    from orchestrator.spec.signature import Signature

__all__ = ["TfModel", "load_source", "wrapped"]


@dataclass(frozen=True, slots=True)
class TfModel:
    """A model of TensorFlow, whatever file it came from.

    Attributes:
        function: a tf.function; takes the inputs by position in the signature's order, each a tensor by the spec's name
            with every named dimension open; returns a dictionary of the outputs by the spec's names.
        module: holds `function` and everything it uses: `tf.saved_model.save(module, path, signatures=function)`.
        keras_model: the Keras model if it is one.
        saved_model_dir: the SavedModel's folder if it is one.
    """

    signature: Signature
    function: Any
    module: Any
    keras_model: Any | None = None
    saved_model_dir: Path | None = None

    def call(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One call in inference mode: every input by name, every output by name.

        Raises:
            Exception: whatever TensorFlow or the model's layers raise.
        """
        concrete = self.function.get_concrete_function()
        answer = concrete(*(to_tf(inputs[tensor.name]) for tensor in self.signature.inputs))
        return {tensor.name: from_tf(answer[tensor.name]) for tensor in self.signature.outputs}


def load_source(params: Mapping[str, Any], inputs: Mapping[str, Path], signature: Signature) -> TfModel:
    """The source model, in inference mode.

    Args:
        params: `source` (`kind`, `names`, and for a SavedModel `signature`).
        inputs: the source's `weights`.
        signature: the inputs and outputs by the spec's names.

    Raises:
        StepError: E301-E303, E350-E359.
    """
    source, path = params["source"], inputs["weights"]
    names = source.get("names", {})
    own_inputs = [names.get("inputs", {}).get(tensor.name, tensor.name) for tensor in signature.inputs]
    own_outputs = {t.name: names.get("outputs", {}).get(t.name, t.name) for t in signature.outputs}
    if source["kind"] == "keras":
        from orchestrator.frameworks.keras_file import as_function, load_keras

        model = load_keras(path)
        return wrapped(as_function(model), model, signature, own_inputs, own_outputs, keras_model=model)
    from orchestrator.frameworks.saved_model_file import load_signature

    loaded, called = load_signature(path, source.get("signature", "serving_default"))
    return wrapped(called, loaded, signature, own_inputs, own_outputs, saved_model_dir=path)


def wrapped(
    called: Callable[..., Mapping[str, Any]],
    owner: Any,
    signature: Signature,
    own_inputs: list[str],
    own_outputs: Mapping[str, str],
    **kept: Any,
) -> TfModel:
    """A model that is called by the spec's names.

    Args:
        called: takes tensors by the model's own names, returns a dictionary by the model's own names.
        owner: holds the variables that `called` uses.
        signature: the inputs and outputs by the spec's names.
        own_inputs: the model's own names of the signature's inputs, in their order.
        own_outputs: name in the spec → the model's own name.
        kept: further attributes of TfModel.
    """

    def call(*tensors: Any) -> dict[str, Any]:
        answer = called(**dict(zip(own_inputs, tensors, strict=True)))
        return {name: tf.identity(answer[own]) for name, own in own_outputs.items()}

    module = tf.Module()
    module.source = owner
    module.call = tf.function(call, input_signature=[spec_of(t) for t in signature.inputs], autograph=False)
    return TfModel(signature, module.call, module, **kept)
