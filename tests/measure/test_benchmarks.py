"""Both benchmark steps on real models: PyTorch as the baseline, ONNX Runtime, and the real server over the wire."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from orchestrator.artifacts.document import Document
from orchestrator.artifacts.runtime_report import RuntimeReport
from orchestrator.artifacts.server_report import ServerReport
from orchestrator.measure import runtime_benchmark, server_benchmark
from orchestrator.measure.statistics import percentile
from orchestrator.steps.context import StepContext, StepError
from orchestrator.steps.runtime_options import Batching, RuntimeOptions
from tests.measure.real_case import (
    DIGITS,
    candidate,
    step_context,
    write_import,
    write_linear_model,
    write_verdict,
)

pytestmark = [pytest.mark.frameworks, pytest.mark.e2e]


def _report(context: StepContext, document: type[Document] = RuntimeReport) -> dict[str, Any]:
    """As plain JSON, as a reader of the file sees it."""
    return document.read(context.output).as_json()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> StepContext:
    """The runtime benchmark's context, after it ran."""
    folder = tmp_path_factory.mktemp("runtime")
    inputs = {
        "import": write_import(folder / "import"),
        "weights": DIGITS / "digits.safetensors",
        "variant:onnx-fp32": write_linear_model(folder / "fp32"),
        "verdict:onnx-fp32": write_verdict(folder / "fp32-verdict", passed=True),
        "variant:onnx-int8": write_linear_model(folder / "int8"),
        "verdict:onnx-int8": write_verdict(folder / "int8-verdict", passed=False),
        "variant:onnx-bf16": folder / "bf16",
        "verdict:onnx-bf16": write_verdict(folder / "bf16-verdict", passed=True),
    }
    (folder / "bf16").mkdir()
    (folder / "bf16" / "model.onnx").write_bytes(b"not a model")
    candidates = [candidate(f"onnx-{name}") for name in ("fp32", "int8", "bf16")]
    context = step_context(folder / "step", inputs, [*candidates, candidate("torchscript-fp32", "torchserve")])
    runtime_benchmark.benchmark(context)
    return context


def test_every_candidate_has_a_fate_and_the_failures_their_reason(measured: StepContext) -> None:
    report = _report(measured)
    fates = {row["variant"]: (row["fate"], row["reason"]) for row in report["candidates"]}
    assert fates["onnx-fp32"] == ("measured", "")
    assert fates["onnx-int8"] == ("not measured", "not measured: it failed verification")
    assert fates["torchscript-fp32"] == ("not measured", "not measured: its conversion failed")
    assert fates["onnx-bf16"][0] == "failed"
    assert "ONNX Runtime does not load the model" in fates["onnx-bf16"][1]
    assert report["baseline"]["fate"] == "measured"
    assert report["baseline"]["measured"]["runtime"]["runtime"] == "pytorch"


@pytest.mark.alone
def test_the_report_follows_from_the_raw_samples(measured: StepContext) -> None:
    report = _report(measured)
    artifact_bytes, row = report["candidates"][0]["artifact_bytes"], report["candidates"][0]["measured"]
    with np.load(measured.output / "raw.npz") as raw:
        for batch in row["batches"]:
            times = raw[f"onnx-fp32.b{batch['rows']}.seconds"].tolist()
            assert batch["samples"] == len(times)
            assert batch["p99"] == percentile(times, 0.99)
            assert batch["rows_per_second"] == pytest.approx(batch["rows"] * len(times) / sum(times))
            assert set(raw[f"onnx-fp32.b{batch['rows']}.round"]) == set(range(batch["rounds"]))
    assert row["load_seconds"] > 0
    assert row["first_inference_seconds"] == row["batches"][0]["without_warm_up"]["first"]
    assert row["peak_rss"] > 10 * 2**20
    assert 2560 <= artifact_bytes < 10_000
    assert row["against_baseline"]["latency"]["high"] < 1  # one small product against a convolutional network


