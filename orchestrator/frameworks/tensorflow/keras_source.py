"""Keras files as sources: loaded, inspected, imported, and run as the baseline."""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.artifacts.inspection import FoundNote, FoundTensor, Inspection
from orchestrator.frameworks.source.model_file import AT_WEIGHTS
from orchestrator.frameworks.tensorflow.keras2_layers import without_unknown_settings
from orchestrator.frameworks.tensorflow.keras_scan import check_keras_file, is_hdf5
from orchestrator.frameworks.tensorflow.library import keras, limit_threads, tf, use_accelerator
from orchestrator.frameworks.tensorflow.model import dtype_name, load_source
from orchestrator.frameworks.tensorflow.runtime import TfRuntime
from orchestrator.frameworks.tensorflow.source import check_model, probe_model
from orchestrator.steps.context import StepError, refuse_as
from orchestrator.steps.parameters import ImportParameters, ProbeParameters
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from orchestrator.frameworks.source.runtime import Accelerator
    from orchestrator.spec.signature import Signature
    from orchestrator.steps.context import StepContext
    from orchestrator.steps.parameters import SourceParameters

__all__ = [
    "as_function",
    "check",
    "input_names",
    "inspect",
    "load_keras",
    "open_baseline",
    "output_names",
    "probe",
    "written_by",
]

_CUSTOM = re.compile(
    r"(Could not locate (class|function)|Unknown (layer|object|\w+ function):) '?(?P<name>[\w.>]+)'?"
    r"|Could not locate|Could not interpret|not registered|safe_mode|unsafe"
)


def load_keras(path: Path) -> Any:
    """The model in the file, without its optimizer.

    Raises:
        StepError: E301 another kind of file, E302 damaged, E303 it contains or needs code, E354 it reads other files, E355
            it only has weights, E357 its inputs are unknown, E358 they are not plain tensors.
    """
    check_keras_file(path)
    # Under another name, because Keras depends on the suffix; and in another folder, because it unpacks files next to the
    # model if memory is short.
    with tempfile.TemporaryDirectory() as folder:
        named = Path(folder, "model.h5" if is_hdf5(path) else "model.keras")
        named.symlink_to(path.resolve())
        # Layers, the zip reader and the HDF5 reader each raise their own errors.
        with refuse_as(Exception, lambda error: _not_loaded(error, path)), without_unknown_settings():
            model = keras.saving.load_model(named, compile=False, safe_mode=True)
    _require_tensors(model)
    return model


def written_by(path: Path) -> str:
    """The version of Keras that wrote the file, such as `3.15.1`; empty if the file does not state it."""
    if is_hdf5(path):
        import h5py

        with h5py.File(path, "r") as file:
            return str(file.attrs.get("keras_version", ""))
    with zipfile.ZipFile(path) as archive:
        return str(json.loads(archive.read("metadata.json")).get("keras_version", ""))


def input_names(model: Any) -> list[str]:
    """The model's own names of its inputs, in the order of `model.inputs`: a dictionary's keys, or else the tensors' names."""
    return _names(_structure(model, "inputs"), [tensor.name for tensor in model.inputs])


def output_names(model: Any) -> list[str]:
    """The model's own names of its outputs, in the order of `model.outputs`: a dictionary's keys, or else those of the layers."""
    if isinstance(model, keras.Sequential):
        return _names(None, [model.layers[-1].name] * len(model.outputs))
    return _names(_structure(model, "outputs"), list(model.output_names))


def as_function(model: Any) -> Callable[..., dict[str, Any]]:
    """The model in inference mode; takes tensors and returns a dictionary by the model's own names."""
    inputs, outputs, structure = input_names(model), output_names(model), _structure(model, "inputs")

    def call(**tensors: Any) -> dict[str, Any]:
        given = keras.tree.pack_sequence_as(structure, [tensors[name] for name in inputs])
        answer = model(given, training=False)
        return dict(zip(outputs, keras.tree.flatten(answer), strict=True))

    return call


def _structure(model: Any, role: Literal["inputs", "outputs"]) -> Any:
    """The tensors in the model's own structure: one, a list, a dictionary, or nested."""
    if isinstance(model, keras.Sequential):  # which loses the structure when it is loaded
        tensors = getattr(model, role)
        return tensors[0] if len(tensors) == 1 else tensors
    return model.input if role == "inputs" else model.output


def _names(structure: Any, otherwise: list[str]) -> list[str]:
    if isinstance(structure, Mapping) and len(structure) == len(otherwise):
        paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
        if all(len(path) == 1 for path in paths):
            return [str(path[0]) for path in paths]
    unique: list[str] = []
    for name in otherwise:
        free, number = name, 1
        while free in unique:
            free, number = f"{name}_{number}", number + 1
        unique.append(free)
    return unique


