"""A stand-in for a runtime: it sleeps a known time, so that a test knows what must be measured. Not a model."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.artifacts.runtime_facts import RuntimeFacts
from orchestrator.steps.context import StepError


class SleepingRuntime:
    """Sleeps `seconds` a call and `per_row` more for each row; allocates memory or dies if requested."""

    def __init__(self, behaviour: Mapping[str, Any]) -> None:
        self._behaviour = behaviour
        self._kept: list[bytearray] = []
        self._calls = 0

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        rows = len(next(iter(inputs.values())))
        self._calls += 1
        if rows >= self._behaviour.get("takes_memory_from", 1 << 30):
            self._kept.append(bytearray(os.urandom(1024) * 1024 * self._behaviour["mebibytes"]))
        if rows >= self._behaviour.get("dies_from", 1 << 30):
            os.abort()
        if rows >= self._behaviour.get("raises_from", 1 << 30):
            raise RuntimeError("the kernel does not like this batch\nand says more")
        seconds = self._behaviour.get("seconds", 0.0) + rows * self._behaviour.get("per_row", 0.0)
        cold = self._behaviour.get("first_call", 0.0) if self._calls == 1 else 0.0
        time.sleep(seconds + cold)
        return {"y": np.zeros((rows, 1), dtype=np.float32)}

    def facts(self) -> RuntimeFacts:
        return RuntimeFacts("asleep", {}, 1)


class WritingRuntime:
    """Writes into its inputs, as `x.sub_(mean)` does in PyTorch, and refuses a call with other values than the first."""

    def __init__(self) -> None:
        self._first: dict[int, dict[str, np.ndarray[Any, Any]]] = {}

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        rows = len(next(iter(inputs.values())))
        first = self._first.setdefault(rows, {name: array.copy() for name, array in inputs.items()})
        for name, array in inputs.items():
            if not np.array_equal(array, first[name]):
                raise ValueError(f"{name} is not as it was in the first call")
            np.add(array, 1, out=array)
        return {"y": np.zeros((rows, 1), dtype=np.float32)}

    def facts(self) -> RuntimeFacts:
        return RuntimeFacts("writing", {}, 1)


def open_writing(behaviour: Mapping[str, Any], signature: object) -> WritingRuntime:
    """Opens it."""
    del behaviour, signature
    return WritingRuntime()


def open_sleeping(behaviour: Mapping[str, Any], signature: object) -> SleepingRuntime:
    """Opens it; loading takes as long as `load` says, half a second more with no file `slow_once`, or fails."""
    time.sleep(behaviour.get("load", 0.0))
    if (marker := behaviour.get("slow_once")) and not Path(marker).exists():
        Path(marker).touch()
        time.sleep(0.5)
    if refusal := behaviour.get("refuses_to_load"):
        code, message, cause, remedy = refusal
        raise StepError(code, message, cause=cause, remedy=remedy)
    if behaviour.get("fails_to_allocate"):
        raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc")
    runtime = SleepingRuntime(behaviour)
    if size := behaviour.get("load_mebibytes"):
        runtime._kept.append(bytearray(os.urandom(1024) * 1024 * size))
        time.sleep(0.2)
    return runtime
