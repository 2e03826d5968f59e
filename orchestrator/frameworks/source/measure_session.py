"""The measured child: opens one runtime, runs it on command, and replies with times.

`python -m orchestrator.frameworks.source.measure_session COMMANDS REPLIES` reads lines of JSON from one descriptor and writes
one line to the other for each. The parent's side is `orchestrator.measure.session`, the commands are:

    {"do": "open", "opener": "module:function", "arguments": {...}, "samples": PATH, "batched": true, "instances": 1}
        → {"seconds": load time, "facts": {...}}; with more instances than one, so many copies of the model are loaded
    {"do": "run", "rows": 8, "calls": 1000, "seconds": 0.05, "untimed": 1}
        → {"seconds": [...]}, one number for each call: at most `calls` of them, none started after `seconds`; preceded by
        `untimed` calls, because another process has used the caches meanwhile. With several instances a call is one of each, all
        at once, and takes until the last has ended

Every reply holds `peak_rss`, bytes. A command that fails is answered with {"error": {"ending", "diagnostic"}}: an `Ending`,
and a `Diagnostic` as JSON.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

# Only some openers read documents; imported here, this costs all of them the same and is not timed.
import orchestrator.artifacts.document  # noqa: F401
from orchestrator.measure.failure import MeasureError, out_of_memory
from orchestrator.process.apart import keep_apart
from orchestrator.spec.signature import Signature
from orchestrator.steps.context import Ending, StepError
from orchestrator.steps.failures import is_out_of_memory, is_transient, unexpected
from orchestrator.steps.parameters import SourceParameters
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.frameworks.source.runtime import Runtime

__all__ = ["MeasuredRuntime", "main"]

_FROM_JSON: Mapping[str, Callable[[Any], Any]] = {
    "directory": Path,
    "project": Path,
    "signature": Signature.from_json,
    "source": SourceParameters.from_json,
    "inputs": lambda paths: {role: Path(path) for role, path in paths.items()},
}
"""The arguments of an opener that are not plain JSON, by name."""


class _Call:
    """The inputs of one call, and the arrays in which a runtime gets them.

    A model that writes into its inputs (`x.sub_(mean)`) would otherwise see values that move further away with each call.
    They are restored before every call of every runtime, outside the measured time: so all find their inputs in the caches
    alike, and a copy that no server makes is in nobody's time.
    """

    def __init__(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> None:
        self._inputs = inputs
        self._given = {name: array.copy() for name, array in inputs.items()}

    def restored(self) -> dict[str, np.ndarray[Any, Any]]:
        """The arrays for the next call."""
        for name, array in self._inputs.items():
            np.copyto(self._given[name], array)
        return self._given


class MeasuredRuntime:
    """One runtime and the inputs it is measured with."""

    def __init__(self) -> None:
        self._runtimes: list[Runtime] = []
        self._pool: ThreadPoolExecutor | None = None
        self._samples: dict[str, np.ndarray[Any, Any]] = {}
        self._batched = True
        self._calls: dict[int, list[_Call]] = {}

    def open(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Load the model; the time includes importing what it needs."""
        module, _, function = command["opener"].partition(":")
        arguments = {name: _FROM_JSON.get(name, _as_is)(value) for name, value in command["arguments"].items()}
        instances = command["instances"]
        begun = perf_counter()
        opener = getattr(importlib.import_module(module), function)
        runtimes: list[Runtime] = [opener(**arguments) for _ in range(instances)]
        seconds = perf_counter() - begun
        names = [tensor["name"] for tensor in command["arguments"]["signature"]["inputs"]]
        with np.load(command["samples"], allow_pickle=False) as samples:
            self._samples = {name: samples[name] for name in names}
        self._batched = command["batched"]
        self._runtimes = runtimes
        self._pool = ThreadPoolExecutor(instances) if instances > 1 else None
        gc.collect()
        gc.freeze()  # a framework's modules are a hundred thousand objects, which later collections would traverse
        return {"seconds": seconds, "facts": runtimes[0].facts().as_json()}

    def run(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Call the model repeatedly with the same rows."""
        if not self._runtimes:
            raise ValueError("nothing is open")
        each = self._each(command["rows"])
        calls, limit = command["calls"], command["seconds"]
        times: list[float] = []
        gc.disable()  # a collection during a call would count as the model's time
        try:
            for _ in range(command["untimed"]):
                self._call_all(each)
            started = ended = perf_counter()
            while len(times) < calls and ended - started < limit:
                begun, ended = self._call_all(each)
                times.append(ended - begun)
        finally:
            gc.enable()
        return {"seconds": times}

    def _call_all(self, each: list[_Call]) -> tuple[float, float]:
        """One call of every instance; when the first began and the last ended."""
        inputs = [call.restored() for call in each]
        if self._pool is None:
            begun = perf_counter()
            self._runtimes[0].run(inputs[0])
            return begun, perf_counter()
        begun = perf_counter()
        running = [self._pool.submit(runtime.run, of) for runtime, of in zip(self._runtimes, inputs, strict=True)]
        for call in running:
            call.result()
        return begun, perf_counter()

    def _each(self, rows: int) -> list[_Call]:
        """The call of each instance, with arrays of its own."""
        if rows not in self._calls:
            # Rows of the samples, repeated if there are too few.
            chosen = np.arange(rows) if self._batched else 0
            inputs = {name: np.array(array.take(chosen, axis=0, mode="wrap")) for name, array in self._samples.items()}
            self._calls[rows] = [_Call(inputs) for _ in self._runtimes]
        return self._calls[rows]


def _as_is(value: Any) -> Any:
    return value


def _peak_rss() -> int:
    """The peak resident size of this process, bytes.

    From /proc, because getrusage's ru_maxrss starts with the parent's size.
    """
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _failure(error: Exception) -> MeasureError:
    if is_out_of_memory(error):
        return out_of_memory(headline(error))
    if isinstance(error, StepError):
        return MeasureError(Ending.EXCEPTION if is_transient(error) else Ending.REFUSED, error.diagnostic)
    return MeasureError(Ending.EXCEPTION, unexpected(error))


def main(argv: list[str]) -> int:
    """Answer commands until there are no more."""
    keep_apart()
    measured = MeasuredRuntime()
    with (
        os.fdopen(int(argv[0]), encoding="utf-8") as commands,
        os.fdopen(int(argv[1]), "w", encoding="utf-8") as replies,
    ):
        for line in commands:
            command = json.loads(line)
            try:
                reply = measured.open(command) if command["do"] == "open" else measured.run(command)
            except Exception as error:  # noqa: BLE001 - reported to the parent; the log has the traceback
                traceback.print_exc()
                reply = {"error": _failure(error).as_json()}
            replies.write(json.dumps({**reply, "peak_rss": _peak_rss()}) + "\n")
            replies.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
