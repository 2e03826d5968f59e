"""Whose servers are started, and who takes the place of one that failed."""

from __future__ import annotations

import pytest

from orchestrator.artifacts.server_report import ServerFate
from orchestrator.measure.finalists import finalists, substitutes
from tests.optimize.select_case import runtime_candidate

CANDIDATES = [
    runtime_candidate("onnx-fp32", ratio=0.50, spread=0.01),
    runtime_candidate("onnx-int8", ratio=0.30, spread=0.01),
    runtime_candidate("onnx-bf16", ratio=0.70, spread=0.01),
    runtime_candidate("onnx-slow", ratio=1.50, spread=0.01),
    runtime_candidate("torchscript-fp32", ratio=0.80, spread=0.01),
    runtime_candidate("torchscript-bf16", ratio=0.85, spread=0.01),
]


def test_the_best_of_each_backend_and_a_close_second_are_started() -> None:
    chosen, passed_over = finalists(CANDIDATES, "latency")
    assert chosen == ["onnx-int8", "torchscript-fp32", "torchscript-bf16"]
    assert "1.67 times as long as onnx-int8" in passed_over["onnx-fp32"]
    assert "its latency is 1.50 times the baseline's" in passed_over["onnx-slow"]


def test_undecided_candidates_are_not_started_and_not_called_slow() -> None:
    chosen, passed_over = finalists([runtime_candidate("onnx-fp32", ratio=0.3, rounds=5)], "latency")
    assert chosen == []
    assert passed_over["onnx-fp32"].startswith("only measured for 5 rounds; comparing it with the baseline takes 6")


@pytest.mark.parametrize(
    ("tried", "next_ones"),
    [
        ({"onnx-int8": "measured"}, []),
        ({"onnx-int8": "failed"}, ["onnx-fp32"]),
        ({"onnx-int8": "failed", "onnx-fp32": "out of memory"}, ["onnx-bf16"]),
        ({"onnx-int8": "failed", "onnx-fp32": "failed", "onnx-bf16": "failed"}, []),
        ({"torchscript-fp32": "failed", "torchscript-bf16": "measured"}, []),
        ({"torchscript-fp32": "no server"}, []),
    ],
)
def test_the_next_candidate_of_the_same_backend_replaces_a_failed_one(
    tried: dict[str, ServerFate], next_ones: list[str]
) -> None:
    assert substitutes(CANDIDATES, "latency", tried) == next_ones


def test_beside_a_winner_with_options_of_the_runtime_the_best_with_the_usual_ones_is_started() -> None:
    tuned = ["onnx-int8+instances=2", "onnx-int8+threads=1"]
    candidates = [
        *CANDIDATES[:2],
        runtime_candidate(tuned[0], ratio=0.10, spread=0.01),
        runtime_candidate(tuned[1], ratio=0.11, spread=0.01),
    ]
    assert finalists(candidates, "latency", tuned)[0] == [*tuned, "onnx-int8"]
    assert finalists(candidates, "latency")[0] == tuned
    assert finalists(CANDIDATES, "latency", tuned) == finalists(CANDIDATES, "latency")
