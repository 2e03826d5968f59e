"""How OpenVINO is imported, compiled and guarded: the same in the server and where its runtime is verified and measured.

Source: OpenVINO's manual, "CPU Device" (precisions, `INFERENCE_PRECISION_HINT`) and "Optimizing for Latency".
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

# The package `openvino` collects usage data: on import, it writes to the home folder and sends a message. Without the
# package that does this, it falls back to its own stub that does nothing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

import openvino  # noqa: E402 - only now

__all__ = ["compile_settings", "openvino", "unfit_values"]

_INT32 = np.iinfo(np.int32)


def compile_settings(threads: int) -> dict[str, Any]:
    """How a model is compiled: one call at a time, on exactly so many threads, float32 as float32.

    Threads are not bound to CPUs: the container, or whoever started the process, has already set which ones they may use.
    """
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": openvino.Type.f32,
        "ENABLE_CPU_PINNING": False,
        "ENABLE_HYPER_THREADING": True,
    }


def unfit_values(inputs: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Why these inputs cannot be computed; empty if they can.

    int64 is computed with 32 bits, so larger values would silently become others.
    """
    for name, array in inputs.items():
        if array.dtype == np.int64 and array.size and (array.min() < _INT32.min or array.max() > _INT32.max):
            return f"input {name!r} holds values that need more than 32 bits, and OpenVINO computes int64 with 32"
    return ""
