"""LiteRT (TFLite) models as sources: inspection, the import step, and the model as the baseline.

A dimension that is open in the model may have any size. A fixed one, often a batch of 1, stays fixed: operators may compute
with that size, and a resized model can silently return wrong results.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.artifacts.inspection import FoundNote, FoundTensor, Inspection
from orchestrator.frameworks.litert.ids import ids_of_inputs
from orchestrator.frameworks.litert.runtime import LitertRuntime, allocate, by_spec_name, open_interpreter
from orchestrator.frameworks.source.comparison import (
    apart_by_first_dimension,
    changing_output,
    row_mixing_output,
)
from orchestrator.frameworks.source.import_step import given_samples, record
from orchestrator.frameworks.source.model_file import AT_WEIGHTS, expect_kind
from orchestrator.frameworks.source.outputs import failed_call
from orchestrator.frameworks.source.probe import write_probed
from orchestrator.frameworks.source.runtime import gpu_not_used
from orchestrator.frameworks.source.smallest_batch import naming_the_batch
from orchestrator.steps.context import StepContext, StepError, refuse_as
from orchestrator.steps.parameters import ImportParameters, ProbeParameters
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ai_edge_litert.interpreter import Interpreter

    from orchestrator.frameworks.litert.file import TfliteFile, TfliteTensor
    from orchestrator.frameworks.source.outputs import Answer
    from orchestrator.frameworks.source.runtime import Accelerator
    from orchestrator.frameworks.source.samples import Array, Samples
    from orchestrator.spec.signature import Signature
    from orchestrator.steps.parameters import SourceParameters, TensorNames

__all__ = ["check", "inspect", "open_baseline", "open_source", "probe"]

_STATELESS = "keep no state between calls, or make it an input and an output"
_RANDOM = {"MULTINOMIAL", "RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM"}


def inspect(context: StepContext) -> dict[str, Any]:
    """Step: the tensors of the model's first graph, by the names of its signature, without running it.

    Inputs: `weights`. Leaves an `Inspection`.

    Raises:
        StepError: E301 not a LiteRT model, E302 damaged, E366 it needs operators that LiteRT does not have.
    """
    _, file = _opened(context.inputs["weights"], 1)
    found = Inspection(
        inputs=tuple(FoundTensor(t.name, t.dtype, t.shape) for t in file.inputs),
        outputs=tuple(FoundTensor(t.name, t.dtype, t.shape) for t in file.outputs),
        ranges={},
        multiples={},
        files=(),
        notes=tuple(_notes(file)),
        weights=None,
    )
    found.write(context.output)
    return {"inputs": len(file.inputs), "outputs": len(file.outputs), "parameters": file.parameters}


def check(context: StepContext) -> dict[str, Any]:
    """The import step: loads the model, checks it against the spec, and records its outputs.

    Params: `ImportParameters`. Inputs: `weights`, and
    `samples` if given. Writes the files that `write_import` lists.

    Raises:
        StepError: E301, E302, E366, E367 the model, E320-E332 inputs, outputs and repeatability, E340-E345 the samples.
    """
    parameters = ImportParameters.from_json(context.params)
    signature = parameters.signature
    context.progress("loading the model")
    runtime, file = open_source(parameters.source, context.inputs, signature, threads=len(os.sched_getaffinity(0)))
    answer = _guarded(runtime.run, signature)
    own = _numbers(parameters.source, signature, file)
    samples = given_samples(
        context,
        parameters,
        lambda inputs: answer(inputs).values(),
        lambda: ids_of_inputs(context.inputs["weights"], own),
    )
    context.progress("checking that outputs repeat")
    notes = [f"source: {note.text}" for note in _notes(file)]
    with naming_the_batch(answer, signature, samples):
        _prove_repeatable(answer, signature, samples, file, notes)
    return record(
        context,
        answer,
        signature,
        samples,
        parameters=file.parameters,
        framework={"ai-edge-litert": version("ai-edge-litert")},
        notes=notes,
    )


def probe(context: StepContext) -> dict[str, Any]:
    """Step: find out by calling the model what sizes and integers it takes.

    Params: `ProbeParameters`. Inputs: `weights`. Leaves a `Probed`.

    Raises:
        StepError: as `open_source`.
    """
    parameters = ProbeParameters.from_json(context.params)
    signature = parameters.signature
    context.progress("loading the model")
    runtime, file = open_source(parameters.source, context.inputs, signature, threads=len(os.sched_getaffinity(0)))
    shown = ids_of_inputs(context.inputs["weights"], _numbers(parameters.source, signature, file))
    return write_probed(context, _guarded(runtime.run, signature), shown)


def _numbers(source: SourceParameters, signature: Signature, file: TfliteFile) -> dict[str, int]:
    """The spec's name of each input → its number in the file."""
    numbers = {tensor.name: tensor.index for tensor in file.inputs}
    return {tensor.name: numbers[source.names.inputs.get(tensor.name, tensor.name)] for tensor in signature.inputs}


