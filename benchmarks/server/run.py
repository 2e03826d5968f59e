"""Measures the server against the bare session and against its peers; prints the table, writes results.md and the README's table.

python benchmarks/server/run.py [--seconds 5] [--rounds 3] [--only NAME] [--install-peers]

Everything that is compared is measured alternately in one run, on the same cores, with the client on the same machine. Only
ratios and differences within a run are meaningful. The peers are installed in `.peers`, a separate environment.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from models import mlp, resnet50, write_folder  # the scripts in this folder are not a package

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.append(str(HERE.parent))  # nor are those in the one above

from marked import write_marked  # noqa: E402

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as in the server itself
PEERS = HERE / ".peers"
PEER_PACKAGES = ("kserve==0.21.*", "litserve==0.2.19", "granian==2.*")
MLP_SIZES = (256, 1024, 1024, 16)
RESNET_BATCH = 8
STAGES = ("read", "decode", "queue", "run", "encode")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    limit: str
    kept: bool | None


@dataclass(frozen=True)
class Served:
    """A running server."""

    port: int
    pid: int
    path: str


def install_peers() -> None:
    """Create the peers' environment, with the same versions of ONNX Runtime and numpy as here."""
    if not (PEERS / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    pip = [str(PEERS / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *PEER_PACKAGES, f"onnxruntime=={version('onnxruntime')}"], check=True)


def version(package: str) -> str:
    import importlib.metadata  # noqa: PLC0415 - next to its only use

    return importlib.metadata.version(package)


def run_json(*command: str) -> Any:
    """A script's last line of output, as JSON."""
    done = subprocess.run([sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def bare(model: Path, threads: int, rows: int, seconds: float) -> Any:
    return run_json(str(HERE / "bare.py"), str(model), str(threads), str(rows), str(seconds))


def load(server: Served, request: bytes, connections: int, seconds: float) -> Any:
    with tempfile.NamedTemporaryFile() as file:
        file.write(request)
        file.flush()
        return run_json(
            str(HERE / "load.py"), str(server.port), str(connections), str(seconds), file.name, str(server.pid)
        )


@contextlib.contextmanager
def serving(command: list[str], ready: str, path: str, port: int | None = None) -> Iterator[Served]:
    """Start a server and wait until `ready` answers 200. Without `port`, the port is read from its log."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True)
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"{command} ended with {process.returncode}: {log.read()}")
                if port is None:
                    log.seek(0)
                    live = [line for line in log.read().splitlines() if '"message":"live"' in line]
                    port = int(json.loads(live[0])["address"].rpartition(":")[2]) if live else None
                if port is not None and answers(port, ready):
                    break
                time.sleep(0.01)
            assert port is not None, "not live in a minute"
            yield Served(port, process.pid, path)
        finally:
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            # LitServe's workers survive it.
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
            process.kill()
            process.wait()


def answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def own(folder: Path) -> contextlib.AbstractContextManager[Served]:
    command = [sys.executable, "-m", "orchestrator.server", "--config", str(folder / "server.json")]
    return serving(command, "/v2/health/ready", "/v2/models/m/infer")


def kserve(model: Path) -> contextlib.AbstractContextManager[Served]:
    command = [str(PEERS / "bin" / "python"), str(HERE / "peer_kserve.py"), str(model), "18091"]
    return serving(command, "/v2/health/ready", "/v2/models/m/infer", 18091)


def litserve(model: Path, *, fast: bool) -> contextlib.AbstractContextManager[Served]:
    command = [str(PEERS / "bin" / "python"), str(HERE / "peer_litserve.py"), str(model), "18092", str(int(fast))]
    return serving(command, "/health", "/predict", 18092)


def request(path: str, shape: tuple[int, ...], *, binary: bool) -> bytes:
    """A complete HTTP request with one row."""
    x = np.random.default_rng(0).standard_normal((1, *shape), np.float32)
    tensor: dict[str, Any] = {"name": "x", "datatype": "FP32", "shape": list(x.shape)}
    extra, raw = "", b""
    if binary:
        raw = x.tobytes()
        tensor["parameters"] = {"binary_data_size": len(raw)}
        head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
        extra = f"Inference-Header-Content-Length: {len(head)}\r\n"
    else:
        tensor["data"] = [round(float(value), 6) for value in x.flat]
        head = json.dumps({"inputs": [tensor]}).encode()
    kind = "application/octet-stream" if binary else "application/json"
    lines = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{extra}Content-Length: {len(head) + len(raw)}"
    return lines.encode() + b"\r\n\r\n" + head + raw


def median(rounds: list[Any], key: str) -> float:
    return float(statistics.median(each[key] for each in rounds))


def small_model(folder: Path, rounds: int, seconds: float) -> list[Row]:
    """The MLP: throughput and p99 against the peers, latency against the bare session."""
    model = folder / "model.onnx"
    mlp(model, MLP_SIZES)
    write_folder(folder, [256], [16], threads=1, max_batch_size=32)
    contestants: dict[str, tuple[Callable[[], contextlib.AbstractContextManager[Served]], bool]] = {
        "mlo, JSON": (lambda: own(folder), False),
        "KServe 0.21, JSON": (lambda: kserve(model), False),
        "LitServe 0.2.19, batching": (lambda: litserve(model, fast=False), False),
        "LitServe 0.2.19, batching, fast queue": (lambda: litserve(model, fast=True), False),
        "mlo, binary": (lambda: own(folder), True),
        "KServe 0.21, binary": (lambda: kserve(model), True),
    }
    found: dict[str, list[Any]] = {name: [] for name in contestants}
    alone: list[float] = []
    above: dict[str, list[float]] = {"JSON": [], "binary": []}
    stages: dict[str, list[dict[str, float]]] = {"JSON": [], "binary": []}
    for _ in range(rounds):
        for name, (start, binary) in contestants.items():
            with start() as server:
                found[name].append(load(server, request(server.path, (256,), binary=binary), 32, seconds))
                if name.startswith("mlo"):
                    alone.append(bare(model, 1, 1, min(seconds, 2))["p50_ms"])
                    before = metrics(server)
                    one = load(server, request(server.path, (256,), binary=binary), 1, min(seconds, 2))
                    kind = "binary" if binary else "JSON"
                    above[kind].append(one["p50_ms"] - alone[-1])
                    stages[kind].append(stage_means(before, metrics(server)))
    rows = []
    for name, measured in found.items():
        text = (
            f"{median(measured, 'requests_per_s'):,.0f} req/s, p50 {median(measured, 'p50_ms'):.2f} ms, "
            f"p99 {median(measured, 'p99_ms'):.2f} ms, {median(measured, 'server_cpu_us'):.0f} µs of CPU each"
        )
        rows.append(Row(f"MLP, 32 connections: {name}", text, "", None))
    for ours, theirs in (
        ("mlo, JSON", "KServe 0.21, JSON"),
        ("mlo, JSON", "LitServe 0.2.19, batching"),
        ("mlo, JSON", "LitServe 0.2.19, batching, fast queue"),
        ("mlo, binary", "KServe 0.21, binary"),
    ):
        ratio = median(found[ours], "requests_per_s") / median(found[theirs], "requests_per_s")
        p99s = median(found[ours], "p99_ms"), median(found[theirs], "p99_ms")
        text = f"{ratio:.1f} times the throughput, p99 {p99s[0]:.1f} against {p99s[1]:.1f} ms"
        rows.append(
            Row(f"MLP: {ours} against {theirs}", text, "≥ 8 times, lower p99", ratio >= 8 and p99s[0] < p99s[1])
        )
    for kind, differences in above.items():
        difference = statistics.median(differences)
        text = f"{difference:.3f} ms above {statistics.median(alone):.3f} ms"
        rows.append(Row(f"MLP, one connection, {kind}: above the bare session", text, "≤ 0.25 ms", difference <= 0.25))
    for kind, means in stages.items():
        text = ", ".join(f"{stage} {median(means, stage):.0f}" for stage in STAGES)
        rows.append(Row(f"MLP, one connection, {kind}: mean µs by stage (encode sends, too)", text, "", None))
    return rows


def large_rows(folder: Path, rounds: int, seconds: float) -> list[Row]:
    """ResNet-50: CPU time per row at saturation against the bare session at the same batch size."""
    model, threads = folder / "model.onnx", 2
    resnet50(model)
    write_folder(folder, [3, 224, 224], [1000], threads=threads, max_batch_size=RESNET_BATCH)
    alone, served = [], []
    rows_per_call = 0.0
    with own(folder) as server:
        for _ in range(rounds):
            served.append(
                load(
                    server,
                    request(server.path, (3, 224, 224), binary=True),
                    2 * RESNET_BATCH,
                    2 * seconds,
                )
            )
            alone.append(bare(model, threads, RESNET_BATCH, 2 * seconds))
        rows_per_call = batch_rows(server)
    cpu, bare_cpu = median(served, "server_cpu_us"), median(alone, "cpu_us_per_row")
    text = (
        f"{cpu / bare_cpu:.3f} times ({cpu / 1e3:.1f} against {bare_cpu / 1e3:.1f} ms; {rows_per_call:.1f} rows a call; "
        f"{median(served, 'requests_per_s'):.1f} rows/s)"
    )
    rate = statistics.median(s["requests_per_s"] / a["rows_per_s"] for s, a in zip(served, alone, strict=True))
    busy, bare_busy = median(served, "busy"), median(alone, "busy")
    return [
        Row(
            "ResNet-50, binary, saturated: CPU time per row against the bare session",
            text,
            "≤ 1.08 times",
            cpu / bare_cpu <= 1.08,
        ),
        Row(
            "ResNet-50, saturated: rows per second against the bare session",
            f"{rate:.2f} times; {busy:.2f} cores busy (client included), {bare_busy:.2f} by the bare session",
            "≥ 0.95 times, ≥ 1.9 cores",
            rate >= 0.95 and busy >= 1.9,
        ),
    ]


def batch_rows(server: Served) -> float:
    found = metrics(server)
    return found["mlo_batch_rows_sum"] / found["mlo_batch_rows_count"]


def metrics(server: Served) -> dict[str, float]:
    """All lines of the results."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[0] != "#")}


def stage_means(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Microseconds of each stage, for the requests between two scrapes of the metrics."""

    def more(what: str, stage: str) -> float:
        name = f'mlo_request_seconds_{what}{{stage="{stage}"}}'
        return after[name] - before[name]

    return {stage: more("sum", stage) / more("count", stage) * 1e6 for stage in STAGES}


def start_and_memory(folder: Path, rounds: int) -> list[Row]:
    """A model of 100 MB: time from start to ready, and resident memory, in addition to those of the bare session."""
    model = folder / "model.onnx"
    mlp(model, (1024, 4096, 5120, 16))
    write_folder(folder, [1024], [16], threads=2, max_batch_size=8)
    besides, memory, totals = [], [], []
    for _ in range(max(rounds, 5)):
        alone = bare(model, 2, 8, 0.2)
        began = time.perf_counter()
        with own(folder) as server:
            total = time.perf_counter() - began
            resident = psutil.Process(server.pid).memory_info().rss / 2**20
        totals.append(total)
        besides.append(total - alone["load_s"])
        memory.append(resident - alone["memory_mib"])
    size = model.stat().st_size / 1e6
    seconds, mib = statistics.median(besides), statistics.median(memory)
    return [
        Row(
            f"Start to ready, model of {size:.0f} MB, besides the session's load",
            f"{seconds:.2f} s (of {statistics.median(totals):.2f} s)",
            "< 1 s",
            seconds < 1,
        ),
        Row("Resident memory besides the session's", f"{mib:.0f} MiB", "< 120 MB", mib * 2**20 / 1e6 < 120),
    ]


PARTS: dict[str, Callable[[Path, int, float], list[Row]]] = {
    "small": small_model,
    "large": large_rows,
    "start": lambda folder, rounds, _: start_and_memory(folder, rounds),
}


def table(rows: list[Row]) -> str:
    lines = ["| what | measured | limit | kept |", "|---|---|---|---|"]
    marks = {None: "", True: "yes", False: "**no**"}
    lines += [f"| {row.what} | {row.measured} | {row.limit} | {marks[row.kept]} |" for row in rows]
    return "\n".join(lines)


def write(rows: list[Row], rounds: int, seconds: float) -> None:
    """Write the results file, and the results that have a limit between the marks in the README."""
    versions = ", ".join(
        f"{package} {version(package)}" for package in ("onnxruntime", "uvloop", "httptools", "orjson")
    )
    text = (
        "# The server, measured\n\n"
        f"`python benchmarks/server/run.py`: {rounds} rounds of {seconds:g} s each, in turns; medians. "
        f"{len(os.sched_getaffinity(0))} cores ({platform.machine()}), client on the same machine. "
        f"Python {platform.python_version()}, {versions}. Metrics and validation are on. "
        "ONNX Runtime runs the MLP with one thread and the others with two, here and in the peers.\n\n"
    )
    (HERE / "results.md").write_text(text + table(rows) + "\n")
    quoted = table([row for row in rows if row.limit])
    write_marked(ROOT / "README.md", "server", quoted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=list(PARTS), help="one part; results.md is left as it is")
    parser.add_argument("--install-peers", action="store_true", help="only make the peers' environment")
    options = parser.parse_args()
    if options.install_peers or (options.only in {None, "small"} and not (PEERS / "bin" / "python").exists()):
        install_peers()
    if options.install_peers:
        return
    rows: list[Row] = []
    for name, part in PARTS.items():
        if options.only in {None, name}:
            with tempfile.TemporaryDirectory() as folder:
                rows += part(Path(folder), options.rounds, options.seconds)
                print(table(rows), "\n", flush=True)
    if options.only is None:
        write(rows, options.rounds, options.seconds)
    if any(row.kept is False for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
