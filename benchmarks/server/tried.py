"""Compares the server's building blocks with alternatives; prints the table and writes tried.md.

python benchmarks/server/tried.py

Each pair is measured alternately in one process; the result is the shortest of many runs, which other programs affect
least. HTTP layers are measured over sockets with the client of run.py, in front of a handler that does nothing. granian is
installed in the peers' environment.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11
import httptools
import numpy as np
import onnxruntime as ort
import orjson
from models import mlp, write_folder
from run import HERE, MLP_SIZES, PEERS, Served, install_peers, load, request, serving

from orchestrator.server.binary import decode_binary
from orchestrator.server.header_cache import HeaderCache
from orchestrator.server.protocol import array_from_list
from orchestrator.server.signature import Signature, Tensor

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
    """Convert 256 numbers in JSON to a float32 array."""
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


def binary_heads() -> dict[str, float]:
    """Parse a request with 256 raw numbers into an array."""
    data = request("/", (256,), binary=True)
    body, length = data.split(b"\r\n\r\n", 1)[1], int(data.split(b"-Length: ")[1].split(b"\r")[0])
    tensors = [{name: Tensor(name, "float32", ("batch", size))} for name, size in (("x", 256), ("y", 16))]
    signature = Signature(*tensors, {"batch": (1, 64)}, "batch")
    cache = HeaderCache(signature)
    return shortest(
        [
            ("read anew", lambda: decode_binary(body, length, signature)),
            ("its JSON known", lambda: cache.decode(body, length)),
        ],
        500,
    )


def raw() -> dict[str, float]:
    """Convert the raw tensor of one image of 224 by 224 pixels to an array."""
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


def placed() -> dict[str, Any]:
    """The server with short calls on the event loop, its default, and with all calls in the instance's thread."""
    start = "import sys, orchestrator.server.inline_calls as inline_calls; {}; from orchestrator.server.__main__ import main; sys.exit(main())"
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        mlp(folder / "model.onnx", MLP_SIZES)
        write_folder(folder, [256], [16], threads=1, max_batch_size=32)
        rounds: dict[str, list[Any]] = {"on the event loop": [], "in a thread": []}
        for _ in range(3):
            for where, each in rounds.items():
                change = "inline_calls._SHORT_S = 0" if where == "in a thread" else "0"
                command = [sys.executable, "-c", start.format(change), "--config", str(folder / "server.json")]
                with serving(command, "/v2/health/ready", "/v2/models/m/infer") as server:
                    asked = request(server.path, (256,), binary=False)
                    each.append([load(server, asked, connections, 2) for connections in (1, 32)])
    for where, each in rounds.items():
        found[where] = {
            "p50_ms": statistics.median(one["p50_ms"] for one, _ in each),
            "cpu_us": statistics.median(many["server_cpu_us"] for _, many in each),
            "requests_per_s": statistics.median(many["requests_per_s"] for _, many in each),
        }
    return found


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
    if not (PEERS / "bin" / "granian").exists():
        install_peers()
    parsed, read, known, viewed, called, calling, served = (
        heads(),
        numbers(),
        binary_heads(),
        raw(),
        calls(),
        placed(),
        layers(),
    )
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
        ("256 raw numbers, from the body to a checked array", known),
        ("600 KB of raw tensor to an array", viewed),
        ("a call of the session (rows)", called),
    ):
        lines += [
            f"| {what}: {name} | {taken:.{max(0, 1 - int(math.log10(taken)))}f} µs |" for name, taken in group.items()
        ]
    lines += [
        f"| calls of the MLP {where}, JSON: one connection, p50; 32 connections | {v['p50_ms']:.2f} ms; "
        f"{v['requests_per_s']:,.0f} req/s, {v['cpu_us']:.0f} µs of CPU each |"
        for where, v in calling.items()
    ]
    table = "\n".join(lines)
    print(table)
    (HERE / "tried.md").write_text(f"# What was tried\n\nWritten by `python benchmarks/server/tried.py`.\n\n{table}\n")


if __name__ == "__main__":
    main()
