"""What a decision holds for people and for the deployment: the chart, the notes, the winner."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from orchestrator.artifacts.decision import Decision
from orchestrator.cli.decision_text import candidate_text, decision_text
from orchestrator.select.chart import chart
from orchestrator.select.step import select, startup_bound
from orchestrator.store.digest import digest_tree
from tests.artifacts.made import facts, imported
from tests.optimize.select_case import (
    FP32,
    INT8,
    SCRIPT,
    candidate,
    context,
    decide,
    runtime_candidate,
    server_candidate,
)


@pytest.mark.parametrize(
    ("p99", "rows"), [(0.0, 1000.0), (0.008, 0.0), (0.0, 0.0), (math.inf, 1000.0), (5e-324, 5e-324)]
)
def test_a_chart_is_drawn_of_every_number(tmp_path: Path, p99: float, rows: float) -> None:
    made = context(tmp_path, [candidate(FP32)], [runtime_candidate(FP32)], [server_candidate(FP32)])
    select(made)
    decision = Decision.read(made.output)
    server = decision.candidates[0].server
    assert server is not None
    assert server.on_schedule is not None
    assert server.saturated is not None
    odd = server.model_copy(
        update={
            "open_loop": server.on_schedule.model_copy(update={"p99": p99}),
            "saturation": server.saturated.model_copy(update={"at_least": rows}),
        }
    )
    without_limit = decision.slo.model_copy(update={"p99_latency": None})
    row = decision.candidates[0].model_copy(update={"server": odd})
    svg = chart(decision.model_copy(update={"candidates": (row,), "slo": without_limit}))
    assert "nan" not in svg
    ET.fromstring(svg)


def test_a_chart_that_cannot_be_drawn_is_a_note_and_not_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Decision) -> str:
        raise ZeroDivisionError("nothing to scale by")

    monkeypatch.setattr("orchestrator.select.step.chart", fails)
    made = context(tmp_path, [candidate(FP32)], [runtime_candidate(FP32)], [server_candidate(FP32)])
    assert select(made)["winner"] == FP32
    note = "there is no chart.svg, because it could not be drawn: ZeroDivisionError: nothing to scale by"
    assert note in Decision.read(made.output).notes
    assert not (made.output / "chart.svg").exists()


def test_the_winner_has_everything_that_is_deployed_and_nothing_that_noise_changes(tmp_path: Path) -> None:
    made = context(
        tmp_path / "a", [candidate(FP32)], [runtime_candidate(FP32)], [server_candidate(FP32, p99=0.008, ready=1.0)]
    )
    again = context(
        tmp_path / "b", [candidate(FP32)], [runtime_candidate(FP32)], [server_candidate(FP32, p99=0.0081, ready=1.2)]
    )
    select(made)
    select(again)
    winner = json.loads((made.output / "winner.json").read_bytes())
    assert (made.output / "winner.json").read_bytes() == (again.output / "winner.json").read_bytes()
    assert (winner["max_batch_size"], winner["max_delay"], winner["startup_seconds"]) == (8, 0.0, 60)
    assert winner["model_digest"] == digest_tree(made.inputs["variant:onnx-fp32"]).digest
    assert winner["signature"]["batch"] == "batch"
    assert "numpy" in winner["tools"]


@pytest.mark.parametrize(("ready", "bound"), [(0.1, 60), (20, 60), (20.1, 120), (40, 120), (41, 240)])
def test_startup_bounds_are_coarse(ready: float, bound: int) -> None:
    assert startup_bound(ready, 60) == bound


@pytest.mark.parametrize(("variant", "bound"), [(FP32, 60), (SCRIPT, 120)])
def test_a_fast_start_leaves_time_for_a_slow_one(tmp_path: Path, variant: str, bound: int) -> None:
    made = context(tmp_path, [candidate(variant)], [runtime_candidate(variant)], [server_candidate(variant, ready=0.3)])
    select(made)
    assert json.loads((made.output / "winner.json").read_bytes())["startup_seconds"] == bound


def test_random_samples_and_shared_cpus_are_noted(tmp_path: Path) -> None:
    decision = decide(
        context(tmp_path, [candidate(FP32)], [runtime_candidate(FP32)], [server_candidate(FP32)], samples="random")
    )
    assert any("random inputs only" in note for note in decision["notes"])
    assert any("shared the server's CPUs" in note for note in decision["notes"])
    assert decision["samples"] == "random"


def test_the_steps_notes_on_a_variant_are_in_the_decision(tmp_path: Path) -> None:
    made = context(tmp_path, [candidate(INT8)], [runtime_candidate(INT8)], [server_candidate(INT8)])
    note = "int8 was calibrated on 3 of 5 samples and verified on only 2 others"
    facts("onnx", "int8", notes=(note,)).write(made.inputs[f"variant:{INT8}"])
    assert f"onnx-int8: {note}" in decide(made)["notes"]


def test_what_was_measured_in_too_few_rounds_is_said_without_an_interval(tmp_path: Path) -> None:
    one = runtime_candidate(FP32, rounds=4, given=True)
    notes = decide(context(tmp_path, [candidate(FP32)], [one], [server_candidate(FP32)]))["notes"]
    assert (
        "measured in too few rounds to compare the latency with the baseline's, which takes 6: onnx-fp32 (4); "
        "raise `optimize.time_budget`, or set fewer `benchmark.batch_sizes`"
    ) in notes
    assert not [note for note in notes if " inf" in note or "0.00" in note]


def test_noisy_measurements_are_noted(tmp_path: Path) -> None:
    def decided(folder: str, low: float, *, settled: bool) -> list[str]:
        one = runtime_candidate(FP32, ratio=0.3, spread=0.3 - low, settled=settled)
        wire = server_candidate(FP32, settled=settled)
        notes: list[str] = decide(context(tmp_path / folder, [candidate(FP32)], [one], [wire]))["notes"]
        return [note for note in notes if "noisy" in note or "settled" in note]

    assert decided("a", 0.2, settled=True) == []
    assert decided("b", 0.1, settled=False) == [
        "noisy: the ratio of the latency to the baseline's is uncertain for onnx-fp32 (0.10 to 0.50 times)",
        "warm-up had not settled for the server of onnx-fp32; onnx-fp32 at batch 1",
    ]


def test_the_chart_shows_each_candidate_the_baseline_and_the_limit(tmp_path: Path) -> None:
    names = [FP32, INT8, SCRIPT]
    made = context(
        tmp_path,
        [candidate(n) for n in names],
        [runtime_candidate(n) for n in names],
        [server_candidate(n) for n in names],
    )
    decide(made)
    svg = ET.fromstring((made.output / "chart.svg").read_text(encoding="utf-8"))
    texts = [element.text or "" for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    for expected in (*names, "baseline", "SLO 20 ms", "onnx-int8 (onnxruntime)"):
        assert any(text.startswith(expected) for text in texts), expected
    labels = [e for e in svg.iter("{http://www.w3.org/2000/svg}text") if (e.text or "").startswith(("onnx", "torch"))]
    places = [(e.get("x"), e.get("y")) for e in labels[:3]]
    assert len(set(places)) == 3, "labels of equal points lie beside each other, not on each other"


def test_the_decision_says_why_requests_are_answered_one_by_one(tmp_path: Path) -> None:
    made = context(tmp_path, [candidate(FP32)], [runtime_candidate(FP32)], [server_candidate(FP32)])
    assert decide(made)["one_by_one"] is None
    read = Decision.read(made.output)
    assert "one by one" not in decision_text(read) + candidate_text(read.candidates[0], read)

    imported(one_by_one="the spec says `batch: none`").write(made.inputs["import"])
    assert decide(made)["one_by_one"] == "the spec says `batch: none`"
    read = Decision.read(made.output)
    for text in (decision_text(read), candidate_text(read.candidates[0], read)):
        assert "requests are answered one by one: the spec says `batch: none`." in text
