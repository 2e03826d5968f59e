"""Control characters from a model are escaped on a terminal; only mlo's own styles are kept."""

from __future__ import annotations

import json
from collections.abc import Callable

import click
import pytest

from orchestrator.cli import console
from orchestrator.cli.plan_text import plan_text
from orchestrator.plan.plan_file import SavedPlan, SavedStep
from orchestrator.visible import shown, shown_line

HOSTILE = "x\x1b]0;owned\x07\x1b[2J\x1b[8mhidden\x9b2J\u202eevil\r"
OBEYED = "\x1b\x07\x9b\u202e\r"


def obeyed(text: str) -> set[str]:
    return set(text) & set(OBEYED)


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What was printed, as a terminal that wants colour would get it."""
    monkeypatch.setattr(console, "wants_colour", lambda stream: True)

    def printed() -> str:
        captured = capsys.readouterr()
        return captured.out + captured.err

    return printed


@pytest.mark.parametrize("write", [console.print_result, console.print_note])
def test_control_characters_in_a_models_names_are_escaped(
    printed: Callable[[], str], write: Callable[[str], None]
) -> None:
    write(f"input {HOSTILE}: read")

    text = printed()
    assert not obeyed(text)
    assert "\\u001b]0;owned" in text


def test_mlos_own_styles_are_kept(printed: Callable[[], str]) -> None:
    styled = click.style("done", fg="green") + " " + click.style("name", bold=True) + "\n\tnext line"
    console.print_result(styled)
    assert printed() == styled + "\n"


def test_a_cell_keeps_to_its_line_and_its_column() -> None:
    text = console.table(("name", "kind"), [(f"a\nb{HOSTILE}", "first"), (click.style("short", fg="red"), "second")])

    head, first, second = text.split("\n")
    assert not obeyed(first)
    assert click.unstyle(head).index("kind") == first.index("first") == click.unstyle(second).index("second")


def test_a_plan_escapes_control_characters_in_a_models_names() -> None:
    tensor = {"name": "x", "dtype": "float32", "shape": ["batch"]}
    plan = SavedPlan(
        name="digits",
        spec="spec.yaml",
        environment=None,
        platform=None,
        spec_digest="",
        machine={},
        deployed=None,
        signature={
            "inputs": [tensor],
            "outputs": [{**tensor, "name": "y"}],
            "names": {"inputs": {"x": HOSTILE}, "outputs": {"y": "y"}},
            "dims": {"batch": [1, 8]},
        },
        forced=(),
        refused=(),
        notes=(f"`{HOSTILE}` is a class\nNote: all is well",),
        steps=(SavedStep(id="import", kind="import", status="run", reason="never run", key=None),),
        parts={},
        compiled={},
    )

    text = shown(plan_text(plan))

    assert not obeyed(_without_styles(text))
    assert "model's name: x\\u001b]0;owned" in text
    assert "\nNote: all is well" not in text


def _without_styles(text: str) -> str:
    for style in ("\x1b[1m", "\x1b[33m", "\x1b[0m"):
        text = text.replace(style, "")
    return text


def test_json_is_the_same_document_without_control_characters(printed: Callable[[], str]) -> None:
    console.print_json({"name": HOSTILE, "word": "größe"})

    text = printed()
    assert not obeyed(text)
    assert json.loads(text) == {"name": HOSTILE, "word": "größe"}
    assert "größe" in text


def test_letters_of_every_script_are_kept() -> None:
    for word in ("größe", "日本語", "नमस्ते", "👩\u200d💻"):
        assert shown_line(word) == word


def test_every_style_that_a_decision_is_shown_with_is_kept() -> None:
    for styled in (
        click.style("won", bold=True),
        click.style("lost", bold=False),
        click.style("legend", dim=True),
        click.style("fate", fg="green"),
    ):
        assert shown(styled) == styled
