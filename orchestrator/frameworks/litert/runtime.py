"""Runs a LiteRT (TFLite) model on the CPU."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from orchestrator.artifacts.runtime_facts import RuntimeFacts
from orchestrator.artifacts.variant_facts import VariantFacts
from orchestrator.frameworks.litert.file import TfliteFile, TfliteTensor, read
from orchestrator.frameworks.source.runtime import gpu_not_used
from orchestrator.frameworks.source.samples import STRING
from orchestrator.steps.context import StepError
from orchestrator.steps.parameters import TensorNames
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestrator.frameworks.source.runtime import Accelerator
    from orchestrator.frameworks.source.samples import Array
    from orchestrator.spec.signature import Signature

__all__ = ["FILE", "LitertRuntime", "allocate", "by_spec_name", "open_interpreter", "open_tflite"]

FILE = "model.tflite"
"""The model's file in a variant."""


class LitertRuntime:
    """One interpreter; see `orchestrator.frameworks.source.runtime.Runtime`.

    Tensors are only allocated again if a call has other shapes than the previous one. The model's state is reset before
    each call, so that the result does not depend on previous calls.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        inputs: Mapping[str, TfliteTensor],
        outputs: Mapping[str, TfliteTensor],
        threads: int,
        *,
        keeps_state: bool,
    ) -> None:
        self._interpreter = interpreter
        self._inputs = inputs
        self._outputs = outputs
        self._threads = threads
        self._keeps_state = keeps_state
        self._shapes: dict[str, tuple[int, ...]] = {}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """One call; see `Runtime.run`.

        Raises:
            ValueError: an input does not have the model's type or shape.
            RuntimeError: an operator cannot process these shapes or values.
        """
        given = {name: _to_litert(inputs[name]) for name in self._inputs}
        self._lay_out({name: array.shape for name, array in given.items()})
        for name, tensor in self._inputs.items():
            self._interpreter.set_tensor(tensor.index, given[name])
        if self._keeps_state:
            self._interpreter.reset_all_variables()
        self._interpreter.invoke()
        return {
            name: _from_litert(self._interpreter.get_tensor(tensor.index), tensor)
            for name, tensor in self._outputs.items()
        }

    def facts(self) -> RuntimeFacts:
        """See `Runtime.facts`."""
        return RuntimeFacts("litert", {"ai-edge-litert": version("ai-edge-litert")}, self._threads)

    def _lay_out(self, shapes: dict[str, tuple[int, ...]]) -> None:
        if shapes == self._shapes:
            return
        self._shapes = {}  # if one of the next lines fails, nothing is allocated
        for name, tensor in self._inputs.items():
            _check_shape(name, tensor, shapes[name])
            if None in tensor.shape:
                self._interpreter.resize_tensor_input(tensor.index, shapes[name])
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def open_interpreter(path: Path, threads: int) -> tuple[Interpreter, TfliteFile]:
    """Open the model: LiteRT verifies the file before it is read.

    Raises:
        ValueError: the file is damaged, or uses something that this version of LiteRT does not support.
        RuntimeError: the model's graph is inconsistent.
    """
    interpreter = Interpreter(str(path), num_threads=threads)
    return interpreter, read(path)


def allocate(interpreter: Interpreter, file: TfliteFile) -> None:
    """Allocate the tensors, so that a model that cannot run is found when it is loaded.

    Where sizes are open, the file states 1 for them, which the model may not take: then its calls allocate, at their sizes.

    Raises:
        ValueError, RuntimeError: the tensors cannot be allocated at any size.
    """
    try:
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        if "unresolved custom op" in str(error) or not any(None in tensor.shape for tensor in file.inputs):
            raise


def by_spec_name(
    interpreter: Interpreter,
    file: TfliteFile,
    names: TensorNames,
    signature: Signature,
    threads: int,
) -> LitertRuntime:
    """A runtime that is called with the spec's names.

    Args:
        interpreter: of the model.
        file: the content of the model's file.
        names: name in the spec → the model's own, where they differ.
        signature: determines the requested outputs.
        threads: of the interpreter.

    Raises:
        KeyError: the model has no tensor with one of the names.
    """
    return LitertRuntime(
        interpreter,
        _renamed(file.inputs, names.inputs, [tensor.name for tensor in signature.inputs]),
        _renamed(file.outputs, names.outputs, [tensor.name for tensor in signature.outputs]),
        threads,
        keeps_state=file.keeps_state,
    )


def open_tflite(
    directory: Path, signature: Signature, threads: int, accelerator: Accelerator = "none"
) -> LitertRuntime:
    """Load `model.tflite` of a variant; see `open_runtime`.

    The user's own LiteRT file keeps its names; `VariantFacts` beside it maps the spec's names to them.
    """
    if accelerator != "none":
        raise gpu_not_used("LiteRT", "mlo runs it on CPUs only")
    own = VariantFacts.read(directory).names
    names = TensorNames() if own is None else TensorNames(own.inputs, own.outputs)
    try:
        interpreter, file = open_interpreter(directory / FILE, threads)
        allocate(interpreter, file)
        return by_spec_name(interpreter, file, names, signature, threads)
    except (ValueError, RuntimeError) as error:
        raise StepError("E420", "LiteRT does not load the model", cause=headline(error)) from error
    except KeyError as error:
        raise StepError("E420", f"the LiteRT model has no tensor {error}") from error


def _renamed(tensors: tuple[TfliteTensor, ...], names: Mapping[str, str], wanted: list[str]) -> dict[str, TfliteTensor]:
    own = {tensor.name: tensor for tensor in tensors}
    return {name: own[names.get(name, name)] for name in wanted}


def _check_shape(name: str, tensor: TfliteTensor, shape: tuple[int, ...]) -> None:
    """Refuse other sizes than the model's fixed ones: LiteRT would resize, but some operators would use the old size.

    Raises:
        ValueError: the shape is not the model's.
    """
    fits = len(shape) == len(tensor.shape) and all(
        own in {None, size} for own, size in zip(tensor.shape, shape, strict=True)
    )
    if not fits:
        own = ", ".join("?" if size is None else str(size) for size in tensor.shape)
        raise ValueError(f"the input `{name}` has the shape [{own}] in the model, but {list(shape)} was given")


def _to_litert(array: Array) -> Array:
    """The array as LiteRT needs it: texts as UTF-8, and contiguous."""
    return np.char.encode(array, "utf-8") if array.dtype.kind == "U" else np.asarray(array, order="C")


def _from_litert(array: Array, tensor: TfliteTensor) -> Array:
    if tensor.dtype != STRING:
        return array
    flat = [value.decode("utf-8", errors="backslashreplace") for value in array.reshape(-1)]
    return np.array(flat, dtype=np.str_).reshape(array.shape)