def test_a_model_whose_range_holds_no_batch_size_is_refused(measured: StepContext, tmp_path: Path) -> None:
    context = step_context(tmp_path / "step", measured.inputs, [], batch_sizes=[128])
    with pytest.raises(StepError, match="no batch size can be measured") as caught:
        runtime_benchmark.benchmark(context)
    assert caught.value.at == ("benchmark", "batch_sizes")


@pytest.mark.alone
def test_a_finalist_is_measured_in_its_real_server(measured: StepContext, tmp_path: Path) -> None:
    inputs = {**measured.inputs, "runtime": measured.output}
    context = step_context(tmp_path / "step", inputs, measured.params["candidates"])
    server_benchmark.benchmark(context)
    report = _report(context, ServerReport)
    row, refused, *_ = report["candidates"]
    assert row["fate"] == "measured", row["reason"]
    assert report["rate"] == 200.0
    row = row["measured"]
    assert row["open_loop"]["samples"] >= 459
    assert row["slo"]["p99"]["status"] in {"met", "missed", "inconclusive"}
    assert row["slo"]["p99"]["samples"] == row["open_loop"]["samples"]
    assert row["open_loop"]["p50"] < 0.25
    assert row["saturation"]["at_least"] > 200
    found = {each["wire"]: each for each in row["wires"]}
    assert set(found) == {"json", "binary"}
    assert row["wire"] in found
    for each in found.values():
        assert 0 <= each["call"] - each["model"] < 0.25
        assert each["request_bytes"] > 0 < each["answer_bytes"]
        assert each["rows_per_second"] is None if each["wire"] == row["wire"] else each["rows_per_second"] > 200
    assert row["saturation"]["cpu_seconds_per_request"] > 0
    assert 0 < row["first_request_seconds"] < row["ready_seconds"] < 60
    assert row["settings"]["max_batch_size"] in {1, 8}
    assert row["peak_rss"] > 10 * 2**20
    assert refused["fate"] == "not a finalist"
    assert "failed verification" in refused["reason"]
    with np.load(context.output / "raw.npz") as raw:
        assert len(raw["onnx-fp32.open.seconds"]) == row["open_loop"]["samples"]
    assert not psutil.Process().children(recursive=True), "a process outlives its measurement"
    log = (context.scratch / "onnx-fp32" / "log.txt").read_text(encoding="utf-8")
    (draining,) = (line for line in map(json.loads, log.splitlines()) if line["message"] == "draining")
    assert draining["seconds"] == 0, "nobody else asks it, so nobody has to notice that it stops"


@pytest.mark.alone
def test_a_finalist_is_measured_over_tls(measured: StepContext, tmp_path: Path) -> None:
    inputs = {**measured.inputs, "runtime": measured.output}
    context = step_context(tmp_path / "step", inputs, measured.params["candidates"], tls=True)
    server_benchmark.benchmark(context)
    row, *_ = _report(context, ServerReport)["candidates"]
    assert row["fate"] == "measured", row["reason"]
    assert row["measured"]["saturation"]["at_least"] > 50
    assert row["measured"]["open_loop"]["samples"] >= 459
    key = (context.scratch / "tls.key").read_text()
    assert not [path for path in context.output.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]


def test_the_next_best_is_started_in_place_of_a_server_that_fails(measured: StepContext, tmp_path: Path) -> None:
    report = RuntimeReport.read(measured.output)
    sound = report.candidates[0]
    assert sound.measured is not None
    batches = tuple(batch.model_copy(update={"p50": batch.p50 / 4}) for batch in sound.measured.batches)
    faster = sound.measured.model_copy(update={"batches": batches})
    best = sound.model_copy(update={"candidate": "onnx-int8", "variant": "onnx-int8", "measured": faster})
    for name in ("runtime", "broken"):
        (tmp_path / name).mkdir()
    report.model_copy(update={"candidates": (sound, best)}).write(tmp_path / "runtime")
    (tmp_path / "broken" / "model.onnx").write_bytes(b"no model")
    inputs = {**measured.inputs, "runtime": tmp_path / "runtime", "variant:onnx-int8": tmp_path / "broken"}
    context = step_context(tmp_path / "step", inputs, [candidate("onnx-fp32"), candidate("onnx-int8")])
    server_benchmark.benchmark(context)
    found = {row["variant"]: row for row in _report(context, ServerReport)["candidates"]}
    assert found["onnx-int8"]["fate"] == "failed"
    assert found["onnx-fp32"]["fate"] == "measured", found["onnx-fp32"]["reason"]


