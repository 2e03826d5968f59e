"""Times one model's files in turns: `python timing.py resnet-50|bert-base FOLDER RESULT.json`.

Every round times each variant once, in an order that rotates, so that a slow minute of the machine affects all alike. Two threads,
which sleep while they wait. The first call of a process is timed in processes of their own, by `first_call`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch

sys.path.insert(0, str(Path(__file__).parent))  # the scripts of this folder are no package

from torch_files import build, example

THREADS, ROUNDS, BATCHES = 2, 12, (1, 8, 32)
Call = Callable[[Any], object]


def eager(name: str) -> Call:
    model = build(name)

    def call(values: Any) -> object:
        with torch.inference_mode():
            return model(torch.from_numpy(values))

    return call


def torchscript(file: Path) -> Call:
    model = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.load(file).eval()))

    def call(values: Any) -> object:
        with torch.inference_mode():
            return model(torch.from_numpy(values))

    return call


def onnx(file: Path) -> Call:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda values: session.run(None, {"values": values})


def opened(kind: str, name: str, folder: Path) -> Call:
    match kind:
        case "eager":
            return eager(name)
        case "torchscript":
            return torchscript(folder / "torchscript" / "model.pt")
        case _:
            return onnx(folder / kind / "model.onnx")


KINDS = ("eager", "torchscript", "onnx", "int8")


def timed(call: Call, values: Any) -> float:
    began = time.perf_counter()
    call(values)
    return time.perf_counter() - began


def first_call(kind: str, name: str, folder: Path) -> dict[str, float]:
    """Seconds of the first call, and the median of the twentieth to the thirtieth, in this process."""
    call, values = opened(kind, name, folder), example(name, 1)
    times = [timed(call, values) for _ in range(30)]
    return {"first": times[0], "steady": statistics.median(times[20:])}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Seconds: by variant and round, for a batch of one; and by batch size and round for ONNX, with the claims' other figures."""
    calls = {kind: opened(kind, name, folder) for kind in KINDS}
    inputs = {rows: example(name, rows) for rows in BATCHES}
    for call in calls.values():
        for _ in range(5):
            call(inputs[1])
    single: dict[str, list[float]] = {kind: [] for kind in KINDS}
    batches: dict[int, list[float]] = {rows: [] for rows in BATCHES}
    for number in range(ROUNDS):
        turn = KINDS[number % len(KINDS) :] + KINDS[: number % len(KINDS)]
        for kind in turn:
            single[kind].append(statistics.median(timed(calls[kind], inputs[1]) for _ in range(3)))
        for rows in BATCHES:
            batches[rows].append(timed(calls["onnx"], inputs[rows]))
    first = {}
    for kind in KINDS:
        done = subprocess.run(
            [sys.executable, __file__, name, str(folder), f"first:{kind}"], capture_output=True, text=True, check=True
        )
        first[kind] = json.loads(done.stdout.splitlines()[-1])
    return {"single": single, "batches": batches, "first": first}


if __name__ == "__main__":
    torch.set_num_threads(THREADS)
    name, folder, result = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if result.startswith("first:"):
        print(json.dumps(first_call(result.removeprefix("first:"), name, folder)))
    else:
        Path(result).write_text(json.dumps(measure(name, folder)), encoding="utf-8")