def open_baseline(
    source: SourceParameters,
    inputs: Mapping[str, Path],
    project: Path,
    signature: Signature,
    threads: int,
    accelerator: Accelerator = "none",
) -> LitertRuntime:
    """The model as given, as a runtime: the baseline of every variant.

    Called as an `OpenBaseline`.

    Raises:
        StepError: as `open_source`; E427 a GPU is requested.
    """
    del project
    if accelerator != "none":
        raise gpu_not_used("LiteRT", "mlo runs it on CPUs only")
    return open_source(source, inputs, signature, threads)[0]


def open_source(
    source: SourceParameters, inputs: Mapping[str, Path], signature: Signature, threads: int
) -> tuple[LitertRuntime, TfliteFile]:
    """The source model, called by the spec's names, and the content of its file.

    Args:
        source: the parameters of the source, with `names`.
        inputs: with the role `weights`.
        signature: the inputs and outputs by the spec's names.
        threads: for the operators of one call.

    Raises:
        StepError: E301 not a LiteRT model, E302 damaged, E320 and E324 it has no tensor with one of the names, E366 it
            needs operators that LiteRT does not have, E367 LiteRT cannot prepare it.
    """
    interpreter, file = _opened(inputs["weights"], threads)
    names = source.names
    _compare("inputs", "E320", file.inputs, names, [tensor.name for tensor in signature.inputs])
    _compare("outputs", "E324", file.outputs, names, [tensor.name for tensor in signature.outputs])
    with refuse_as((ValueError, RuntimeError), lambda error: _unprepared(error, file)):
        allocate(interpreter, file)
    return by_spec_name(interpreter, file, names, signature, threads), file


def _guarded(run: Callable[[Mapping[str, Array]], dict[str, Array]], signature: Signature) -> Answer:
    """`run` in the form that the import step needs (`orchestrator.frameworks.source.outputs.Answer`).

    Args:
        run: one call of the model.
        signature: for messages about failing calls.
    """

    def answer(inputs: Mapping[str, Array], dim: str | None = None) -> dict[str, Array]:
        with refuse_as((ValueError, RuntimeError), lambda error: failed_call(_cause(error), signature, inputs, dim)):
            return run(inputs)

    return answer


_OTHER_OPERATORS = (
    "build the model of operators that LiteRT has and convert it again, or deploy the model that it was converted from: "
    "`kind: keras` or `kind: saved-model`"
)


def _opened(path: Path, threads: int) -> tuple[Interpreter, TfliteFile]:
    expect_kind(path, "tflite", "tflite")
    with refuse_as((ValueError, RuntimeError), _unreadable):
        interpreter, file = open_interpreter(path, threads)
    if file.tensorflow_operators:
        raise StepError(
            "E366",
            f"the model needs operators of TensorFlow: {', '.join(file.tensorflow_operators)}",
            cause='it was converted with "Select TF ops", whose kernels LiteRT does not have',
            remedy=_OTHER_OPERATORS,
            at=AT_WEIGHTS,
        )
    return interpreter, file


def _unreadable(error: Exception) -> StepError:
    if "Didn't find op for builtin opcode" in str(error):
        return StepError(
            "E366",
            "the model uses an operator in a version that this LiteRT does not have",
            cause=_cause(error),
            remedy=f"convert it again with an older TensorFlow, or install a newer ai-edge-litert than {version('ai-edge-litert')}",
            at=AT_WEIGHTS,
        )
    return StepError(
        "E302",
        "the LiteRT model cannot be loaded",
        cause=_cause(error),
        remedy="the file is cut short or damaged: copy or convert it again",
        at=AT_WEIGHTS,
    )


