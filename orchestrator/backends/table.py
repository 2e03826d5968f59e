"""The backends by name. To add one: write its file, add its row; `tests/backends` tells what else it needs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from orchestrator.backends.backend import Backend, Packaging

__all__ = ["BACKENDS", "UNSERVED", "backend", "packaging"]

BACKENDS: dict[str, str] = {
    "onnxruntime": "orchestrator.backends.onnxruntime.backend:ONNXRUNTIME",
    "torchserve": "orchestrator.backends.torchserve.backend:TORCHSERVE",
    "tensorflow-serving": "orchestrator.backends.tensorflow_serving.backend:TENSORFLOW_SERVING",
    "litert": "orchestrator.backends.litert.backend:LITERT",
}
"""Name → `module:ATTRIBUTE`; imported when asked for, since the command line starts without them."""


UNSERVED = frozenset({"litert"})
"""Rows without a server: a device runs what they hand over."""


def packaging(name: str) -> Packaging:
    """What writes the folder of the backend with this name.

    Raises:
        KeyError: there is none.
    """
    module, _, attribute = BACKENDS[name].partition(":")
    return cast("Packaging", getattr(importlib.import_module(module), attribute))


def backend(name: str) -> Backend:
    """The backend with this name, which has a server.

    Raises:
        KeyError: there is none, or it has no server.
    """
    if name in UNSERVED:
        raise KeyError(name)
    return cast("Backend", packaging(name))
