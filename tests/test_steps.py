"""A library's exception becomes a step's refusal in one place."""

from __future__ import annotations

import re

import pytest

from orchestrator.steps.context import StepError, refuse_as, refuse_on
from orchestrator.steps.reasons import headline


def test_an_exception_becomes_a_refusal_with_its_first_line_as_the_cause() -> None:
    with (
        pytest.raises(StepError) as caught,
        refuse_on(ValueError, "E302", "the file is damaged", remedy="copy it again", at=("model", "source")),
    ):
        raise ValueError("\n  the header is cut off\nat byte 12")
    error = caught.value
    assert (error.code, error.message, error.cause) == ("E302", "the file is damaged", "the header is cut off")
    assert (error.remedy, error.at) == ("copy it again", ("model", "source"))
    assert isinstance(error.__cause__, ValueError)


def test_the_cause_may_be_given_or_found_by_a_function() -> None:
    for cause, expected in (
        ("it is empty", "it is empty"),
        (lambda error: str(error)[2:7], "trace"),
        (str, "a trace\nthe reason"),
    ):
        with pytest.raises(StepError) as caught, refuse_on(RuntimeError, "E420", "it does not load", cause=cause):
            raise RuntimeError("a trace\nthe reason")
        assert caught.value.cause == expected


@pytest.mark.parametrize("error", [StepError("E301", "another refusal"), MemoryError("too large")])
def test_refusals_and_a_lack_of_memory_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, refuse_on(Exception, "E302", "the file is damaged"):
        raise error
    assert caught.value is error


def test_other_exceptions_pass_unchanged() -> None:
    with pytest.raises(KeyError), refuse_on(ValueError, "E302", "the file is damaged"):
        raise KeyError("x")


def test_an_exception_may_become_any_other_error() -> None:
    with pytest.raises(MemoryError, match="no room") as caught, refuse_as(RuntimeError, lambda e: MemoryError(str(e))):
        raise RuntimeError("no room")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_headline_is_short_and_never_empty() -> None:
    assert headline(ValueError()) == "ValueError"
    assert headline(ValueError("x" * 500)) == "x" * 397 + "..."
    assert headline(ValueError("Failed to export\nthe reason"), skip=re.compile("Failed")) == "the reason"
