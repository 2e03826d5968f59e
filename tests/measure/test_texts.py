"""Models that take and return texts are verified and measured like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from orchestrator.frameworks.source.measure_session import MeasuredRuntime
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepContext
from orchestrator.steps.parameters import CandidateParameters, VerifyParameters
from orchestrator.verify.step import verify
from tests.artifacts.made import imported as imported_model

pytestmark = pytest.mark.frameworks

SIGNATURE = Signature(
    (Tensor("word", "string", ("batch",)),),
    (Tensor("meaning", "string", ("batch",)), Tensor("number", "int64", ("batch",))),
    {"batch": (1, 8)},
    "batch",
)
MEANINGS = {"ja": "yes", "nein": "no", "": "nothing", "ö": "oe"}
WORDS = np.array([*MEANINGS, "unknown", "ja", "nein"])


def _answers(words: Any, changed: str = "") -> dict[str, Any]:
    meanings = {**MEANINGS, changed: "changed"} if changed else MEANINGS
    numbers = {word: number for number, word in enumerate(MEANINGS)}
    return {
        "meaning": np.array([meanings.get(word, "?") for word in words.tolist()]),
        "number": np.array([numbers.get(word, -1) for word in words.tolist()]),
    }


def _variant(folder: Path) -> Path:
    folder.mkdir()
    keys, values = list(MEANINGS), list(MEANINGS.values())
    nodes = [
        helper.make_node("LabelEncoder", ["word"], ["meaning"], domain="ai.onnx.ml", keys_strings=keys, values_strings=values, default_string="?"),
        helper.make_node("LabelEncoder", ["word"], ["number"], domain="ai.onnx.ml", keys_strings=keys, values_int64s=list(range(len(keys))), default_int64=-1),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("word", TensorProto.STRING, ["batch"])],
        [
            helper.make_tensor_value_info("meaning", TensorProto.STRING, ["batch"]),
            helper.make_tensor_value_info("number", TensorProto.INT64, ["batch"]),
        ],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "model.onnx")
    return folder


def _verdict(tmp_path: Path, changed: str = "") -> dict[str, Any]:
    imported, output = tmp_path / "import", tmp_path / "output"
    (imported / "edge").mkdir(parents=True)
    output.mkdir()
    empty = np.array([""])
    np.savez(imported / "samples.npz", word=WORDS)
    np.savez(imported / "baseline.npz", allow_pickle=False, **_answers(WORDS, changed))
    np.savez(imported / "edge" / "0.inputs.npz", word=empty)
    np.savez(imported / "edge" / "0.outputs.npz", allow_pickle=False, **_answers(empty))
    imported_model(SIGNATURE, edges=["zeros"]).write(imported)
    candidate = CandidateParameters("onnx-fp32", "onnx-fp32", "onnx", "fp32", "onnxruntime")
    params = VerifyParameters(candidate, SIGNATURE, {}).as_json()
    inputs = {"import": imported, "variant": _variant(tmp_path / "variant")}
    verify(StepContext(params, inputs, output, tmp_path, tmp_path))
    verdict: dict[str, Any] = json.loads((output / "verdict.json").read_text("utf-8"))
    return verdict


def test_the_same_texts_pass(tmp_path: Path) -> None:
    verdict = _verdict(tmp_path)
    assert verdict["passed"]
    assert {"zeros", "all samples", "a batch of 8"} <= {case["case"] for case in verdict["cases"]}
    agreement = [gate for gate in verdict["gates"] if gate["gate"] == "min_top1_agreement"]
    assert [(gate["output"], gate["measured"]) for gate in agreement] == [("meaning", 1.0), ("number", 1.0)]


def test_another_text_fails(tmp_path: Path) -> None:
    verdict = _verdict(tmp_path, changed="ö")
    failed = [(gate["gate"], gate["output"]) for gate in verdict["gates"] if not gate["passed"]]
    assert failed == [("min_top1_agreement", "meaning")]


def test_calls_with_texts_are_timed(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", word=WORDS)
    measured = MeasuredRuntime()
    arguments = {
        "directory": str(_variant(tmp_path / "variant")),
        "signature": SIGNATURE.as_json(),
        "threads": 1,
    }
    command = {
        "opener": "orchestrator.frameworks.onnx.runtime:open_onnx",
        "arguments": arguments,
        "samples": str(tmp_path / "samples.npz"),
        "batched": True,
        "instances": 1,
    }
    assert measured.open(command)["facts"]["runtime"] == "onnxruntime"
    for rows in (1, 8, 20):
        times = measured.run({"rows": rows, "calls": 3, "seconds": 5.0, "untimed": 1})["seconds"]
        assert len(times) == 3
