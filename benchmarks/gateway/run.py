"""Measures how much the local target adds to a request; prints the table, writes results.md and the README's table.

python benchmarks/gateway/run.py [--seconds 3] [--rounds 5]

`wrk` sends requests to one model, of the size of the digits CNN, alternately to the server's own port, to the deployment's
socket that was handed over to the server, and through the gateway. Only ratios and differences within a run are meaningful:
the client, the gateway and the server share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [
    str(ROOT),
    str(HERE.parent),
    str(HERE.parent / "server"),
]  # the scripts in these folders are not a package

from marked import write_marked  # noqa: E402
from models import mlp, write_folder  # noqa: E402
from wrk import Found, write_script, wrk, wrk_is_missing  # noqa: E402

from orchestrator.backends.table import serving_backend  # noqa: E402
from orchestrator.targets.local import launching  # noqa: E402
from orchestrator.targets.local.target import LocalTarget  # noqa: E402
from orchestrator.targets.target import Release  # noqa: E402

SIZES = (64, 256, 256, 10)
CONNECTIONS = (1, 32)
MOST_ADDED_MS = 0.3
LEAST_RATE = 3000


@dataclass(frozen=True)
class Measured:
    """Medians over the rounds."""

    p50_ms: float
    rate: float


class Forwarded:
    """The backend with a server that cannot take over sockets, like TorchServe and TensorFlow Serving."""

    def __init__(self, server: Any) -> None:
        self._server = server

    def __getattr__(self, name: str) -> Any:
        return getattr(self._server, name)

    def launch(self, *arguments: Any, **named: Any) -> Any:
        """The server's command, without the option."""
        return replace(self._server.launch(*arguments, **named), handover=None)


@contextmanager
def deployed(folder: Path, serving: Path, server: Any) -> Iterator[tuple[int, int]]:
    """A deployment's own port, and the server's private one."""
    launching.serving_backend = lambda _: server
    deployment = LocalTarget(folder)
    try:
        public = deployment.prepare()
        private = deployment.start(Release(1, serving, "onnxruntime", "m", 1, 60)).url
        assert private is not None
        deployment.switch(1)
        yield int(public.rpartition(":")[2]), int(private.rpartition(":")[2])
    finally:
        deployment.stop()


def address(port: int) -> str:
    return f"http://127.0.0.1:{port}/v2/models/m/infer"


def measure(seconds: int, rounds: int) -> dict[tuple[str, int], Measured]:
    """Median p50 and requests/s by path and number of connections."""
    runs: dict[tuple[str, int], list[Found]] = {}
    with tempfile.TemporaryDirectory(prefix="mlo-bench-") as name:
        folder = Path(name)
        serving = folder / "serving"
        serving.mkdir()
        mlp(serving / "model.onnx", SIZES)
        write_folder(serving, [SIZES[0]], [SIZES[-1]], threads=1, max_batch_size=32)
        body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, SIZES[0]], "data": [0.5] * SIZES[0]}]}
        script = write_script(folder / "ask.lua", json.dumps(body))
        own = serving_backend("onnxruntime")
        with (
            deployed(folder / "own", serving, own) as (handed, direct),
            deployed(folder / "forwarded", serving, Forwarded(own)) as (gateway, _),
        ):
            ways = {"direct": direct, "handed over": handed, "gateway": gateway}
            for way, port in ways.items():  # warm
                wrk(script, address(port), 8, 1)
                print(f"{way}: port {port}", flush=True)
            order = list(ways.items())
            for _ in range(rounds):
                order.append(order.pop(0))  # rotate the order, so that no path always follows the same one
                for connections in CONNECTIONS:
                    for way, port in order:
                        runs.setdefault((way, connections), []).append(wrk(script, address(port), connections, seconds))
    return {
        key: Measured(statistics.median(m.p50 * 1e3 for m in each), statistics.median(m.rate for m in each))
        for key, each in runs.items()
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--check", action="store_true", help="only fail when a limit is missed; write nothing")
    options = parser.parse_args()
    if missing := wrk_is_missing():
        sys.exit(missing)
    load = os.getloadavg()[0]
    found = measure(options.seconds, options.rounds)
    one, many = CONNECTIONS
    added = found["gateway", one].p50_ms - found["direct", one].p50_ms
    rows = []
    limits = {
        "direct": ("", True),
        "handed over": ("", True),
        "gateway": (
            f"at most {MOST_ADDED_MS:g} ms added, at least {LEAST_RATE:,} requests/s",
            added <= MOST_ADDED_MS and found["gateway", many].rate >= LEAST_RATE,
        ),
    }
    for way, (limit, kept) in limits.items():
        alone, together = found[way, one], found[way, many]
        base = found["direct", many]
        rows.append(
            f"| {way} | {alone.p50_ms:.2f} ms | {alone.p50_ms - found['direct', one].p50_ms:+.2f} ms | {together.p50_ms:.1f} ms"
            f" | {together.rate:,.0f} | {together.rate / base.rate:.2f} | {limit}{'' if kept else ' (missed)'} |"
        )
    table = "\n".join(
        [
            f"| way | p50, {one} connection | beside direct | p50, {many} connections | requests/s | of direct | limit |",
            "|---|---|---|---|---|---|---|",
            *rows,
        ]
    )
    print("\n" + table)
    if not options.check:
        write(table, options, load)
    if not all(kept for _, kept in limits.values()):
        sys.exit("a limit is missed")


def write(table: str, options: argparse.Namespace, load: float) -> None:
    """Write the results file, and the table between the marks in the README."""
    machine = f"{len(os.sched_getaffinity(0))} CPUs, Python {platform.python_version()}, load average {load:.1f} before, niceness {os.nice(0)}"
    how = f"medians of {options.rounds} rounds of {options.seconds:g} s, in turns; wrk with one thread on the same CPUs"
    (HERE / "results.md").write_text(
        f"# What stands between a client and a server\n\nWritten by `make gatewaybench` ({machine}; {how}).\n\n{table}\n",
        encoding="utf-8",
    )
    write_marked(ROOT / "README.md", "gateway", table)


if __name__ == "__main__":
    main()
