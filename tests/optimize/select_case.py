"""Reports as the benchmarks write them, made of a few numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.artifacts.fates import Fates, StepFate
from orchestrator.artifacts.verdict import Verdict
from orchestrator.measure.statistics import slo_verdict
from orchestrator.spec.signature import Signature
from orchestrator.steps import StepContext
from tests.artifacts.made import imported, verdict

SIGNATURE = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 2]}],
    "dims": {"batch": [1, 64]},
    "batch": "batch",
}
LIMIT = 0.02
RATE = 200.0


def row(variant: str, *, refused: str | None = None) -> dict[str, Any]:
    """A row of the parameter `candidates`."""
    format_name, _, precision = variant.rpartition("-")
    return {
        "variant": variant,
        "format": format_name,
        "precision": precision,
        "backend": "onnxruntime" if format_name == "onnx" else "torchserve",
        "as_given": False,
        "refused": refused,
        "steps": [] if refused else [f"convert.{format_name}", f"verify.{variant}"],
    }


def runtime_row(
    variant: str, *, ratio: float = 0.5, spread: float = 0.1, fate: str = "measured", reason: str = "", rounds: int = 12
) -> dict[str, Any]:
    """Of the runtime benchmark: `ratio` of the baseline's time, give or take `spread`."""
    low, high = (ratio - spread, ratio + spread) if rounds >= 6 else (0.0, None)
    against = {"ratio": ratio, "low": low, "high": high, "rounds": rounds}
    latency = 0.004 * ratio
    batch = {"rows": 1, "samples": 500, "p50": latency, "p99": latency * 1.5, "rows_per_second": 1 / latency}
    return {
        **row(variant),
        "fate": fate,
        "reason": reason,
        "batches": [batch] if fate in {"measured", "dominated"} else [],
        "against_baseline": {"latency": {"rows": 1, **against}, "throughput": {"rows": 1, **against}},
    }


def server_row(
    variant: str,
    *,
    p99: float = 0.008,
    over: int = 0,
    samples: int = 1400,
    rows_per_second: float = 1000.0,
    cpu: float = 0.001,
    peak: int = 100 * 2**20,
    ready: float = 1.0,
    limit: float | None = LIMIT,
    wanted: float | None = RATE,
    spread: float = 0.02,
    refused: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Of the server benchmark; its verdict follows from `over` of `samples`, `spread` is that of every number."""
    found = slo_verdict([1.0] * over + [0.0] * (samples - over), 0.5)
    return {
        **row(variant),
        "fate": "measured",
        "reason": "",
        "max_batch_size": 8,
        "max_delay": 0.0,
        "ready_seconds": ready,
        "peak_rss": peak,
        "refused": refused or {},
        "open_loop": {
            "rate": RATE,
            "samples": samples,
            "p50": p99 / 2,
            "p99": p99,
            "p99_interval": [p99 * (1 - spread), p99 * (1 + spread)],
        },
        "saturation": {
            "rows_per_second": rows_per_second,
            "by_segment": [rows_per_second * (1 - spread), rows_per_second * (1 + spread)],
            "cpu_seconds_per_request": cpu,
            "cpu_by_segment": [cpu * (1 - spread), cpu * (1 + spread)],
        },
        "slo": {
            "p99": None if limit is None else {**found.as_json(), "limit": limit},
            "throughput": None
            if wanted is None
            else {"wanted": wanted, "reached": rows_per_second, "met": rows_per_second >= wanted},
        },
    }


def out(variant: str, fate: str, reason: str) -> dict[str, Any]:
    """Of either benchmark: not measured there."""
    return {**row(variant), "fate": fate, "reason": reason, "batches": []}


def write(folder: Path, name: str, document: Any) -> Path:
    """A JSON file in a folder of its own; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(document), encoding="utf-8")
    return folder


def context(
    folder: Path,
    candidates: Sequence[Mapping[str, Any]],
    runtime: Sequence[Mapping[str, Any]],
    server: Sequence[Mapping[str, Any]] | None,
    *,
    fates: Mapping[str, StepFate] | None = None,
    verdicts: Mapping[str, Verdict] | None = None,
    objective: str = "latency",
    enforce: bool = True,
    samples: str = "real",
) -> StepContext:
    """The context that the engine would give the step `select`."""
    measured_on = {"cpus": 2, "cpus_wanted": 2.0, "threads": 2, "how": "measured with 2 CPUs"}
    baseline = {**out("baseline", "measured", ""), "batches": [{"rows": 1, "p50": 0.004, "rows_per_second": 250.0}]}
    inputs = {
        "import": folder / "import",
        "runtime": write(
            folder / "runtime",
            "report.json",
            {"candidates": runtime, "baseline": baseline, "samples": samples, "measured_on": measured_on},
        ),
        "fates": folder / Fates.FILE,
    }
    Fates(steps=fates or {}).write(folder)
    inputs["import"].mkdir()
    imported(Signature.from_json(SIGNATURE)).write(inputs["import"])
    if server is not None:
        shared = {**measured_on, "load_generator": "the load generator shared the server's CPUs"}
        report = {"candidates": server, "rate": RATE, "measured_on": shared}
        inputs["server"] = write(folder / "server", "report.json", report)
    for one in candidates:
        name = one["variant"]
        inputs[f"variant:{name}"] = write(folder / "variants" / name, "model.onnx", name)
        inputs[f"verdict:{name}"] = folder / "verdicts" / name
        inputs[f"verdict:{name}"].mkdir(parents=True)
        (verdicts or {}).get(name, verdict(name)).write(inputs[f"verdict:{name}"])
    for name in ("output", "scratch"):
        (folder / name).mkdir()
    params = {
        "candidates": list(candidates),
        "slo": {"p99_latency": LIMIT, "throughput": RATE, "enforce": enforce},
        "objective": objective,
        "signature": SIGNATURE,
        "cpus": 2.0,
        "runtime_level": ["tensorflow-serving"],
        "source": "pytorch",
    }
    return StepContext(params, inputs, folder / "output", folder / "scratch", folder)
