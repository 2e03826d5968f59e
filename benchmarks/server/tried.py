"""Measures what the server is made of against what it could be made of; prints the table and writes tried.md.

python benchmarks/server/tried.py

Each pair is measured in one process, in turns; the figure is the shortest of many, which other programs disturb least. HTTP
layers are measured over sockets with the client of run.py, in front of a handler that does nothing. granian lives in the
environment of the peers.
"""

from __future__ import annotations

import asyncio
import json
import math
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11
import httptools
import numpy as np
import onnxruntime as ort
import orjson
import uvloop
from models import mlp
from run import HERE, MLP_SIZES, PEERS, Served, install_peers, load, request, serving

from orchestrator.server.protocol import array_from_list
from orchestrator.server.signature import Tensor

Case = tuple[str, Callable[[], Any]]


def shortest(cases: list[Case], number: int) -> dict[str, float]:
    """Microseconds of each case: the shortest of 20 turns of `number` calls."""
    turns: dict[str, list[float]] = {name: [] for name, _ in cases}
    for _ in range(20):
        for name, call in cases:
            turns[name].append(timeit.timeit(call, number=number) / number * 1e6)
    return {name: min(each) for name, each in turns.items()}


def heads() -> dict[str, float]:
    """The head and body of the MLP's request with raw tensors."""
    data = request("/v2/models/m/infer", (256,), binary=True)

    class Kept:
        def on_url(self, url: bytes) -> None:
            self.url = url

        def on_header(self, name: bytes, value: bytes) -> None:
            self.headers[name.lower()] = value

        def on_body(self, body: bytes) -> None:
            self.body = body

        headers: dict[bytes, bytes] = {}  # noqa: RUF012 - one of these is made

    parser = httptools.HttpRequestParser(Kept())

    def in_python() -> None:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(data)
        while not isinstance(connection.next_event(), h11.EndOfMessage):
            pass

    return shortest([("httptools", lambda: parser.feed_data(data)), ("h11", in_python)], 500)


def numbers() -> dict[str, float]:
    """256 numbers in JSON to a float32 array."""
    body = request("/", (256,), binary=False).split(b"\r\n\r\n", 1)[1]
    tensor = Tensor("x", "float32", ("batch", 256))

    def data(document: Any) -> list[float]:
        return document["inputs"][0]["data"]  # type: ignore[no-any-return]

    def with_numpy(document: Any) -> None:
        with np.errstate(over="raise"):
            np.array(data(document)).astype(np.float32)

    return shortest(
        [
            ("json, numpy", lambda: with_numpy(json.loads(body))),
            ("orjson, numpy", lambda: with_numpy(orjson.loads(body))),
            ("orjson, struct", lambda: array_from_list(tensor, data(orjson.loads(body)), (1, 256))),
        ],
        500,
    )


def raw() -> dict[str, float]:
    """The raw tensor of one image of 224 by 224 to an array."""
    body = bytes(3 * 224 * 224 * 4)
    return shortest(
        [
            ("a view", lambda: np.frombuffer(memoryview(body), np.float32)),
            ("a copy", lambda: np.frombuffer(memoryview(body), np.float32).copy()),
        ],
        200,
    )


def calls() -> dict[str, float]:
    """One call of the MLP's session with one row and with 16."""
    with tempfile.TemporaryDirectory() as folder:
        mlp(Path(folder) / "model.onnx", MLP_SIZES)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(Path(folder) / "model.onnx", options)
    cases: list[Case] = []
    for rows in (1, 16):
        x = np.zeros((rows, 256), np.float32)
        binding = session.io_binding()

        def bound(x: Any = x, binding: Any = binding) -> None:
            binding.bind_cpu_input("x", x)
            binding.bind_output("y")
            session.run_with_iobinding(binding)
            binding.get_outputs()[0].numpy()

        cases += [(f"run, {rows}", lambda x=x: session.run(["y"], {"x": x})), (f"io-binding, {rows}", bound)]
    return shortest(cases, 50)


def hand_over() -> dict[str, float]:
    """To another thread and back to the event loop, which sleeps meanwhile; the median, since that is what a client sees."""
    todo: queue.SimpleQueue[asyncio.Future[None] | None] = queue.SimpleQueue()

    async def measure() -> float:
        loop = asyncio.get_running_loop()

        def work() -> None:
            while (future := todo.get()) is not None:
                loop.call_soon_threadsafe(future.set_result, None)

        thread = threading.Thread(target=work)
        thread.start()
        taken = []
        for _ in range(3000):
            began = time.perf_counter()
            future: asyncio.Future[None] = loop.create_future()
            todo.put(future)
            await future
            taken.append(time.perf_counter() - began)
        todo.put(None)
        thread.join()
        return statistics.median(taken) * 1e6

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return {"thread": runner.run(measure())}


def layers() -> dict[str, Any]:
    """CPU time and rate of HTTP layers alone, the MLP's request with raw tensors, 32 connections."""
    own = [sys.executable, str(HERE / "echo.py"), "18095"]
    granian = [str(PEERS / "bin" / "granian"), "--interface", "rsgi", "--host", "127.0.0.1", "--port", "18096"]
    granian += ["--workers", "1", "--no-ws", "--log-level", "error", "--working-dir", str(HERE), "echo:rsgi"]
    uvicorn = [str(PEERS / "bin" / "python"), "-m", "uvicorn", "--app-dir", str(HERE), "--port", "18097"]
    uvicorn += ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error", "echo:asgi"]
    contestants = {"own": (own, 18095), "granian": (granian, 18096), "uvicorn": (uvicorn, 18097)}
    found: dict[str, list[Any]] = {name: [] for name in contestants}
    for _ in range(3):
        for name, (command, port) in contestants.items():
            with serving(command, "/", "/", port) as server:
                found[name].append(load(Served(port, server.pid, "/"), request("/", (256,), binary=True), 32, 2))
    return {
        name: {key: statistics.median(each[key] for each in rounds) for key in ("server_cpu_us", "requests_per_s")}
        for name, rounds in found.items()
    }


def main() -> None:
    if subprocess.run([PEERS / "bin" / "granian", "--version"], check=False, capture_output=True).returncode:
        install_peers()
    parsed, read, viewed, called, threads, served = heads(), numbers(), raw(), calls(), hand_over(), layers()
    rows = [
        ("HTTP layer alone, 32 connections: own, on httptools and uvloop", served["own"]),
        ("the same: granian (RSGI)", served["granian"]),
        ("the same: uvicorn (ASGI, httptools, uvloop)", served["uvicorn"]),
    ]
    lines = ["| what | measured |", "|---|---|"]
    lines += [
        f"| {what} | {v['server_cpu_us']:.0f} µs of CPU each, {v['requests_per_s']:,.0f} req/s |" for what, v in rows
    ]
    for what, group in (
        ("parsing head and body of a request", parsed),
        ("256 numbers of JSON to an array", read),
        ("600 KB of raw tensor to an array", viewed),
        ("a call of the session (rows)", called),
        ("to another thread and back, the loop asleep", threads),
    ):
        lines += [
            f"| {what}: {name} | {taken:.{max(0, 1 - int(math.log10(taken)))}f} µs |" for name, taken in group.items()
        ]
    table = "\n".join(lines)
    print(table)
    (HERE / "tried.md").write_text(f"# What was tried\n\nWritten by `python benchmarks/server/tried.py`.\n\n{table}\n")


if __name__ == "__main__":
    main()
