"""The session alone, without a server: latency, CPU time, load time and memory, printed as JSON.

python bare.py MODEL THREADS ROWS SECONDS
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import onnxruntime as ort
import psutil


def main() -> None:
    model, threads, rows, seconds = sys.argv[1], *map(float, sys.argv[2:])
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # The same options as the server's: the same work, called in a loop.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False
    before = psutil.Process().memory_info().rss
    began = time.perf_counter()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    load_s = time.perf_counter() - began
    first = session.get_inputs()[0]
    x = np.random.default_rng(0).standard_normal((int(rows), *first.shape[1:]), np.float32)
    for _ in range(3):
        session.run(None, {first.name: x})
    memory = psutil.Process().memory_info().rss - before
    calls: list[float] = []
    cpu, now = time.process_time(), time.perf_counter()
    began, end = now, now + seconds
    while now < end:
        session.run(None, {first.name: x})
        calls.append(time.perf_counter() - now)
        now = time.perf_counter()
    cpu = time.process_time() - cpu
    calls.sort()
    print(
        json.dumps(
            {
                "cpu_us_per_row": cpu / len(calls) / rows * 1e6,
                "rows_per_s": len(calls) * rows / (now - began),
                "busy": cpu / (now - began),
                "p50_ms": calls[len(calls) // 2] * 1e3,
                "load_s": load_s,
                "memory_mib": memory / 2**20,
            }
        )
    )


main()
