"""Keras models as sources: what the file says, the proof of it, and the model as given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts.inspection import FoundTensor, Inspection
from orchestrator.frameworks.tensorflow.keras_file import input_names, load_keras, output_names, written_by
from orchestrator.frameworks.tensorflow.loaded_model import load_source
from orchestrator.frameworks.tensorflow.process import keras, limit_threads, tf, use_accelerator
from orchestrator.frameworks.tensorflow.runtime import TfRuntime
from orchestrator.frameworks.tensorflow.source import check_model
from orchestrator.frameworks.tensorflow.tensors import dtype_name
from orchestrator.spec.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.frameworks.source.accelerators import Accelerator
    from orchestrator.steps import StepContext

__all__ = ["check", "inspect", "open_baseline"]

_CHANNELS = {
    "channels_last": "last: [batch, height, width, channels]",
    "channels_first": "first: [batch, channels, height, width]",
}
_VERSIONS = {"keras": keras.__version__, "tensorflow": tf.__version__}


def inspect(context: StepContext) -> dict[str, Any]:
    """Step: the model's inputs and outputs, by its own names, without running it.

    Inputs: `weights`. Leaves an `Inspection`.

    Raises:
        StepError: as `load_keras`.
    """
    path = context.inputs["weights"]
    model = load_keras(path)
    found = Inspection(
        inputs=_found(input_names(model), model.inputs),
        outputs=_found(output_names(model), model.outputs),
        ranges={},
        files=(),
        notes=tuple(_notes(path, model)),
        weights=None,
    )
    found.write(context.output)
    return {"inputs": len(found.inputs), "outputs": len(found.outputs), "parameters": model.count_params()}


def check(context: StepContext) -> dict[str, Any]:
    """The import step: loads the model, proves what the spec says of it, and records how it answers.

    Params: `source` (`kind`, `names`), `signature`, `seed` of random samples, `max_rows` of given ones. Inputs: `weights`, and
    `samples` if given. Writes what `write_import` says.

    Raises:
        StepError: as `load_source` and `check_model`.
    """
    signature = Signature.from_json(context.params["signature"])
    context.progress("loading the model")
    model = load_source(context.params, context.inputs, signature)
    return check_model(context, model, framework=_VERSIONS, notes=_notes(context.inputs["weights"], model.keras_model))


def open_baseline(
    params: Mapping[str, Any],
    inputs: Mapping[str, Path],
    project: Path,
    signature: Signature,
    threads: int,
    accelerator: Accelerator = "none",
) -> TfRuntime:
    """The model as given: called in inference mode inside a tf.function, which is what `predict` does for each batch.

    Args:
        params: `source` with its `names`.
        inputs: with the role `weights`.
        project: not used; a Keras model brings no code.
        signature: as the import step left it.
        threads: for the operators of one call.
        accelerator: what computes.

    Raises:
        StepError: as `load_source`; E427 the GPU is not used.
    """
    del project
    threads = limit_threads(threads)
    use_accelerator(accelerator)
    return TfRuntime(load_source(params, inputs, signature), threads, "keras", _VERSIONS)


def _found(names: list[str], tensors: list[Any]) -> tuple[FoundTensor, ...]:
    return tuple(
        FoundTensor(name, dtype_name(tensor.dtype), None if tensor.shape is None else tuple(tensor.shape))
        for name, tensor in zip(names, tensors, strict=True)
    )


def _notes(path: Path, model: Any) -> list[str]:
    notes = []
    writer = written_by(path)
    if writer and writer.partition(".")[0] != keras.__version__.partition(".")[0]:
        notes.append(f"the file was written by Keras {writer}, and is read by {keras.__version__}")
    if any(len(tensor.shape or ()) == 4 for tensor in model.inputs):
        orders = {order for layer in _layers(model) if (order := getattr(layer, "data_format", None)) in _CHANNELS}
        if orders:
            notes.append(
                f"the Keras layers take channels {' and others '.join(_CHANNELS[order] for order in sorted(orders))}"
            )
    return notes


def _layers(model: Any) -> list[Any]:
    return [layer for layer in model._flatten_layers() if layer is not model]  # noqa: SLF001 - `layers` has no inner ones
