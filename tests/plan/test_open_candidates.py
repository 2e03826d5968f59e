"""One variant served by several backends and with several options: names, identities, and each its own steps and rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.engine.observing import observe_here
from orchestrator.optimize.candidates import candidates, refusal
from orchestrator.optimize.variants import Candidate
from orchestrator.plan.compile import plan_of
from orchestrator.plan.found import planned_model
from orchestrator.plan.step import Plan
from orchestrator.spec.load import LoadedSpec, load_spec
from orchestrator.steps.parameters import (
    RuntimeBenchmarkParameters,
    SelectParameters,
    ServerBenchmarkParameters,
    VerifyParameters,
)
from orchestrator.steps.runtime_options import Batching, RuntimeOptions

SPEC = """\
apiVersion: mlo/v1
kind: ModelDeployment
metadata: {name: digits}
model:
  source: {kind: torchscript, weights: digits.pt}
  inputs: [{name: image, dtype: float32, shape: [batch, 8]}]
  outputs: [{name: logits, shape: [batch, 10]}]
  dims: {batch: {min: 1, max: 64}}
optimize: {formats: [onnx], precisions: [fp32]}
"""
NAMES = ["onnx-fp32", "onnx-fp32@openvino", "onnx-fp32+instances=2+threads=1"]


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedSpec:
    (tmp_path / "digits.pt").write_bytes(b"a model")
    (tmp_path / "spec.yaml").write_text(SPEC, encoding="utf-8")
    return load_spec(tmp_path / "spec.yaml")


@pytest.fixture
def found(loaded: LoadedSpec) -> list[Candidate]:
    """One variant on two backends, and on one of them with two instances of one thread."""
    tried = [
        each for each in candidates(loaded.spec, planned_model(loaded, None).signature) if isinstance(each, Candidate)
    ]
    return [*tried, replace(tried[0], options=RuntimeOptions(threads=1, instances=2))]


@pytest.fixture
def plan(loaded: LoadedSpec, found: list[Candidate]) -> Plan:
    here = replace(observe_here(loaded), packages=dict.fromkeys(observe_here(loaded).packages, "1.0"))
    return plan_of(loaded, planned_model(loaded, None), here, found, ())


def test_names_say_what_is_not_usual(found: list[Candidate]) -> None:
    assert [each.name for each in found] == NAMES
    batched = replace(found[0], options=RuntimeOptions(batching=Batching(8, 0.002)))
    assert batched.name == "onnx-fp32+batching=8:0.002"


def test_identity_is_of_the_content(found: list[Candidate]) -> None:
    assert len({each.identity for each in found}) == len(found)
    assert replace(found[0], options=RuntimeOptions()).identity == found[0].identity
    transform = replace(found[0].variant.conversion, revision=99)
    assert replace(found[0], variant=replace(found[0].variant, conversion=transform)).identity != found[0].identity


def test_the_variant_is_made_once_and_each_candidate_is_proven_in_its_runtime(plan: Plan) -> None:
    made = [step.id for step in plan.steps if step.kind in {"convert", "optimize", "verify"}]
    assert made == ["convert.onnx", *(f"verify.{name}" for name in NAMES)]
    assert plan.step("verify.onnx-fp32@openvino").tools == ("openvino",)
    parameters = VerifyParameters.from_json(plan.step(f"verify.{NAMES[2]}").params)
    assert parameters.candidate.options == RuntimeOptions(threads=1, instances=2)


def test_each_candidate_has_its_own_row_and_fate(plan: Plan) -> None:
    runtime = RuntimeBenchmarkParameters.from_json(plan.step("benchmark.runtime").params)
    server = ServerBenchmarkParameters.from_json(plan.step("benchmark.server").params)
    select = SelectParameters.from_json(plan.step("select").params)
    for rows in (runtime.candidates, server.candidates, select.candidates):
        assert [row.candidate for row in rows] == NAMES
        assert {row.variant for row in rows} == {"onnx-fp32"}
    assert set(server.servers) == {"onnxruntime", "openvino"}
    assert select.steps[NAMES[1]] == ("convert.onnx", "verify.onnx-fp32@openvino")
    assert {f"verdict:{name}" for name in NAMES} <= set(plan.step("select").inputs)


def test_an_option_that_a_backend_does_not_heed_is_refused(loaded: LoadedSpec, found: list[Candidate]) -> None:
    asked = replace(found[1], options=RuntimeOptions(graph_optimization="basic"))
    reason = refusal(asked, loaded.spec, planned_model(loaded, None).signature, {})
    assert reason == "openvino has no option `graph_optimization`"


def test_options_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RuntimeOptions(instances=0)
