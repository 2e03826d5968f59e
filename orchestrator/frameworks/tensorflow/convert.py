"""Converts Keras models and SavedModels to SavedModel, ONNX and LiteRT and checks the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.artifacts.variant_facts import variant_facts
from orchestrator.frameworks.litert.convert import check_written
from orchestrator.frameworks.litert.runtime import FILE
from orchestrator.frameworks.source.comparison import Call, check_sizes
from orchestrator.frameworks.source.import_step import read_import
from orchestrator.frameworks.source.runtime import open_runtime
from orchestrator.frameworks.tensorflow.failures import converting
from orchestrator.frameworks.tensorflow.frozen_graph import SessionGraph, Traced, trace
from orchestrator.frameworks.tensorflow.library import tf
from orchestrator.frameworks.tensorflow.model import TfModel, load_source
from orchestrator.frameworks.tensorflow.runtime import FOLDER
from orchestrator.steps.context import StepError
from orchestrator.steps.parameters import ConvertParameters

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Samples
    from orchestrator.spec.signature import Signature
    from orchestrator.steps.context import StepContext
    from orchestrator.steps.parameters import SourceParameters

__all__ = [
    "SIGNATURE",
    "TfJob",
    "litert_converter",
    "prepare",
    "to_onnx",
    "to_saved_model",
    "to_tflite",
    "write_litert",
]

SIGNATURE = "serving_default"
"""The one signature of a SavedModel variant."""

_THREADS = 1


@dataclass(frozen=True, slots=True)
class TfJob:
    """A model to convert, and the samples from the import step.

    Attributes:
        model: the source.
        graph: the same in the form that converters accept; differs from `model` if TensorFlow 1 wrote it.
        with_tables: the same where it has lookup tables, which no converter accepts.
    """

    model: TfModel
    graph: TfModel
    with_tables: SessionGraph | None
    signature: Signature
    samples: Samples

    def check(self, converted: Call) -> list[str]:
        """Compare the conversion with the model; see `check_sizes`.

        Raises:
            StepError: E423 it differs.
        """
        return check_sizes(self.signature, self.samples, self.model.call, converted)


def prepare(context: StepContext, source: SourceParameters) -> TfJob:
    """Load the source model and the output of the import step.

    Args:
        context: of the step that converts.
        source: the parameters of the source.

    Raises:
        StepError: as `load_source`; E422 an input has a name that TensorFlow does not accept.
    """
    signature, samples = read_import(context.inputs["import"])
    for index, tensor in enumerate(signature.inputs):
        if tensor.name.startswith("_") or tensor.name == "self":
            raise StepError(
                "E422",
                f"TensorFlow does not accept an input named `{tensor.name}`",
                remedy="give it another `name`, with the model's own name as `tensor:`",
                at=("model", "inputs", index, "name"),
            )
    model = load_source(source, context.inputs, signature)
    graph = None
    if model.saved_model_dir is not None:
        graph = SessionGraph.of(model.saved_model_dir, source)
    if graph is None or graph.has_tables:
        return TfJob(model, model, graph, signature, samples)
    with converting("a graph of constants", model.signature, traced_anew=model.keras_model is not None):
        return TfJob(model, graph.constant(signature), None, signature, samples)


def to_saved_model(context: StepContext) -> dict[str, Any]:
    """Step: the source as `saved_model/` with the signature `serving_default` and the spec's names.

    Weights are constants if possible, because TensorFlow then folds them into operators before it runs; a model with lookup
    tables or other resources keeps its variables. Of a SavedModel, objects besides the signature, such as optimizers, are left
    out. See `frozen_graph.py` and `signature_graph.py`.

    Raises:
        StepError: as `load_source`; E422 it does not convert, E423 it differs from its source.
    """
    context.progress("loading the model", 0.0)
    job = prepare(context, ConvertParameters.from_json(context.params).source)
    path = context.output / FOLDER
    context.progress("saving", 0.2)
    weights: Literal["constants", "variables"] = "variables"
    if job.with_tables is not None:
        job.with_tables.copy(path, job.signature)
    else:
        with converting("a SavedModel", job.model.signature, traced_anew=job.model.keras_model is not None):
            traced = trace(job.graph)
            tf.saved_model.save(traced.module, str(path), signatures={SIGNATURE: traced.concrete})
        # It contains a random number, and TensorFlow does not need it.
        (path / "fingerprint.pb").unlink()
        weights = "constants" if traced.constant else "variables"
    context.progress("checking the SavedModel", 0.6)
    checked = job.check(open_runtime("saved-model", context.output, job.signature, _THREADS).run)
    facts = variant_facts(format="saved-model", exporter="tensorflow", weights=weights, checked=tuple(checked))
    facts.write(context.output)
    return facts.summary()


def to_onnx(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.onnx` with the signature's names and dynamic axes; the order of channels does not change.

    Raises:
        StepError: as `load_source`; E422 it does not convert, E423 it differs from its source, E424 the file's inputs or
            outputs are not the declared ones.
    """
    from orchestrator.frameworks.tensorflow import onnx_export

    context.progress("loading the model", 0.0)
    job = prepare(context, ConvertParameters.from_json(context.params).source)
    context.progress("converting to ONNX", 0.2)
    model = onnx_export.from_function(job.graph, job.signature)
    inputs = {tensor.name: own.name for tensor, own in zip(job.signature.inputs, model.graph.input, strict=True)}
    outputs = {tensor.name: tensor.name for tensor in job.signature.outputs}
    graph = onnx_export.finish(model, inputs, outputs, job.signature, context.output / "model.onnx")
    context.progress("checking the ONNX file", 0.6)
    checked = job.check(open_runtime("onnx", context.output, job.signature, _THREADS).run)
    facts = variant_facts(format="onnx", exporter="tf2onnx", checked=tuple(checked), **graph)
    facts.write(context.output)
    return facts.summary()