def test_a_server_that_was_not_there_when_this_was_planned_is_not_measured(
    measured: StepContext, tmp_path: Path
) -> None:
    inputs = {**measured.inputs, "runtime": measured.output}
    candidates = measured.params["candidates"][:1]
    server_benchmark.benchmark(
        context := step_context(tmp_path / "step", inputs, candidates, servers={"onnxruntime": False})
    )
    (row,) = _report(context, ServerReport)["candidates"]
    assert (row["fate"], row["reason"]) == (
        "no server",
        "onnxruntime could not be started here when the plan was made; run mlo again",
    )


def test_a_server_above_its_memory_is_out_of_memory(measured: StepContext, tmp_path: Path) -> None:
    inputs = {**measured.inputs, "runtime": measured.output}
    context = step_context(tmp_path / "step", inputs, measured.params["candidates"][:1], memory=40 * 2**20)
    server_benchmark.benchmark(context)
    (row,) = _report(context, ServerReport)["candidates"]
    assert row["fate"] == "out of memory"
    assert row["reason"].startswith("its server needs at least ")
    assert row["reason"].endswith(" MiB: `hardware.memory` is 40Mi")
    assert row["error"]["code"] == "E403"
    assert "hardware.memory" in row["error"]["remedy"]


def test_one_variant_competes_on_two_backends_and_with_other_options(tmp_path: Path) -> None:
    """Each candidate is measured by itself, in its runtime and in its server, under its own name."""
    usual = candidate("onnx-fp32")
    others = [
        {
            **usual,
            "candidate": "onnx-fp32@openvino+batching=2:0.001",
            "backend": "openvino",
            "options": asdict(RuntimeOptions(batching=Batching(2, 0.001))),
        },
        {**usual, "candidate": "onnx-fp32+instances=2", "options": asdict(RuntimeOptions(instances=2))},
    ]
    names = [usual["candidate"], *(each["candidate"] for each in others)]
    inputs = {
        "import": write_import(tmp_path / "import"),
        "weights": DIGITS / "digits.safetensors",
        "variant:onnx-fp32": write_linear_model(tmp_path / "fp32"),
        **{
            f"verdict:{name}": write_verdict(tmp_path / f"verdict-{number}", passed=True)
            for number, name in enumerate(names)
        },
    }
    context = step_context(tmp_path / "runtime", inputs, [usual, *others])
    runtime_benchmark.benchmark(context)
    rows = {row["candidate"]: row for row in _report(context)["candidates"]}
    assert list(rows) == names
    ran = {name: row["measured"]["runtime"] for name, row in rows.items()}
    assert ran[names[1]]["runtime"] == "openvino"
    assert (ran[names[0]]["threads"], ran[names[2]]["threads"]) == (2, 1)

    served = step_context(tmp_path / "server", {**inputs, "runtime": context.output}, [usual, *others])
    server_benchmark.benchmark(served)
    rows = {row["candidate"]: row for row in _report(served, ServerReport)["candidates"]}
    fates = {name: row["fate"] for name, row in rows.items()}
    assert list(fates) == names
    assert fates[names[1]] == "measured"
    settings = rows[names[1]]["settings"]
    assert (settings["max_batch_size"], settings["max_delay"]) == (2, 0.001)
    assert "measured" in {fates[names[0]], fates[names[2]]}
