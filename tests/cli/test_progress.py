"""Progress: how many of all steps have ended, the time left as far as it is known, and no word is divided."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from orchestrator.cli import live_view, progress
from orchestrator.cli.columns import table_lines, wrapped
from orchestrator.events import Event, Queued, StepEnded, StepProgress, StepsPlanned, StepStarted
from orchestrator.store.turns import in_turn

if TYPE_CHECKING:
    from conftest import Mlo

PLANNED = StepsPlanned(frozenset({"import", "convert.onnx", "benchmark.runtime"}), frozenset({"deploy", "check"}))


def said(events: list[Event], capsys: pytest.CaptureFixture[str], *, deploys: bool) -> list[str]:
    with progress.watch(show_cached=True, deploys=deploys) as observer:
        for event in events:
            observer(event)
    return capsys.readouterr().err.splitlines()


def test_every_step_that_ends_says_how_many_of_all_have(capsys: pytest.CaptureFixture[str]) -> None:
    grown = StepsPlanned(PLANNED.steps | {"verify.onnx"}, PLANNED.live)
    events: list[Event] = [
        PLANNED,
        StepEnded("import", "cached", 0.0, ""),
        grown,
        StepEnded("convert.onnx", "failed", 2.0, "no such operator"),
        StepEnded("deploy", "done", 1.0, ""),
        StepEnded("switch", "done", 0.0, "a remark"),  # no step of the plan
    ]
    assert said(events, capsys, deploys=True) == [
        "import: cached (1 of 5 steps)",
        "convert.onnx: failed in 2.0 s (2 of 6 steps): no such operator",
        "deploy: done in 1.0 s (3 of 6 steps)",
        "switch: done (3 of 6 steps): a remark",
    ]


def test_a_rendering_does_not_count_the_steps_of_a_deployment(capsys: pytest.CaptureFixture[str]) -> None:
    assert said([PLANNED, StepEnded("import", "done", 1.0, "")], capsys, deploys=False) == [
        "import: done in 1.0 s (1 of 3 steps)"
    ]


@pytest.mark.parametrize(
    ("seconds", "usual", "text"),
    [
        (12, None, "12 s"),  # 4 % were done after 12 s: that was shown as 288 s left, and later as more
        (12, 300.0, "12 s, about 288 s left"),
        (310, 300.0, "310 s; the last time it took 300 s"),
        (6, 0.3, "6 s"),
    ],
)
def test_the_time_left_is_known_from_the_last_time_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float, usual: float | None, text: str
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with progress.watch(show_cached=True) as observer:
        observer(StepStarted("benchmark.runtime", "never run", usual))
        now[0] += seconds
        observer(StepProgress("benchmark.runtime", "round 1 of 25", 0.04))
    assert capsys.readouterr().err.splitlines()[-1] == f"benchmark.runtime: round 1 of 25 (4%, {text})"


def test_what_was_not_started_as_a_step_has_no_time(capsys: pytest.CaptureFixture[str]) -> None:
    """As the server that a rollback starts."""
    event = StepProgress("deploy", "starting onnxruntime for revision 2", None)
    assert said([event], capsys, deploys=False) == ["deploy: starting onnxruntime for revision 2"]


@pytest.mark.parametrize(
    ("place", "measurement", "line"),
    [
        (2, True, "waits for another measurement: 2nd in the queue; now: process 7 (x)"),
        (11, True, "waits for another measurement: 11th in the queue; now: process 7 (x)"),
        (23, True, "waits for another measurement: 23rd in the queue; now: process 7 (x)"),
        (1, False, "waits for steps of other runs, because it measures: 1st in the queue"),
    ],
)
def test_a_step_in_the_queue_says_its_place(
    capsys: pytest.CaptureFixture[str], place: int, measurement: bool, line: str
) -> None:
    assert said([Queued("b", place, measurement, "process 7 (x)" if measurement else "")], capsys, deploys=False) == [
        f"b: {line}"
    ]


WORDS = {"measuring", "onnx-int8:percentile=99.9", "in", "interleaved", "rounds", "against", "the", "original", "model"}


@pytest.mark.parametrize("columns", [60, 100])
@pytest.mark.parametrize("step", ["import", "verify.onnx-int8:percentile=99.9@openvino+threads=1"])
def test_the_live_view_divides_no_word(columns: int, step: str) -> None:
    out = io.StringIO()
    message = "measuring onnx-int8:percentile=99.9 in interleaved rounds against the original model"
    running = {step: live_view._Running(time.monotonic(), 300.0, message, 0.4)}
    Console(file=out, width=columns).print(live_view._draw(running, "3 of 14 steps", 65.0, columns))
    words = out.getvalue().split()
    assert set(words) >= {step, *WORDS}
    assert all(len(line) <= columns for line in out.getvalue().splitlines())
    assert out.getvalue().splitlines()[-1].strip() == "3 of 14 steps, 65 s"


def test_long_lines_are_wrapped_at_words_and_paths_stay_whole() -> None:
    path = "/a/very/long/path/that/does/not/fit/into/the/columns/of/the/terminal/decision.json"
    text = f"  decision: {path} was written beside the artifacts of this revision\nshort"
    lines = wrapped(text, 60).split("\n")
    assert [word for line in lines for word in line.split()] == text.split()
    assert all(len(line) <= 60 or path in line for line in lines)
    assert lines[0] == "  decision:"
    assert all(line.startswith("      ") for line in lines[1:-1])


ROWS = [
    ("status", "step", "reason"),
    ("run", "convert.onnx", "its parameters changed: opset 17 instead of 16, and more"),
]


def test_a_table_that_is_too_wide_wraps_its_longest_texts() -> None:
    assert table_lines(ROWS, right=frozenset(), width=50) == [
        "status  step          reason",
        "run     convert.onnx  its parameters changed:",
        "                      opset 17 instead of 16, and",
        "                      more",
    ]
    assert len(table_lines(ROWS, right=frozenset(), width=None)) == 2


def test_a_table_of_many_numbers_becomes_a_block_for_each_row() -> None:
    header = ("candidate", "backend", *(f"number {n}" for n in range(6)))
    rows = [header, ("onnx-fp32", "onnxruntime", *("123.45 ms" for _ in range(6)))]
    lines = table_lines(rows, right=frozenset(range(2, 8)), width=60)
    assert lines[:4] == ["candidate", "onnx-fp32", "  backend   onnxruntime", "  number 0  123.45 ms"]


def test_a_block_has_cells_without_a_heading_in_its_first_line() -> None:
    rows = [("revision", "", "backend", "commit"), ("7", "serves", "openvino", "5850347dd266 (spec modified)")]
    lines = table_lines(rows, right=frozenset({0}), width=24)
    assert lines[:3] == ["revision", "7  serves", "  backend  openvino"]


@pytest.mark.processes
def test_at_60_columns_a_terminal_gets_whole_words(project: Path) -> None:
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "orchestrator.cli", "plan", "digits.yaml"],
        cwd=project,
        env={**os.environ, "MLO_HOME": str(project / "home"), "COLUMNS": "60", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    text = b""
    try:
        while piece := os.read(parent, 65536):
            text += piece
    except OSError:  # how a pseudo-terminal says that the other end is closed
        pass
    os.close(parent)
    assert process.wait(120) == 0, text.decode()
    lines = text.decode().splitlines()
    assert any("known after run" in line for line in lines)
    assert [line for line in lines if len(line) > 60 and " " in line.strip()] == []


@pytest.mark.frameworks
@pytest.mark.processes
def test_planning_and_drafting_do_not_wait_for_a_measurement(mlo: Mlo, project: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    for name in ("tumours.onnx", "tumours.onnx.data", "tumours.yaml", "samples.npz"):
        (project / name).write_bytes((root / "specs" / "onnx" / name).read_bytes())
    cache = Path(f"{project}-cache") / "mlo"
    cache.mkdir(parents=True)
    measuring = in_turn(
        cache / "measuring.lock",
        shared=False,
        info={"what": "benchmark.server"},
        on_wait=lambda place: pytest.fail(f"{place}"),
        given_up=lambda: False,
    )
    with measuring:
        assert "Plan: " in mlo("plan", "tumours.yaml").stdout
        drafted = mlo("init", "tumours.onnx", "--name", "drafted")
    assert "drafted.yaml" in drafted.stdout
    assert "waits" not in drafted.stderr
