"""The serving backends by name. To add one: write its file, add its row; `tests/backends` tells what else it needs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from orchestrator.backends.backend import Backend

__all__ = ["BACKENDS", "backend"]

BACKENDS: dict[str, str] = {
    "onnxruntime": "orchestrator.backends.onnxruntime:ONNXRUNTIME",
    "torchserve": "orchestrator.backends.torchserve:TORCHSERVE",
}
"""Name → `module:ATTRIBUTE`; imported when asked for, since the command line starts without them."""


def backend(name: str) -> Backend:
    """The backend with this name.

    Raises:
        KeyError: there is none.
    """
    module, _, attribute = BACKENDS[name].partition(":")
    return cast("Backend", getattr(importlib.import_module(module), attribute))
