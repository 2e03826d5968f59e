"""The backends by name. To add one: write its folder, add its row; `tests/backends/test_table.py` says what else it needs.

The spec takes the names from here, so nothing is imported before a backend is asked for.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from orchestrator.backends.backend import Backend, ServingBackend

__all__ = ["BACKENDS", "SERVERS", "Row", "backend", "backends_of", "serving_backend"]


@dataclass(frozen=True, slots=True)
class Row:
    """The facts about a backend that are needed before it is imported.

    Attributes:
        where: `module:ATTRIBUTE`.
        formats: the supported formats, as in the spec's `optimize.formats`.
        served: whether it has a server; otherwise its files run on a device.
    """

    where: str
    formats: tuple[str, ...]
    served: bool = True


BACKENDS: dict[str, Row] = {
    "onnxruntime": Row("orchestrator.backends.onnxruntime.backend:ONNXRUNTIME", ("onnx",)),
    "openvino": Row("orchestrator.backends.openvino.backend:OPENVINO", ("onnx",)),
    "torchserve": Row("orchestrator.backends.torchserve.backend:TORCHSERVE", ("torchscript", "exported-program")),
    "tensorflow-serving": Row("orchestrator.backends.tensorflow_serving.backend:TENSORFLOW_SERVING", ("saved-model",)),
    "litert": Row("orchestrator.backends.litert.backend:LITERT", ("tflite",), served=False),
}
"""Name → row. If several backends support a format, the first is the default."""

SERVERS: tuple[str, ...] = tuple(name for name, row in BACKENDS.items() if row.served)
"""The names of the backends that have a server."""


def backends_of(format_name: str) -> tuple[str, ...]:
    """The names of the backends that support a format, the default first."""
    return tuple(name for name, row in BACKENDS.items() if format_name in row.formats)


@cache
def backend(name: str) -> Backend:
    """The backend with this name.

    Raises:
        KeyError: there is none.
    """
    module, _, attribute = BACKENDS[name].where.partition(":")
    return cast("Backend", getattr(importlib.import_module(module), attribute))


def serving_backend(name: str) -> ServingBackend:
    """The backend with this name, which must have a server.

    Raises:
        KeyError: there is none, or it has no server.
    """
    if not BACKENDS[name].served:
        raise KeyError(name)
    return cast("ServingBackend", backend(name))
