"""One variant served by several backends and with several options: names, identities, and each its own steps and rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.artifacts.verdict import Verdict
from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.observing import observe_here
from orchestrator.machine.here import Here, NotObserved
from orchestrator.optimize.candidates import candidates, refusal
from orchestrator.optimize.formats import FORMATS
from orchestrator.optimize.transform import Unsupported
from orchestrator.optimize.variants import Candidate, Pass
from orchestrator.plan.compile import plan_of
from orchestrator.plan.expand import expand
from orchestrator.plan.found import planned_model
from orchestrator.plan.resolve import Outcome
from orchestrator.plan.step import Failed, Growth, Plan, Succeeded
from orchestrator.spec.load import LoadedSpec, load_spec
from orchestrator.steps.parameters import (
    OptimizeParameters,
    RuntimeBenchmarkParameters,
    SelectParameters,
    ServerBenchmarkParameters,
    VerifyParameters,
)
from orchestrator.steps.pass_options import OnnxInt8Options
from orchestrator.steps.runtime_options import Batching, RuntimeOptions
from orchestrator.store.digest import Manifest
from orchestrator.store.home import Home
from orchestrator.store.receipts import Receipt
from orchestrator.store.store import Store
from orchestrator.store.user_code import NO_USER_CODE
from tests.artifacts.made import verdict
from tests.plan.spec_text import DECLARED

SPEC = DECLARED + "optimize: {formats: [onnx], precisions: [fp32]}\n"
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
        each
        for each in candidates(loaded.spec, planned_model(loaded, None).signature)
        if isinstance(each, Candidate) and each.backend in {"onnxruntime", "openvino"}
    ]
    return [*tried, replace(tried[0], options=RuntimeOptions(threads=1, instances=2))]


@pytest.fixture
def here(loaded: LoadedSpec) -> Here:
    """This machine, with every package."""
    observed = observe_here(loaded)
    return replace(observed, packages=dict.fromkeys(observed.packages, "1.0"))


@pytest.fixture
def plan(loaded: LoadedSpec, here: Here, found: list[Candidate]) -> Plan:
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


def test_an_option_that_a_backend_does_not_support_is_refused(loaded: LoadedSpec, found: list[Candidate]) -> None:
    asked = replace(found[1], options=RuntimeOptions(graph_optimization="basic"))
    reason = refusal(asked, loaded.spec, planned_model(loaded, None).signature, {})
    assert reason == "openvino has no option `graph_optimization`"


@pytest.mark.parametrize(
    ("key", "options", "reason"),
    [
        (
            "serving: {batching: {max_size: 4}}",
            RuntimeOptions(batching=Batching(8, 0.0)),
            "`serving.batching` sets another batching",
        ),
        (
            "hardware: {accelerator: cuda}",
            RuntimeOptions(execution_provider="CPUExecutionProvider"),
            "`hardware.accelerator` sets the execution provider",
        ),
    ],
)
def test_an_option_that_the_spec_sets_is_refused(
    tmp_path: Path, found: list[Candidate], key: str, options: RuntimeOptions, reason: str
) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC + key + "\n", encoding="utf-8")
    spec = load_spec(tmp_path / "spec.yaml")
    signature = planned_model(spec, None).signature
    assert refusal(replace(found[0], options=options), spec.spec, signature, {}) == reason
    assert refusal(found[0], spec.spec, signature, {}) is None


INT8 = FORMATS["onnx"].precisions["int8"]


def int8(candidate: Candidate, options: OnnxInt8Options | None = None) -> Candidate:
    """A candidate like that one, quantized."""
    assert not isinstance(INT8, Unsupported)
    return replace(
        candidate, variant=replace(candidate.variant, passes=(Pass("int8", INT8, options),), precision="int8")
    )


def test_options_of_a_pass_are_in_the_name_and_reach_the_step(
    loaded: LoadedSpec, here: Here, found: list[Candidate]
) -> None:
    changed = int8(found[0], OnnxInt8Options(percentile=99.9, smoothing=0.25))
    assert int8(found[0]).name == "onnx-int8"
    assert changed.name == "onnx-int8:percentile=99.9:smoothing=0.25"
    assert changed.identity != int8(found[0]).identity
    plan = plan_of(loaded, planned_model(loaded, None), here, [int8(found[0]), changed], ())
    options = [OptimizeParameters.from_json(step.params).options for step in plan.steps if step.kind == "optimize"]
    assert options == [OnnxInt8Options(), OnnxInt8Options(percentile=99.9, smoothing=0.25)]


def test_a_pass_takes_its_own_options_and_a_name_that_a_folder_can_have(found: list[Candidate]) -> None:
    assert not isinstance(INT8, Unsupported)
    for name in ("in/t8", "in t8", "INT8", "", "i" * 25):
        with pytest.raises(ValueError, match="a pass cannot be called"):
            Pass(name, INT8)
    with pytest.raises(ValueError, match="the pass plain has no options, not OnnxInt8Options"):
        Pass("plain", found[0].variant.conversion, OnnxInt8Options())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"method": "the/best"}, "cannot be 'the/best'"),
        ({"method": "best"}, "method of int8 is one of auto, static, dynamic, weights, not 'best'"),
        ({"percentile": 50.0}, "percentile of int8 is from 90 to 100, not 50.0"),
        ({"smoothing": 1.5}, "smoothing of int8 is from 0 to 1, not 1.5"),
        ({"smoothing": float("nan")}, "smoothing of int8 is from 0 to 1, not nan"),
        ({"types": "s8u8"}, "types of int8 is one of u8s8, u8u8, s8s8, not 's8u8'"),
        ({"exclude": "some"}, "exclude of int8 is one of none, auto, not 'some'"),
        ({"weight_bits": 4}, "weight_bits of int8 is one of auto, 7, 8, not 4"),
    ],
)
def test_options_of_a_pass_are_checked_when_they_are_made(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        OnnxInt8Options(**options)


def test_a_long_name_stays_short_enough_for_a_file_and_of_its_own(found: list[Candidate]) -> None:
    assert not isinstance(INT8, Unsupported)
    every = OnnxInt8Options(method="static", percentile=99.9999, smoothing=0.123456, weight_bits=8)
    several = [replace(found[0].variant, passes=(*(Pass("int8", INT8, every),) * count,)) for count in (2, 3, 4)]
    names = [replace(found[0], variant=variant).name for variant in several]
    assert len(set(names)) == 3
    assert max(len(step) for variant in several for step in variant.steps) < 140
    assert re.fullmatch(r"[a-z0-9:=.@+-]+", names[-1])


def test_equal_candidates_are_tried_once(loaded: LoadedSpec, here: Here, found: list[Candidate]) -> None:
    twice = [*found, replace(found[0], options=RuntimeOptions())]
    model = planned_model(loaded, None)
    assert plan_of(loaded, model, here, twice, ()).steps == plan_of(loaded, model, here, found, ()).steps


def test_different_candidates_of_one_name_are_an_error_that_shows_both(
    loaded: LoadedSpec, here: Here, found: list[Candidate]
) -> None:
    other = replace(found[0].variant.conversion, function="somewhere:else")
    for each in (found[0], found[1]):  # on the same backend, and one variant on two backends
        changed = replace(each, variant=replace(each.variant, conversion=other))
        with pytest.raises(ValueError, match=f"two different .* the name {each.name}: .*to_onnx.*somewhere:else"):
            plan_of(loaded, planned_model(loaded, None), here, [found[0], changed], ())
    changed = int8(replace(found[0], variant=replace(found[0].variant, conversion=other)))
    with pytest.raises(ValueError, match=r"two different steps have the id convert\.onnx: .*to_onnx.*somewhere:else"):
        plan_of(loaded, planned_model(loaded, None), here, [found[0], changed], ())


@pytest.mark.parametrize("ended", ["passed", "failed its gates", "not made"])
def test_a_search_answers_a_candidate_that_failed_with_another(
    loaded: LoadedSpec, here: Here, found: list[Candidate], tmp_path: Path, ended: str
) -> None:
    """A plan as the compiler makes it, grown by one try, whose other steps stay what they were."""
    model, first, gentler = (
        planned_model(loaded, None),
        int8(found[0]),
        int8(found[0], OnnxInt8Options(percentile=99.9)),
    )

    def grow(plan: Plan, results: Mapping[str, Succeeded | Failed]) -> Plan:
        result = results[f"verify.{first.name}"]
        good = isinstance(result, Succeeded) and result.read(Verdict).passed
        return plan if good else plan_of(loaded, model, here, [*found, first, gentler], plan.refused)

    plan = plan_of(loaded, model, here, [*found, first], ())
    plan = replace(plan, growths=(Growth((f"verify.{first.name}",), "another quantization", grow),))
    store = Store.at(Home(tmp_path / "home"))
    store.home.prepare()
    outcome = Outcome("skipped", None, Diagnostic("E408", "optimize.onnx-int8 did not succeed"))
    if ended != "not made":
        (tmp_path / "output").mkdir()
        verdict(first.name, passed=ended == "passed").write(tmp_path / "output")
        outcome = Outcome("done", receipt(store.trees.commit(tmp_path / "output")))

    grown = expand(plan, {f"verify.{first.name}": outcome}, store.trees)

    added = {step.id for step in grown.steps} - {step.id for step in plan.steps}
    name = "onnx-int8:percentile=99.9"
    assert added == (set() if ended == "passed" else {f"optimize.{name}", f"verify.{name}"})
    tried = SelectParameters.from_json(grown.step("select").params).candidates
    assert (name in {each.candidate for each in tried}) is (ended != "passed")


def receipt(manifest: Manifest) -> Receipt:
    return Receipt(
        key="k",
        step="verify",
        kind="verify",
        deployment="digits",
        outcome="done",
        parts={},
        manifest=manifest,
        summary={},
        error=None,
        found=NO_USER_CODE,
        seconds=1.0,
        peak_bytes=None,
        started="2026-01-01T00:00:00+00:00",
        version="0",
    )


def test_a_growth_cannot_add_a_backend_whose_server_was_not_looked_for(
    loaded: LoadedSpec, here: Here, found: list[Candidate]
) -> None:
    blind = replace(here, servers={"onnxruntime": here.servers["onnxruntime"]})
    with pytest.raises(NotObserved, match=r"a candidate of the backend openvino .* \(observed: onnxruntime\)"):
        plan_of(loaded, planned_model(loaded, None), blind, found, ())


def test_options_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RuntimeOptions(instances=0)