def to_tflite(context: StepContext) -> dict[str, Any]:
    """Step: the source as `model.tflite` with the signature `serving_default` and the spec's names.

    Only LiteRT's own operators are used: most devices have no others, and neither has the runtime that measures here.

    Raises:
        StepError: as `load_source`; E422 it does not convert, E423 it differs from its source, E424 the file's inputs or
            outputs are not the declared ones.
    """
    context.progress("loading the model", 0.0)
    job = prepare(context, ConvertParameters.from_json(context.params).source)
    converter, _ = litert_converter(job)
    operators = write_litert(context, job, converter)
    facts = variant_facts(format="tflite", exporter="tf.lite", operators=operators)
    facts.write(context.output)  # the runtime reads the names from it
    context.progress("checking the LiteRT file", 0.6)
    checked = job.check(open_runtime("tflite", context.output, job.signature, _THREADS).run)
    facts = facts.model_copy(update={"checked": tuple(checked)})
    facts.write(context.output)
    return facts.summary()


def litert_converter(job: TfJob) -> tuple[Any, Traced]:
    """TensorFlow's converter to LiteRT for this model, and the graph that it converts.

    Raises:
        StepError: E422, the model cannot be traced.
    """
    with converting("LiteRT", job.model.signature, traced_anew=job.model.keras_model is not None):
        traced = trace(job.graph)
        return tf.lite.TFLiteConverter.from_concrete_functions([traced.concrete], traced.module), traced


def write_litert(context: StepContext, job: TfJob, converter: Any) -> tuple[str, ...]:
    """Run the converter, write `model.tflite`, and compare its inputs and outputs with the signature.

    Returns:
        The names of its operators.

    Raises:
        StepError: E422 it does not convert, E424 the file's inputs or outputs are not the declared ones.
    """
    with converting("LiteRT", job.model.signature, traced_anew=job.model.keras_model is not None):
        converted = converter.convert()
    (context.output / FILE).write_bytes(converted)
    return check_written(context.output, job.signature)
