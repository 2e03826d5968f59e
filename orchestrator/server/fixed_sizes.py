"""Calls with a few fixed batch sizes and fixed device buffers, as needed to capture CUDA graphs.

A graph replays the kernels of one call at the same addresses, without launching each from the CPU. Each size has its own
graph. Smaller batches are padded to the next size; larger ones run without a graph.

ONNX Runtime keeps graphs by thread (`PerThreadContext` of its CUDA provider): the thread that captures a size, which it does
in its first call, has to be the one that repeats it.

Source: ONNX Runtime's manual, "CUDA Execution Provider", on CUDA graphs; `gpu_graph_id` in its
`onnxruntime_run_options_config_keys.h`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort

from .datatypes import Array, numpy_dtype
from .signature import Signature, Tensor

__all__ = ["FixedSizes"]

_NO_GRAPH = "-1"


@dataclass(frozen=True, slots=True)
class _Call:
    """One size: inputs and outputs bound on the device, and the run options with its graph id."""

    inputs: Mapping[str, Any]
    outputs: Sequence[Any]
    binding: Any
    options: Any


class FixedSizes:
    """The calls of one session. Call it as the session: inputs by name → outputs in the signature's order."""

    def __init__(self, session: Any, signature: Signature, sizes: Sequence[int], device: tuple[str, int]) -> None:
        """Bind nothing yet; each size is bound in its first call.

        Args:
            session: ONNX Runtime's, on the device.
            signature: with shapes that only the number of rows changes (`Signature.no_fixed_calls` is empty).
            sizes: batch sizes with their own buffers.
            device: as ONNX Runtime names it, such as ("cuda", 0).
        """
        self._session = session
        self._signature = signature
        self._sizes = sorted(set(sizes))
        self._device = device
        self._outputs = list(signature.outputs)
        self._calls: dict[int, _Call] = {}
        self._without = _graph(_NO_GRAPH)

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        """One call; padding is removed from the outputs."""
        rows = self._rows(inputs)
        size = self._size(rows)
        if size is None:
            outputs: list[Array] = self._session.run(self._outputs, inputs, self._without)
            return outputs
        call = self._calls.get(size)
        if call is None:
            call = self._calls[size] = self._bind(size)
        for name, array in inputs.items():
            call.inputs[name].update_inplace(_filled(array, size if self._signature.batch is not None else None))
        self._session.run_with_iobinding(call.binding, call.options)
        # A copy: on the CPU it would be the buffer itself, which the next call overwrites.
        return [_cut(value.numpy(), rows).copy() for value in call.outputs]

    def _rows(self, inputs: Mapping[str, Array]) -> int | None:
        """The rows of a call; None for a model without a batch dimension."""
        return None if self._signature.batch is None else len(next(iter(inputs.values())))

    def _size(self, rows: int | None) -> int | None:
        """The size that a call is padded to; None if it has to run unchanged."""
        if rows is None:
            return 1
        if not self._signature.splits:  # an output without rows cannot be cut
            return rows if rows in self._sizes else None
        return next((size for size in self._sizes if 0 < rows <= size), None)

    def _bind(self, size: int) -> _Call:
        inputs = {name: self._buffer(tensor, size) for name, tensor in self._signature.inputs.items()}
        outputs = {name: self._buffer(tensor, size) for name, tensor in self._signature.outputs.items()}
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return _Call(inputs, list(outputs.values()), binding, _graph(str(size)))

    def _buffer(self, tensor: Tensor, size: int) -> Any:
        shape, dtype = self._signature.shape_at(tensor, size), numpy_dtype(tensor.dtype)
        return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, *self._device)


def _graph(number: str) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", number)  # 0 is ONNX Runtime's own
    return options


def _filled(array: Array, size: int | None) -> Array:
    """An array padded to `size` rows with copies of its last row, which are valid values for the model."""
    if size is None or len(array) == size:
        return np.asarray(array, order="C")
    return np.concatenate([array, np.repeat(array[-1:], size - len(array), axis=0)])


def _cut(array: Array, rows: int | None) -> Array:
    return array if rows is None else array[:rows]
