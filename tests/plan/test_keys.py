"""A key changes with what a result depends on, and with nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.machine.fingerprint import fingerprint
from orchestrator.machine.here import Here, NotObserved
from orchestrator.plan.keys import differences, key_parts, step_key
from orchestrator.plan.step import Step


def step(**changes: Any) -> Step:
    values: dict[str, Any] = {
        "id": "convert.onnx",
        "kind": "convert",
        "function": "module:function",
        "revision": 1,
        "params": {"a": 1, "b": [1, 2]},
        "inputs": {},
        "tools": ("pydantic",),
    }
    return Step(**{**values, **changes})


HERE = Here(fingerprint(), {"pydantic": "2.0", "pyyaml": "6.0"})


def key(of: Step, inputs: dict[str, str] | None = None, code: dict[str, str] | None = None, here: Here = HERE) -> str:
    return step_key(key_parts(of, inputs or {"model": "0" * 64}, code or {}, here))


BASE = key(step())


@pytest.mark.parametrize(
    "changed",
    [
        step(kind="optimize"),
        step(function="module:other"),
        step(revision=2),
        step(params={"a": 2, "b": [1, 2]}),
        step(params={"a": 1, "b": [2, 1]}),
        step(tools=("pydantic", "pyyaml")),
        step(machine=True),
    ],
)
def test_what_a_result_depends_on_changes_the_key(changed: Step) -> None:
    assert key(changed) != BASE


def test_inputs_and_code_change_the_key() -> None:
    assert key(step(), {"model": "1" * 64}) != BASE
    assert key(step(), {"other": "0" * 64}) != BASE
    assert key(step(), code={"a.py": "0" * 64}) != BASE


def test_a_tools_version_changes_the_key() -> None:
    assert key(step(), here=Here(fingerprint(), {"pydantic": "0.0.1"})) != BASE
    assert key(step(), here=Here(fingerprint(), {"pydantic": None})) != BASE


def test_a_tool_that_was_not_observed_is_an_error_and_not_taken_for_absent() -> None:
    with pytest.raises(NotObserved, match="the package torch, and whether it is installed was not observed"):
        key(step(tools=("torch",)))


@pytest.mark.parametrize(
    "same",
    [
        step(id="another.name"),
        step(params={"b": [1, 2], "a": 1}),
        step(params={"a": 1.0, "b": [1, 2]}),
        step(timeout=1.0),
        step(candidate="x"),
        step(at=("optimize",)),
        step(exclusive=True),
    ],
)
def test_names_order_and_limits_do_not(same: Step) -> None:
    assert key(same) == BASE


def test_differences_are_in_the_units_of_the_spec() -> None:
    before = {"params": {"slo": {"p99_latency": 0.01, "throughput": 50.0}, "memory": 2**31, "cpus": 2.0}}
    after = {"params": {"slo": {"p99_latency": 0.009, "throughput": 60.0}, "memory": 2**30, "time_budget": 300.0}}
    assert differences(before, after) == [
        "params.cpus is gone (was 2)",
        "params.memory 2Gi → 1Gi",
        "params.slo.p99_latency 10ms → 9ms",
        "params.slo.throughput 50/s → 60/s",
        "params.time_budget is new: 5m",
    ]


def test_differences_name_each_part_that_changed() -> None:
    before = {"tools": {"torch": "2.13.0", "gone": "1"}, "inputs": {"a": "0" * 64}, "same": 1}
    after = {"tools": {"torch": "2.14.1"}, "inputs": {"a": "1" * 64}, "same": 1, "code": {"x.py": 2}}
    assert differences(before, after) == [
        'code is new: {"x.py":2}',
        "inputs.a 000000000000 → 111111111111",
        "tools.gone is gone (was 1)",
        "tools.torch 2.13.0 → 2.14.1",
    ]
