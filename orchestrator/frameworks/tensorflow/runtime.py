"""Runs TensorFlow models on the CPU or a GPU: SavedModel variants, and sources as given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.artifacts.runtime_facts import RuntimeFacts

from orchestrator.frameworks.tensorflow.library import limit_threads, tf, use_accelerator  # isort: skip - it has to come first
from tensorflow.python.saved_model.loader_impl import parse_saved_model

from orchestrator.frameworks.tensorflow.model import TfModel, called_by
from orchestrator.frameworks.tensorflow.signature_graph import load_alone
from orchestrator.steps.context import StepError, refuse_on
from orchestrator.steps.parameters import TensorNames
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from orchestrator.frameworks.source.runtime import Accelerator
    from orchestrator.spec.signature import Signature

__all__ = ["FOLDER", "TfRuntime", "open_saved_model"]

FOLDER = "saved_model"
"""The model's folder in a variant."""

_SIGNATURE = "serving_default"


class TfRuntime:
    """One model in inference mode; see `orchestrator.frameworks.source.runtime.Runtime`."""

    def __init__(self, model: TfModel, threads: int, name: str, versions: Mapping[str, str]) -> None:
        self._model = model
        self._threads = threads
        self._name = name
        self._versions = dict(versions)

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        """One call; see `Runtime.run`."""
        return self._model.call(inputs)

    def facts(self) -> RuntimeFacts:
        """See `Runtime.facts`."""
        return RuntimeFacts(self._name, self._versions, self._threads)


def open_saved_model(
    directory: Path, signature: Signature, threads: int, accelerator: Accelerator = "none"
) -> TfRuntime:
    """Load `saved_model/` of a variant, whose tensors have the spec's names; see `open_runtime`.

    Raises:
        StepError: E420, TensorFlow cannot load it, or it lacks the signature's tensors; E427, the GPU cannot be used.
    """
    threads = limit_threads(threads)
    use_accelerator(accelerator)
    # The exception depends on which part of the folder is damaged.
    with refuse_on(Exception, "E420", "TensorFlow does not load the SavedModel", cause=headline):
        folder = directory / FOLDER
        graph = parse_saved_model(str(folder)).meta_graphs[0]
        loaded, called = load_alone(folder, graph, _SIGNATURE)
    declared = graph.signature_def[_SIGNATURE]
    owns = {"inputs": sorted(declared.inputs), "outputs": sorted(declared.outputs)}
    try:
        model = called_by(TensorNames(), called, owns, loaded, signature)
    except StepError as error:
        raise StepError(
            "E420", "the SavedModel does not have the tensors of its signature", cause=error.message
        ) from error
    return TfRuntime(model, threads, "tensorflow", {"tensorflow": tf.__version__})
