"""Measures mlo itself: whole processes, several runs, the median. `make cmdbench` writes benchmarks/results.md and the README's table.

A cold apply is run once; everything else nine times after one warm-up. All figures are for whole processes, as accounted
for by the operating system. Seconds differ between machines; the ratios between two alternating processes hardly do.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from marked import write_marked  # beside this script

ROOT = Path(__file__).resolve().parents[1]
MLO = Path(sys.executable).with_name("mlo")
DIGITS = ROOT / "specs" / "digits" / "digits.yaml"
IMPORTS = "import pydantic, yaml, click"
"""The imports of every command that reads a spec; `import pydantic` alone loads little until a model is defined."""
RUNS = 9
SPECS = 1000


@dataclass(frozen=True)
class Row:
    """One line of the table; seconds and MiB."""

    what: str
    median: float
    slowest: float
    memory: float
    limit: str
    kept: bool

    def __str__(self) -> str:
        """As a line of the table."""
        missed = "" if self.kept else " (missed)"
        return f"| {self.what} | {self.median:.2f} s | {self.slowest:.2f} s | {self.memory:.0f} MiB | {self.limit}{missed} |"


@dataclass(frozen=True)
class Ratio:
    """One line of the table: the time as a multiple of another one in the same run."""

    what: str
    median: float
    largest: float
    limit: float

    @property
    def kept(self) -> bool:
        """Whether it is within the limit."""
        return self.median <= self.limit

    def __str__(self) -> str:
        """As a line of the table."""
        missed = "" if self.kept else " (missed)"
        return f"| {self.what} | {self.median:.2f} times | {self.largest:.2f} times | | {self.limit:g} times{missed} |"


def timed(arguments: list[str], cwd: Path, home: Path) -> tuple[float, float]:
    """Wall seconds and peak resident MiB of one run that must succeed."""
    # With a cache of its own, since the user's may say that another store serves the same name.
    env = {**os.environ, "MLO_HOME": str(home), "XDG_CACHE_HOME": str(home.with_name("cache"))}
    began = time.perf_counter()
    process = subprocess.Popen([MLO, *arguments], cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"mlo {' '.join(arguments)} failed:\n{said.decode()}")
    return seconds, usage.ru_maxrss / 1024


def measure(what: str, arguments: list[str], cwd: Path, home: Path, limit: float, runs: int, memory: float = 0) -> Row:
    """Run it and compare the median with the limit (seconds), and the memory with its limit (MiB) if there is one."""
    if runs > 1:
        timed(arguments, cwd, home)
    samples = [timed(arguments, cwd, home) for _ in range(runs)]
    seconds, peak = [s for s, _ in samples], max(m for _, m in samples)
    median = statistics.median(seconds)
    wanted = f"{limit:g} s" + (f", {memory:g} MiB" if memory else "")
    kept = median <= limit and (not memory or peak <= memory)
    print(f"{what}: {median:.3f} s, {peak:.0f} MiB (limit {wanted}){'' if kept else '  MISSED'}", flush=True)
    return Row(what, median, max(seconds), peak, wanted, kept)


def ratio(arguments: list[str], cwd: Path, home: Path, limit: float) -> Ratio:
    """The time of a command as a multiple of the time for its imports, measured alternately."""
    pairs = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", IMPORTS], check=True)
        imports = time.perf_counter() - began
        pairs.append(timed(arguments, cwd, home)[0] / imports)
    pairs = pairs[1:]  # the first one warms up
    median = statistics.median(pairs)
    what = f"`mlo {arguments[0]}` of one spec, against `{IMPORTS}`"
    print(f"{what}: {median:.2f} times (limit {limit:g}){'' if median <= limit else '  MISSED'}", flush=True)
    return Ratio(what, median, max(pairs), limit)


def thousand_specs(folder: Path) -> list[str]:
    """A thousand specs of the digits model under different names, each with its own service level."""
    text = DIGITS.read_text(encoding="utf-8")
    for name in ("digits.safetensors", "digits.npz", "digits_model.py"):
        shutil.copy(DIGITS.parent / name, folder / name)
    names = []
    for i in range(SPECS):
        path = folder / f"spec-{i:04}.yaml"
        path.write_text(
            text.replace("name: digits", f"name: digits-{i}").replace("p99_latency: 20ms", f"p99_latency: {20 + i}ms"),
            encoding="utf-8",
        )
        names.append(path.name)
    return names


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only fail when a limit is missed; write nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mlo-bench-") as name:
        folder, home = Path(name), Path(name, "home")
        digits = str(DIGITS)
        rows: list[Row | Ratio] = [
            measure("cold `mlo apply` of the digits spec", ["apply", digits, "--yes"], folder, home, 120, 1)
        ]
        rows += [
            measure("`mlo --help`", ["--help"], folder, home, 0.25, RUNS),
            measure("`mlo validate` of one spec", ["validate", digits], folder, home, 0.25, RUNS),
            ratio(["validate", digits], folder, home, 1.8),
            measure("no-op `mlo apply`", ["apply", digits, "--yes"], folder, home, 0.6, RUNS),
        ]
        specs = folder / "specs"
        specs.mkdir()
        names = thousand_specs(specs)
        rows += [
            measure("`mlo validate` of 1,000 specs", ["validate", *names], specs, home, 5, 3),
            measure("`mlo plan` of 1,000 specs", ["plan", *names], specs, home, 15, 3, memory=300),
        ]
        timed(["destroy", "digits", "--yes"], folder, home)
    table = "\n".join(
        [
            "| what | median | slowest | peak memory | limit |",
            "|---|---|---|---|---|",
            *map(str, rows),
        ]
    )
    print("\n" + table)
    if not options.check:
        write(table)
    if not all(r.kept for r in rows):
        sys.exit("a limit is missed")


def write(table: str) -> None:
    """Write the results file, and the table between the marks in the README."""
    machine = f"{len(os.sched_getaffinity(0))} CPUs, Python {platform.python_version()}"
    (ROOT / "benchmarks" / "results.md").write_text(
        f"# mlo's own speed\n\nWritten by `make cmdbench` ({machine}).\n\n{table}\n", encoding="utf-8"
    )
    write_marked(ROOT / "README.md", "bench", table)


if __name__ == "__main__":
    main()
