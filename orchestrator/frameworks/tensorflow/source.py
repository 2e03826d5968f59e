"""The import step of all TensorFlow models: runs the model, verifies that outputs repeat, and counts parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.frameworks.source.comparison import (
    apart_by_first_dimension,
    changing_output,
    row_mixing_output,
)
from orchestrator.frameworks.source.import_step import given_samples, record
from orchestrator.frameworks.source.model_file import AT_WEIGHTS
from orchestrator.frameworks.source.outputs import failed_call, first_call
from orchestrator.frameworks.source.probe import write_probed
from orchestrator.frameworks.source.smallest_batch import naming_the_batch
from orchestrator.frameworks.tensorflow.constants import nodes
from orchestrator.frameworks.tensorflow.ids import ids_of_inputs
from orchestrator.frameworks.tensorflow.library import tf
from orchestrator.steps.context import StepContext, StepError, refuse_as
from orchestrator.steps.reasons import headline_with_type

if TYPE_CHECKING:
    from orchestrator.frameworks.source.outputs import Answer
    from orchestrator.frameworks.source.samples import Array, Samples
    from orchestrator.frameworks.tensorflow.model import TfModel
    from orchestrator.steps.parameters import ImportParameters

__all__ = ["check_model", "probe_model"]

_RANDOM = ("Random", "Multinomial", "StatelessRandom", "TruncatedNormal", "StatefulUniform", "StatefulStandardNormal")
_SEEDED = ("StatelessRandomGetAlg", "StatelessRandomGetKeyCounter", "RandomGammaGrad", "RandomIndexShuffle")


def check_model(
    context: StepContext,
    parameters: ImportParameters,
    model: TfModel,
    *,
    framework: Mapping[str, str],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Check a loaded model against the spec, and record its outputs.

    Args:
        context: of the import step.
        parameters: of the import step.
        model: the source.
        framework: package → version that ran it.
        notes: what the user should know about it, a sentence each.

    Raises:
        StepError: E321, E322, E326 and E328 inputs and outputs, E330-E332 outputs do not repeat, E340-E345 the samples, E359
            its layers are wrong if sizes are open.
    """
    answer = _guarded(model)
    samples = given_samples(context, parameters, lambda inputs: answer(inputs).values(), lambda: ids_of_inputs(model))
    context.progress("checking that outputs repeat")
    found = [f"source: {note}" for note in notes]
    with naming_the_batch(answer, model.signature, samples):
        _prove_repeatable(answer, model, samples, found)
        if model.keras_model is not None:
            _prove_open_sizes(answer, model, samples)
    return record(
        context,
        answer,
        model.signature,
        samples,
        parameters=_parameters(model),
        framework=framework,
        notes=found,
    )


def probe_model(context: StepContext, model: TfModel) -> dict[str, Any]:
    """Find out by calling a loaded model what sizes and integers it takes."""
    return write_probed(context, _guarded(model), ids_of_inputs(model))


def _guarded(model: TfModel) -> Answer:
    """The model in the form that the import step needs (`orchestrator.frameworks.source.outputs.Answer`)."""

    def answer(inputs: Mapping[str, Array], dim: str | None = None) -> dict[str, Array]:
        def failed(error: Exception) -> StepError:
            return failed_call(headline_with_type(error), model.signature, inputs, dim)

        # Layers and operators raise errors of many kinds, all of which are reported with the inputs of the call.
        with refuse_as(Exception, failed):
            return model.call(inputs)

    return answer


def _prove_repeatable(answer: Answer, model: TfModel, samples: Samples, notes: list[str]) -> None:
    """Check that outputs repeat, and that a row does not depend on the other rows of its batch; may add to `notes`.

    Raises:
        StepError: E330 it draws random numbers, E331 rows influence each other, E332 a call affects the next.
    """
    if name := changing_output(answer, model.signature, samples):
        drawn = [node for node in nodes(model.concrete) if node.op.startswith(_RANDOM) and node.op not in _SEEDED]
        if drawn:
            raise StepError(
                "E330",
                f"the model's output `{name}` changes when a call is repeated: it draws random numbers",
                cause=f"`{drawn[0].op}` in `{drawn[0].name}`, although the model is in inference mode",
                remedy="save it in inference mode without random operators, or make the random values an input",
                at=AT_WEIGHTS,
            )
        raise StepError(
            "E332",
            f"the model's output `{name}` changes when a call is repeated: one call affects the next",
            cause="the model keeps state in a variable between calls",
            remedy="keep no state between calls, or make it an input and an output",
            at=AT_WEIGHTS,
        )
    if mixed := row_mixing_output(answer, model.signature, samples, notes):
        training = [n for n in nodes(model.concrete) if n.op.startswith("FusedBatchNorm") and n.attr["is_training"].b]
        raise StepError(
            "E331",
            f"a row's `{mixed.output}` depends on the other rows of its batch",
            cause=f"`{training[0].name}` normalizes by the statistics of the batch, as in training"
            if training
            else "an operation mixes the rows of a batch",
            remedy="save the model in inference mode"
            if training
            else mixed.remedy(apart_by_first_dimension(model.signature)),
            at=AT_WEIGHTS,
        )


def _prove_open_sizes(answer: Answer, model: TfModel, samples: Samples) -> None:
    """Check that the graph with open sizes, which is served, gives the same outputs as the layers called one by one.

    TimeDistributed in Keras 3.15, for instance, uses the batch size as the number of steps if the latter is open.

    Raises:
        StepError: E359.
    """
    inputs = first_call(samples, model.signature)
    graph, layers = answer(inputs), model.call_step_by_step(inputs)
    for tensor in model.signature.outputs:
        one, other = graph[tensor.name], layers[tensor.name]
        if one.shape == other.shape and (
            np.allclose(one, other, rtol=1e-2, atol=1e-3, equal_nan=True)
            if one.dtype.kind == "f"
            else np.mean(one != other) < 0.01  # a tie may be resolved differently
        ):
            continue
        inner = [dim for dim in model.signature.dims if dim != model.signature.batch]
        raise StepError(
            "E359",
            f"the Keras model's output `{tensor.name}` differs between open and known sizes",
            cause=f"its shape is {list(one.shape)} instead of {list(other.shape)}"
            if one.shape != other.shape
            else "a layer treats a size that varies as a constant",
            remedy=f"declare {' and '.join(f'`{dim}`' for dim in inner)} as a number in `inputs:`, or replace the layer"
            if inner
            else "replace the layer",
            at=AT_WEIGHTS,
        )


def _parameters(model: TfModel) -> int:
    """The number of parameters: the size of its variables or, if it has none, of the constants of its frozen graph."""
    variables = {id(v): math.prod(v.shape) for v in model.concrete.variables if v.dtype.is_floating}
    if variables:
        return sum(variables.values())
    run = nodes(model.concrete)
    of_tensorflow_1 = [node.attr["shape"].shape for node in run if node.op in {"Variable", "VariableV2"}]
    frozen = [
        node.attr["value"].tensor.tensor_shape
        for node in run
        if node.op == "Const" and tf.as_dtype(node.attr["dtype"].type).is_floating
    ]
    return sum(math.prod(dim.size for dim in shape.dim) for shape in of_tensorflow_1 or frozen if shape.dim)
