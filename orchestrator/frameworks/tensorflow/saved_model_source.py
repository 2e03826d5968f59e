"""SavedModels as sources: what the folder says, the proof of it, and the model as given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts.inspection import FoundTensor, Inspection
from orchestrator.frameworks.tensorflow.loaded_model import load_source
from orchestrator.frameworks.tensorflow.process import limit_threads, tf, use_accelerator
from orchestrator.frameworks.tensorflow.runtime import TfRuntime
from orchestrator.frameworks.tensorflow.saved_model_file import SavedModel, read_saved_model, tensor_infos
from orchestrator.frameworks.tensorflow.saved_model_fingerprint import fingerprint_notes
from orchestrator.frameworks.tensorflow.source import check_model
from orchestrator.frameworks.tensorflow.tensors import dtype_name
from orchestrator.spec.signature import Signature

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.frameworks.source.accelerators import Accelerator
    from orchestrator.steps import StepContext

__all__ = ["check", "inspect", "open_baseline"]

_DEFAULT = "serving_default"
_VERSIONS = {"tensorflow": tf.__version__}


def inspect(context: StepContext) -> dict[str, Any]:
    """Step: the tensors of the signature that is served, by the model's own names, without running it.

    Params: `source` with `signature`. Inputs: `weights`, the folder. Leaves an `Inspection`.

    Raises:
        StepError: as `read_saved_model`; E350, E351 there is no such signature, E358 it takes or returns other things than
            plain tensors.
    """
    name = context.params["source"].get("signature", _DEFAULT)
    read = read_saved_model(context.inputs["weights"])
    signature = read.signature(name)
    found = Inspection(
        inputs=_found(tensor_infos(signature.inputs, "input")),
        outputs=_found(tensor_infos(signature.outputs, "output")),
        ranges={},
        files=(),
        notes=tuple(_notes(read, name)),
        weights=None,
    )
    found.write(context.output)
    return {"inputs": len(found.inputs), "outputs": len(found.outputs), "signatures": list(read.signatures)}


def check(context: StepContext) -> dict[str, Any]:
    """The import step: loads the model, proves what the spec says of it, and records how it answers.

    Params: `source` (`kind`, `names`, `signature`), `signature`, `seed` of random samples, `max_rows` of given ones. Inputs:
    `weights`, the folder, and `samples` if given. Writes what `write_import` says.

    Raises:
        StepError: as `load_source` and `check_model`.
    """
    signature = Signature.from_json(context.params["signature"])
    context.progress("loading the model")
    model = load_source(context.params, context.inputs, signature)
    read = read_saved_model(context.inputs["weights"])
    notes = _notes(read, context.params["source"].get("signature", _DEFAULT))
    return check_model(context, model, framework=_VERSIONS, notes=notes)


def open_baseline(
    params: Mapping[str, Any],
    inputs: Mapping[str, Path],
    project: Path,
    signature: Signature,
    threads: int,
    accelerator: Accelerator = "none",
) -> TfRuntime:
    """The model as given: its signature, as TensorFlow runs it.

    Args:
        params: `source` with its `names` and `signature`.
        inputs: with the role `weights`.
        project: not used; a SavedModel brings no code.
        signature: as the import step left it.
        threads: for the operators of one call.
        accelerator: what computes.

    Raises:
        StepError: as `load_source`; E427 the GPU is not used.
    """
    del project
    threads = limit_threads(threads)
    use_accelerator(accelerator)
    return TfRuntime(load_source(params, inputs, signature), threads, "saved-model", _VERSIONS)


def _found(infos: Mapping[str, Any]) -> tuple[FoundTensor, ...]:
    return tuple(
        FoundTensor(
            name,
            dtype_name(info.dtype),
            None
            if info.tensor_shape.unknown_rank
            else tuple(dim.size if dim.size >= 0 else None for dim in info.tensor_shape.dim),
        )
        for name, info in infos.items()
    )


def _notes(read: SavedModel, name: str) -> list[str]:
    notes = fingerprint_notes(read.folder)
    writer = read.graph.meta_info_def.tensorflow_version
    if not read.graph.HasField("object_graph_def"):
        notes.append(f"the SavedModel is in the format of TensorFlow 1{f' (written by {writer})' if writer else ''}")
    served = _tensors(read.signatures[name])
    others = [other for other in read.signatures if _tensors(read.signatures[other]) != served]
    if others:
        notes.append(f"the signature `{name}` is served; the others are not: {', '.join(f'`{o}`' for o in others)}")
    return notes


def _tensors(signature: Any) -> Any:
    """What a signature takes and returns, however the graph calls it: Keras writes the same one under two names."""
    return [
        [(name, infos[name].dtype, str(infos[name].tensor_shape)) for name in sorted(infos)]
        for infos in (signature.inputs, signature.outputs)
    ]
