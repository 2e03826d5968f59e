"""ONNX models as sources: inspection, the import step, and the model as the baseline."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import onnxruntime

from orchestrator.artifacts.inspection import FoundNote, Inspection
from orchestrator.frameworks.onnx.file import checker_error, read_onnx
from orchestrator.frameworks.onnx.graph import nodes
from orchestrator.frameworks.onnx.ids import ids_of_inputs, numbers_compared
from orchestrator.frameworks.onnx.runtime import open_checked_file, open_given
from orchestrator.frameworks.onnx.signature import (
    SERVED,
    check_declared,
    found_tensor,
    output_remedy,
    served_input,
    tensor_names,
)
from orchestrator.frameworks.source.comparison import (
    apart_by_first_dimension,
    changing_output,
    row_mixing_output,
)
from orchestrator.frameworks.source.import_step import given_samples, record
from orchestrator.frameworks.source.model_file import AT_WEIGHTS
from orchestrator.frameworks.source.outputs import failed_call
from orchestrator.frameworks.source.probe import write_probed
from orchestrator.frameworks.source.smallest_batch import naming_the_batch
from orchestrator.steps.context import StepError, refuse_as
from orchestrator.steps.parameters import ImportParameters, ProbeParameters
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestrator.frameworks.onnx.file import GivenModel
    from orchestrator.frameworks.onnx.runtime import OrtRuntime
    from orchestrator.frameworks.source.outputs import Answer
    from orchestrator.frameworks.source.runtime import Accelerator
    from orchestrator.frameworks.source.samples import Array, Samples
    from orchestrator.spec.signature import Signature
    from orchestrator.steps.context import StepContext
    from orchestrator.steps.parameters import SourceParameters

__all__ = ["check", "inspect", "open_baseline", "probe"]

_RANDOM = {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
_ONE_RANGE = {"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
_TRAINED = {"BatchNormalization", "Dropout"}


def inspect(context: StepContext) -> dict[str, Any]:
    """Step: read the tensors and further files of the model at `weights`, without running it.

    Raises:
        StepError: as `read_onnx`; E362 an input cannot be served.
    """
    model = read_onnx(context.inputs["weights"])
    inputs = tuple(served_input(found_tensor(value)) for value in model.inputs)
    outputs = tuple(found_tensor(value) for value in model.proto.graph.output)
    notes = tuple(FoundNote(output_remedy(each), each.tensor) for each in outputs if each.dtype not in SERVED)
    if model.lowered:
        notes = (FoundNote(model.lowered), *notes)
    files = tuple(model.data.files)
    found = Inspection(inputs=inputs, outputs=outputs, ranges={}, multiples={}, files=files, notes=notes, weights=None)
    found.write(context.output)
    return {"inputs": len(inputs), "outputs": len(outputs), "opset": model.opset, "files": len(model.data.files)}


def check(context: StepContext) -> dict[str, Any]:
    """The import step: verifies everything that later steps rely on.

    Params: `ImportParameters`. Inputs: `weights`,
    the files beside it, and `samples` if given. Writes the files that `write_import` lists.

    Raises:
        StepError: as `read_onnx`; E302 and E364 it cannot be loaded, E321-E328 inputs and outputs, E330 and E331 its
            outputs do not repeat, E340-E345 the samples, E362 and E363 tensors differ from the declared ones.
    """
    parameters = ImportParameters.from_json(context.params)
    signature = parameters.signature
    names = tensor_names(parameters.source.names, signature)
    context.progress("loading the model")
    model = read_onnx(context.inputs["weights"])
    notes = check_declared(model, signature, names)
    if model.lowered:
        notes.append(f"source: {model.lowered}")
    answer = _answering(open_given(model, names, len(os.sched_getaffinity(0))), signature)
    if against := checker_error(model):
        notes.append(f"source: ONNX's checker rejects the model, but ONNX Runtime loads it: {against}")

    samples = given_samples(
        context,
        parameters,
        lambda inputs: answer(inputs).values(),
        lambda: ids_of_inputs(model.proto, names["inputs"]),
    )
    context.progress("checking that outputs repeat")
    with naming_the_batch(answer, signature, samples):
        _prove_repeatable(answer, model, signature, samples, notes)
    return record(
        context,
        answer,
        signature,
        samples,
        parameters=sum(math.prod(tensor.dims) for tensor in model.proto.graph.initializer),
        framework={"onnxruntime": onnxruntime.__version__},
        notes=notes,
    )


def probe(context: StepContext) -> dict[str, Any]:
    """Step: find out by calling the model what sizes and integers it takes.

    Params: `ProbeParameters`. Inputs: `weights` and the files beside it. Leaves a `Probed`.

    Raises:
        StepError: as `read_onnx`; E302 and E364 it cannot be loaded, E362 and E363 tensors differ from the proposed ones.
    """
    parameters = ProbeParameters.from_json(context.params)
    signature = parameters.signature
    names = tensor_names(parameters.source.names, signature)
    context.progress("loading the model")
    model = read_onnx(context.inputs["weights"])
    answer = _answering(open_given(model, names, len(os.sched_getaffinity(0))), signature)
    single = {name: own for name, own in names["inputs"].items() if _holds_one(signature, name)}
    return write_probed(
        context,
        answer,
        ids_of_inputs(model.proto, names["inputs"]),
        numbers_compared(model.proto, single),
    )


def _holds_one(signature: Signature, name: str) -> bool:
    """Whether the input is a single number."""
    return next(tensor.shape for tensor in signature.inputs if tensor.name == name) in {(), (1,)}


def _answering(runtime: OrtRuntime, signature: Signature) -> Answer:
    def answer(inputs: Mapping[str, Array], dim: str | None = None) -> dict[str, Array]:
        # Its exceptions have no common base class; the message is reported with the shapes of the inputs.
        with refuse_as(Exception, lambda error: failed_call(headline(error), signature, inputs, dim)):
            return runtime.run(inputs)

    return answer


def open_baseline(
    source: SourceParameters,
    inputs: Mapping[str, Path],
    project: Path,  # noqa: ARG001 - an ONNX model has no code
    signature: Signature,
    threads: int,
    accelerator: Accelerator = "none",
) -> OrtRuntime:
    """The model as given, as a runtime: the baseline of every variant.

    Called as an `OpenBaseline`.

    Raises:
        StepError: E302, E364 it cannot be loaded; E427 the GPU cannot be used.
    """
    return open_checked_file(inputs["weights"], tensor_names(source.names, signature), threads, accelerator)


def _prove_repeatable(
    answer: Answer, model: GivenModel, signature: Signature, samples: Samples, notes: list[str]
) -> None:
    """Check that outputs repeat, and that a row does not depend on the other rows of its batch; may add to `notes`.

    Raises:
        StepError: E330 random numbers are drawn, E331 rows influence each other.
    """
    if output := changing_output(answer, signature, samples):
        raise StepError(
            "E330",
            f"the model's output `{output}` changes when a call is repeated",
            cause=f"{_used(model, _RANDOM | _TRAINED)} draws random numbers",
            remedy="export the model for inference (in PyTorch after model.eval()), or make the random values an input",
            at=AT_WEIGHTS,
        )
    mixed = row_mixing_output(answer, signature, samples, notes)
    if mixed is None:
        return
    batch = signature.batch
    quantized = any(node.op_type in _ONE_RANGE for node in nodes(model.proto))
    raise StepError(
        "E331",
        f"a row's `{mixed.output}` depends on the other rows of its batch",
        cause=f"{_used(model, _ONE_RANGE)} quantizes all rows of a batch with one common range"
        if quantized
        else f"{_used(model, _TRAINED)} mixes the rows of a batch",
        remedy=f"declare `dims: {{{batch}: {{min: 1, max: 1}}}}`, or give the model as it was before quantization, which mlo "
        "quantizes and measures"
        if quantized
        else mixed.remedy(f"export the model for inference; {apart_by_first_dimension(signature)}"),
        at=AT_WEIGHTS,
    )


def _used(model: GivenModel, operators: set[str]) -> str:
    """The operators among these that the model uses, or a phrase if it uses none of them."""
    used = sorted({node.op_type for node in nodes(model.proto)} & operators)
    return " or ".join(f"`{name}`" for name in used) or "an operator"
