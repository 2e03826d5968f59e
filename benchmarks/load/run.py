"""Compares the load generator with `wrk` and with known delays; prints the tables, writes results.md and docs/measuring.md.

python benchmarks/load/run.py [--seconds 2] [--rounds 7] [--check]     under four minutes, on a quiet machine

1. Throughput: `wrk` and the generator load the same server (a small model in mlo's own) in turns, in short rounds. The median of
   the rounds' ratios must lie within 5 % of 1.
2. Percentiles: a server that answers after known times is loaded on a schedule. Each percentile must be within 5 % or 0.1 ms of
   the one that follows from the drawn times and the schedule, stalls included; it is the median of three runs. `wrk` has no schedule, and shows why one is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path[:0] = [
    str(ROOT),
    str(HERE),
    str(HERE.parent),
    str(HERE.parent / "server"),
]  # the scripts of these folders are no package

from delay_server import KINDS, STALL_EVERY, STALL_SECONDS, delays  # noqa: E402
from marked import write_marked  # noqa: E402
from models import mlp, write_folder  # noqa: E402
from wrk import Found, write_script, wrk, wrk_is_missing  # noqa: E402

from orchestrator.machine.cpus import cpu_share  # noqa: E402
from orchestrator.measure.generator_limit import generator_limit  # noqa: E402
from orchestrator.measure.load_connections import http_request  # noqa: E402
from orchestrator.measure.load_loops import arrivals  # noqa: E402
from orchestrator.measure.session import MeasuredProcess  # noqa: E402
from orchestrator.measure.statistics import percentile  # noqa: E402

SIZES = (64, 256, 256, 10)
PATH = "/v2/models/m/infer"
CONNECTIONS = (1, 32, 256)
RATE, REQUESTS, SEED, RUNS = 200.0, 2000, 5, 3
QUANTILES = (0.5, 0.9, 0.99)
NEAR, NEAR_MS = 0.05, 0.1
Generator = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Line:
    """One line of a table, and whether it is as near as it must be."""

    text: str
    near: bool

    def __str__(self) -> str:
        """As a line of the table."""
        return f"| {self.text} | {'yes' if self.near else '**no**'} |"


def body() -> str:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, SIZES[0]], "data": [0.5] * SIZES[0]}
    return json.dumps({"inputs": [tensor]})


def address(port: int) -> str:
    return f"http://127.0.0.1:{port}{PATH}"


def saturate(ask: Generator, port: int, connections: int, seconds: float) -> Found:
    reply = ask(do="saturate", port=port, connections=connections, seconds=seconds, answers=0, at_most=60.0)
    return Found(*(percentile(reply["latencies"], q) for q in QUANTILES), reply["answered"] / reply["seconds"])


@contextlib.contextmanager
def serving(command: list[str], log: Path) -> Iterator[None]:
    """A running process whose output goes to a file."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def told(log: Path, pattern: str) -> str:
    """What a process has printed, as soon as it has."""
    for _ in range(1000):
        if found := re.search(pattern, log.read_text(encoding="utf-8"), re.MULTILINE):
            return found[1]
        time.sleep(0.02)
    sys.exit(f"a server did not start:\n{log.read_text(encoding='utf-8')}")


@contextlib.contextmanager
def model_server(folder: Path) -> Iterator[int]:
    """The port of mlo's own server with a small model."""
    folder.mkdir()
    mlp(folder / "model.onnx", SIZES)
    write_folder(folder, [SIZES[0]], [SIZES[-1]], threads=1, max_batch_size=32)
    command = [sys.executable, "-m", "orchestrator.server", "--config", str(folder / "server.json")]
    with serving(command, folder / "log.txt"):
        yield int(told(folder / "log.txt", r'"message":"live".*"address":"[^"]*:(\d+)"'))


@contextlib.contextmanager
def delay_server(folder: Path, kind: str) -> Iterator[int]:
    """The port of a server with known delays."""
    log = folder / "delays.txt"
    with serving([sys.executable, str(HERE / "delay_server.py"), kind, str(SEED)], log):
        yield int(told(log, r"^(\d+)$"))


def throughput(ask: Generator, script: Path, port: int, rounds: int, seconds: int) -> list[Line]:
    saturate(ask, port, 8, 1)
    lines = []
    for connections in CONNECTIONS:
        pairs: list[tuple[Found, Found]] = []
        for number in range(rounds):
            if number % 2:  # neither always comes after the other
                pairs.append(
                    (wrk(script, address(port), connections, seconds), saturate(ask, port, connections, seconds))
                )
            else:
                ours_first = saturate(ask, port, connections, seconds)
                pairs.append((wrk(script, address(port), connections, seconds), ours_first))
        theirs, ours = (statistics.median(pair[place].rate for pair in pairs) for place in (0, 1))
        their_p50, our_p50 = (statistics.median(pair[place].p50 for pair in pairs) * 1e3 for place in (0, 1))
        ratio = statistics.median(pair[1].rate / pair[0].rate for pair in pairs)
        text = f"{connections} | {theirs:,.0f}/s | {ours:,.0f}/s | {ratio:.3f} | {their_p50:.2f} ms | {our_p50:.2f} ms"
        lines.append(Line(text, abs(ratio - 1) <= NEAR))
        print(lines[-1], flush=True)
    return lines


