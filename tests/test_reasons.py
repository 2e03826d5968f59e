"""The line with the reason is found in what libraries raise; raised.json holds the texts as they raised them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.steps.reasons import headline, headline_with_type

RAISED = json.loads(Path(__file__).with_name("raised.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", RAISED)
def test_the_reason_comes_first(name: str) -> None:
    text, wanted = RAISED[name]["text"], RAISED[name]["reason"]
    found = headline(RuntimeError(text))
    assert found == wanted
    assert "\n" not in found
    assert len(found) <= 400
    assert not any(
        where in found for where in ("config=", ".cc:", ".cpp:", "RuntimeException", "{{node", "site-packages")
    )


def test_a_text_of_no_known_form_is_shown_from_its_first_line() -> None:
    assert headline(ValueError("\n  the file ends\n  at byte 3\n")) == "the file ends"
    assert headline(KeyError()) == "KeyError"
    assert headline(ValueError("x" * 900)).endswith("x...")
    assert headline_with_type(ValueError("the file ends")) == "ValueError: the file ends"
    assert headline_with_type(ValueError()) == "ValueError"