def _require_tensors(model: Any) -> None:
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise StepError(
            "E357",
            "the Keras model does not state its inputs",
            cause=f"it is a {type(model).__name__} that was saved before it had inputs",
            remedy="begin it with keras.Input(shape=(...)), or call it once, and save it again",
            at=AT_WEIGHTS,
        )
    for role, tensors in (("input", model.inputs), ("output", model.outputs)):
        for tensor in tensors:
            form = next((form for form in ("sparse", "ragged") if getattr(tensor, form, False)), "")
            if form:
                raise StepError(
                    "E358",
                    f"the {role} `{tensor.name}` is a {form} tensor",
                    cause="a request carries plain tensors only",
                    remedy=f"let the model {'take' if role == 'input' else 'return'} a plain tensor, padded if necessary",
                    at=AT_WEIGHTS,
                )


def _not_loaded(error: Exception, path: Path) -> StepError:
    if found := _CUSTOM.search(str(error)):
        return StepError(
            "E303",
            "the Keras model needs code that is not in the file",
            cause=found[0] if found["name"] else headline(error),
            remedy=(
                "save it as .keras, a format that covers more of Keras' own operations, or " if is_hdf5(path) else ""
            )
            + "export the model where that code is, model.export('folder'), and write `kind: saved-model`",
            at=AT_WEIGHTS,
        )
    writer = written_by(path)
    return StepError(
        "E302",
        "Keras does not load the model",
        cause=headline(error),
        remedy=f"where Keras {writer} is installed, save it with tf.saved_model.save(model, 'folder') and write "
        f"`kind: saved-model`; Keras {keras.__version__} does not read all of it"
        if writer.startswith(("1.", "2."))
        else "copy or save it again"
        + (f"; Keras {writer} wrote it, and {keras.__version__} reads it" if writer else ""),
        at=AT_WEIGHTS,
    )


_CHANNELS = {
    "channels_last": "last: [batch, height, width, channels]",
    "channels_first": "first: [batch, channels, height, width]",
}
_VERSIONS = {"keras": keras.__version__, "tensorflow": tf.__version__}


def inspect(context: StepContext) -> dict[str, Any]:
    """Step: the model's inputs and outputs, by its own names, without running it.

    Inputs: `weights`. Writes an `Inspection`.

    Raises:
        StepError: as `load_keras`.
    """
    path = context.inputs["weights"]
    model = load_keras(path)
    found = Inspection(
        inputs=_found_in(input_names(model), model.inputs),
        outputs=_found_in(output_names(model), model.outputs),
        ranges={},
        multiples={},
        files=(),
        notes=tuple(map(FoundNote, _notes_on(path, model))),
        weights=None,
    )
    found.write(context.output)
    return {"inputs": len(found.inputs), "outputs": len(found.outputs), "parameters": model.count_params()}


def check(context: StepContext) -> dict[str, Any]:
    """The import step: loads the model, checks it against the spec, and records its outputs.

    Params: `ImportParameters`. Inputs: `weights`, and
    `samples` if given. Writes the files that `write_import` lists.

    Raises:
        StepError: as `load_source` and `check_model`.
    """
    parameters = ImportParameters.from_json(context.params)
    signature = parameters.signature
    context.progress("loading the model")
    model = load_source(parameters.source, context.inputs, signature)
    return check_model(
        context, parameters, model, framework=_VERSIONS, notes=_notes_on(context.inputs["weights"], model.keras_model)
    )


def probe(context: StepContext) -> dict[str, Any]:
    """Step: find out by calling the model what sizes and integers it takes.

    Params: `ProbeParameters`. Inputs: `weights`. Leaves a `Probed`.

    Raises:
        StepError: as `load_source`.
    """
    parameters = ProbeParameters.from_json(context.params)
    context.progress("loading the model")
    return probe_model(context, load_source(parameters.source, context.inputs, parameters.signature))


def open_baseline(
    source: SourceParameters,
    inputs: Mapping[str, Path],
    project: Path,
    signature: Signature,
    threads: int,
    accelerator: Accelerator = "none",
) -> TfRuntime:
    """The model as given, called in inference mode inside a tf.function, as `predict` does for each batch.

    Called as an `OpenBaseline`.

    Raises:
        StepError: as `load_source`; E427 the GPU cannot be used.
    """
    del project
    threads = limit_threads(threads)
    use_accelerator(accelerator)
    return TfRuntime(load_source(source, inputs, signature), threads, "keras", _VERSIONS)


def _found_in(names: list[str], tensors: list[Any]) -> tuple[FoundTensor, ...]:
    return tuple(
        FoundTensor(name, dtype_name(tensor.dtype), None if tensor.shape is None else tuple(tensor.shape))
        for name, tensor in zip(names, tensors, strict=True)
    )


def _notes_on(path: Path, model: Any) -> list[str]:
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
