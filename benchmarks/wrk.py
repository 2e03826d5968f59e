"""Runs `wrk` (Debian's package of that name) with one POST request against a server on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Found", "write_script", "wrk", "wrk_is_missing"]

SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '%s'
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{"p50_us": %%f, "p90_us": %%f, "p99_us": %%f, "requests": %%d, "duration_us": %%d, "failed": %%d}',
    latency:percentile(50), latency:percentile(90), latency:percentile(99),
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Found:
    """What `wrk` found: percentiles of the latency in seconds, and requests per second."""

    p50: float
    p90: float
    p99: float
    rate: float


def wrk_is_missing() -> str | None:
    """What to do where `wrk` is not installed; None where it is."""
    return None if shutil.which("wrk") else "wrk is not installed; on Debian: apt-get install wrk"


def write_script(file: Path, body: str) -> Path:
    """The script that makes `wrk` send this JSON."""
    file.write_text(SCRIPT % body, encoding="utf-8")
    return file


def wrk(script: Path, url: str, connections: int, seconds: int) -> Found:
    """One run in one thread; every request must be answered with 200."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout[done.stdout.rindex("{") :])
    if found["failed"]:
        sys.exit(f"{found['failed']} requests failed:\n{done.stdout}")
    rate = found["requests"] / found["duration_us"] * 1e6
    return Found(*(found[f"{name}_us"] / 1e6 for name in ("p50", "p90", "p99")), rate)