def known(kind: str) -> list[float]:
    """The latencies that follow from the drawn delays and the schedule."""
    drawn = list(itertools.islice(delays(kind, SEED), REQUESTS))
    if kind != "stalls":
        return drawn
    schedule = arrivals(RATE, REQUESTS, SEED)
    latencies = drawn.copy()
    for start in range(STALL_EVERY - 1, REQUESTS, STALL_EVERY):
        ends = schedule[start] + STALL_SECONDS
        for number in range(REQUESTS):
            due, done = schedule[number], schedule[number] + drawn[number]
            if schedule[start] < due < ends and number > start:
                latencies[number] = ends - due + drawn[number]  # it is only read when the stall is over
            elif due <= schedule[start] and done > schedule[start]:
                latencies[number] = max(latencies[number], ends - due)  # its answer had to wait
    return latencies


def percentiles(ask: Generator, folder: Path, script: Path | None, seconds: int) -> list[Line]:
    lines = []
    for kind in KINDS:
        replies = []
        for _ in range(RUNS):
            with delay_server(folder, kind) as port:  # a new one, since the delays are drawn from its start
                replies.append(ask(do="schedule", port=port, rate=RATE, requests=REQUESTS, seed=SEED)["latencies"])
        theirs = None
        if script is not None:
            with delay_server(folder, kind) as port:
                theirs = wrk(script, address(port), 2, 2 * seconds)
        for quantile in QUANTILES:
            wanted = percentile(known(kind), quantile) * 1e3
            found = statistics.median(percentile(latencies, quantile) for latencies in replies) * 1e3
            closed = "" if theirs is None else f"{getattr(theirs, f'p{quantile * 100:g}') * 1e3:.2f} ms"
            near = abs(found - wanted) <= max(NEAR * wanted, NEAR_MS)
            lines.append(
                Line(
                    f"{kind} | p{quantile * 100:g} | {wanted:.2f} ms | {found:.2f} ms | {found - wanted:+.2f} ms | {closed}",
                    near,
                )
            )
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=2, help="of each round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--check", action="store_true", help="only fail where it is not near enough; write nothing")
    options = parser.parse_args()
    missing = wrk_is_missing()
    load, share = os.getloadavg()[0], cpu_share(2)
    with tempfile.TemporaryDirectory(prefix="mlo-bench-") as name:
        folder = Path(name)
        script, request = write_script(folder / "ask.lua", body()), folder / "request"
        request.write_bytes(http_request(PATH, {"Content-Type": "application/json"}, body().encode()))
        with MeasuredProcess("orchestrator.measure.load", share, memory=None, folder=folder / "load") as process:
            process.ask({"do": "open", "wire": "json", "requests": [str(request)], "limit": 256}, 60)
            limit = generator_limit(process, share, folder / "canned", wire="json", connections=32, answer_bytes=200)
            assert limit is not None

            def ask(**command: Any) -> dict[str, Any]:
                return process.ask({"wire": "json", "timeout": 10.0, **command}, 120)

            beside_wrk = []
            if not missing:
                with model_server(folder / "serving") as port:
                    beside_wrk = throughput(ask, script, port, options.rounds, options.seconds)
            beside_known = percentiles(ask, folder, None if missing else script, options.seconds)
    if missing:
        sys.exit(f"nothing was compared with wrk, and nothing written: {missing}")
    own = f"{limit.requests_per_second:,.0f}/s, {limit.cpu_seconds_per_request * 1e6:.0f} µs of CPU time per request"
    machine = f"{len(os.sched_getaffinity(0))} CPUs, Python {platform.python_version()}, load average {load:.1f} before"
    how = (
        f"medians of {options.rounds} rounds of {options.seconds} s in turns, and of {RUNS} runs with each kind of delays; "
        "everything on the same CPUs"
    )
    table = "\n".join(
        [
            f"Written by `make loadbench` ({machine}; {how}). The generator's own limit at 32 connections: {own}.",
            "",
            "| connections | wrk | mlo | ratio | p50, wrk | p50, mlo | within 5 % |",
            "|---|---|---|---|---|---|---|",
            *map(str, beside_wrk),
            "",
            "| delays | percentile | known | mlo, 200/s on a schedule | difference | wrk, 2 connections | within 5 % or 0.1 ms |",
            "|---|---|---|---|---|---|---|",
            *map(str, beside_known),
        ]
    )
    print("\n" + table)
    if not options.check:
        write(table)
    if not all(line.near for line in [*beside_wrk, *beside_known]):
        sys.exit("a limit is missed")


def write(table: str) -> None:
    """The results file, and the tables between the marks in docs/measuring.md."""
    (HERE / "results.md").write_text(f"# The load generator, measured\n\n{table}\n", encoding="utf-8")
    write_marked(ROOT / "docs" / "measuring.md", "load", table)


if __name__ == "__main__":
    main()
