"""`model.batch`: which dimension counts the rows of a request, or that there is none."""

from __future__ import annotations

import pytest

from orchestrator.engine.observing import observe_here
from orchestrator.plan.compile import compile_plan
from orchestrator.plan.found import planned_model
from orchestrator.spec.batch_dimension import declared_batch
from orchestrator.spec.signature import declared_signature
from orchestrator.steps.parameters import ImportParameters, RuntimeBenchmarkParameters
from tests.spec.conftest import BASE, Load, Shown


def _sequence(batch: str = "", shape: str = "[time, 1, 8]", dims: str = "time: {max: 50}") -> str:
    text = BASE.replace("[batch, 1, 8, 8]", shape).replace(", shape: [batch, 10]", "")
    return text.replace("batch: {min: 1, max: 64}", dims) + (f"  batch: {batch}\n" if batch else "")


def test_by_default_it_is_the_named_first_dimension(load: Load) -> None:
    assert declared_signature(load(_sequence()).spec).batch == "time"


@pytest.mark.parametrize(
    ("batch", "shape", "dims", "expected", "why"),
    [
        ("none", "[time, 1, 8]", "time: {max: 50}", None, "the spec says `batch: none`"),
        ("rows", "[rows, 8]", "rows: {max: 4}", "rows", ""),
        (
            "rows",
            "[time, rows, 8]",
            "time: {max: 50}, rows: {max: 4}",
            None,
            "`rows` is not the first dimension of the input `image`",
        ),
        ("", "[1, 8]", "", None, "no named dimension is the first one of every input"),
        ("", "[rows, 8]", "rows: {max: 1}", "rows", "`rows` is at most 1, which has no room for two requests"),
    ],
)
def test_the_batch_and_why_there_is_none(
    load: Load, batch: str, shape: str, dims: str, expected: str | None, why: str
) -> None:
    spec = load(_sequence(batch, shape, dims)).spec
    signature = declared_signature(spec)
    assert signature.batch == expected
    assert declared_batch(spec).one_by_one(signature.dims) == why


def test_without_a_batch_one_request_is_measured_at_a_time_and_the_plan_says_why(load: Load) -> None:
    loaded = load(_sequence("none"))
    plan = compile_plan(loaded, planned_model(loaded, None), observe_here(loaded))
    assert RuntimeBenchmarkParameters.from_json(plan.step("benchmark.runtime").params).batch_sizes == (1,)
    imported = ImportParameters.from_json(plan.step("import").params)
    assert (imported.signature.batch, imported.one_by_one) == (None, "the spec says `batch: none`")
    assert "requests are answered one by one: the spec says `batch: none`" in plan.notes


def test_a_batch_that_is_not_first_reaches_the_import(load: Load) -> None:
    loaded = load(_sequence("rows", "[time, rows, 8]", "time: {max: 50}, rows: {max: 4}"))
    plan = compile_plan(loaded, planned_model(loaded, None), observe_here(loaded))
    assert ImportParameters.from_json(plan.step("import").params).inner_batch == "rows"


def test_a_plan_of_batches_says_nothing(load: Load) -> None:
    loaded = load(BASE)
    plan = compile_plan(loaded, planned_model(loaded, None), observe_here(loaded))
    assert not any("one by one" in note for note in plan.notes)


def test_a_name_that_no_input_has(shown: Shown) -> None:
    assert shown(_sequence("tim")) == (
        "error[E126]: no input has the dimension `tim`\n"
        "  --> spec.yaml:15:10\n"
        "   |\n"
        "15 |   batch: tim\n"
        "   |          ^^^ did you mean `time`?\n"
        "   = help: name one of `time`, or write `batch: none`"
    )


def test_batches_of_a_model_without_a_batch(shown: Shown) -> None:
    text = shown(_sequence("none") + "benchmark: {batch_sizes: [1, 8]}\nserving: {batching: {max_size: 8}}\n")
    assert "error[E123]: batch size 8 cannot be measured" in text
    assert "error[E126]: requests cannot be batched" in text
    assert text.count("the spec says `batch: none`") == 2
    assert text.count("help: remove this key") == 2