def _unprepared(error: Exception, file: TfliteFile) -> StepError:
    if "unresolved custom op" in str(error):
        return StepError(
            "E366",
            f"the model needs operators that LiteRT does not have: {', '.join(file.custom_operators)}",
            cause="they are custom operators, which need a library of their own",
            remedy=_OTHER_OPERATORS,
            at=AT_WEIGHTS,
        )
    return StepError(
        "E367",
        "LiteRT cannot prepare the model to run",
        cause=_cause(error),
        remedy="convert it again with a newer converter, and try it there with ai_edge_litert's Interpreter",
        at=AT_WEIGHTS,
    )


def _compare(
    role: Literal["inputs", "outputs"],
    code: str,
    tensors: tuple[TfliteTensor, ...],
    names: TensorNames,
    wanted: list[str],
) -> None:
    owns = [tensor.name for tensor in tensors]
    own_names = {name: names.of(role).get(name, name) for name in wanted}
    listed = f"its {role} are {', '.join(f'`{own}`' for own in owns)}"
    for index, (name, own) in enumerate(own_names.items()):
        if own not in owns:
            raise StepError(
                code,
                f"the model has no {role[:-1]} `{own}`",
                cause=listed,
                remedy=f"write `tensor:` beside `name: {name}`, with the model's own name of it",
                at=("model", role, index, "name"),
            )
    if role == "inputs" and (lacking := [own for own in owns if own not in own_names.values()]):
        raise StepError(
            code,
            f"the model takes {len(owns)} inputs, but the spec declares {len(wanted)}",
            cause=f"nothing is declared for {', '.join(f'`{own}`' for own in lacking)}",
            remedy="declare every input, or leave `inputs` out to have them read from the model",
            at=("model", role),
        )


def _cause(error: Exception) -> str:
    """LiteRT's reason, without the source location and condition before it and the operator after it."""
    return (
        headline(error).replace("Node number", "; node number", 1) if "Node number" in str(error) else headline(error)
    )


def _prove_repeatable(
    answer: Answer, signature: Signature, samples: Samples, file: TfliteFile, notes: list[str]
) -> None:
    """Check that outputs repeat, and that a row does not depend on the other rows of its batch; may add to `notes`.

    Raises:
        StepError: E330 it draws random numbers, E331 rows influence each other, E332 a call affects the next.
    """
    if file.writes_variables:
        raise StepError(
            "E332",
            "the model keeps state from call to call, as one that is fed a stream does",
            cause="one call affects the next: ASSIGN_VARIABLE writes what the next call reads, and the replicas of a server share nothing",
            remedy=_STATELESS,
            at=AT_WEIGHTS,
        )
    if name := changing_output(answer, signature, samples):
        drawn = sorted(file.operators & _RANDOM)
        raise StepError(
            "E330" if drawn else "E332",
            f"the model's output `{name}` changes when a call is repeated",
            cause=f"{', '.join(drawn)} draws random numbers" if drawn else "one call affects the next",
            remedy="convert the model in inference mode, without random operators" if drawn else _STATELESS,
            at=AT_WEIGHTS,
        )
    if mixed := row_mixing_output(answer, signature, samples, notes):
        raise StepError(
            "E331",
            f"a row's `{mixed.output}` depends on the other rows of its batch",
            cause="an operator mixes the rows of a batch, or quantizes them with one common range",
            remedy=mixed.remedy(apart_by_first_dimension(signature)),
            at=AT_WEIGHTS,
        )


def _notes(file: TfliteFile) -> list[FoundNote]:
    notes = [
        FoundNote(
            f"the {role} `{tensor.name}` is {tensor.dtype} and stands for "
            f"(value {-tensor.zero_point:+d}) x {tensor.scale:.6g}",
            tensor.name,
        )
        for role, tensors in (("input", file.inputs), ("output", file.outputs))
        for tensor in tensors
        if tensor.scale is not None
    ]
    if file.other_signatures:
        listed = ", ".join(f"`{name}`" for name in file.other_signatures)
        notes.append(FoundNote(f"the model's first graph is served; its other signatures are not: {listed}"))
    if file.keeps_state:
        notes.append(
            FoundNote(
                "the model keeps state from call to call; it is reset before each call, since replicas do not share it"
            )
        )
    return notes
