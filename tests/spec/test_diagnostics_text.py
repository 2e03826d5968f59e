"""How diagnostics look: on a terminal, in a pull request, as JSON."""

from __future__ import annotations

import json

import pytest
from wcwidth import wcswidth

from orchestrator.cli.diagnostics_text import as_json, render_github, render_text, summary
from orchestrator.diagnostics import Diagnostic, Span


def at(text: str, column: int, end: int, line: int = 3) -> Span:
    return Span("spec.yaml", line, column, line, end, text)


def test_every_field_of_a_diagnostic_is_shown() -> None:
    diagnostic = Diagnostic(
        "E410",
        "convert.onnx ran out of memory",
        at("    precision: fp17", 16, 20, line=12),
        label="did you mean `fp16`?",
        cause="worker killed by SIGKILL, peak 7.9 GiB of 8.0 GiB",
        remedy="lower `batch` or raise `hardware.memory`",
        notes=("log: .mlo/logs/convert.log", "a note without a name"),
    )
    assert render_text([diagnostic], color=False, width=80) == (
        "error[E410]: convert.onnx ran out of memory\n"
        "  --> spec.yaml:12:16\n"
        "   |\n"
        "12 |     precision: fp17\n"
        "   |                ^^^^ did you mean `fp16`?\n"
        "   = cause: worker killed by SIGKILL, peak 7.9 GiB of 8.0 GiB\n"
        "   = help: lower `batch` or raise `hardware.memory`\n"
        "   = log: .mlo/logs/convert.log\n"
        "   = note: a note without a name"
    )


def test_warnings_are_marked_and_separated() -> None:
    warning = Diagnostic("W101", "unused", severity="warning")
    error = Diagnostic("E100", "gone", remedy="look")
    assert render_text([warning, error], color=False, width=80) == (
        "warning[W101]: unused\n\nerror[E100]: gone\n  = help: look"
    )
    assert summary([warning, error, error]) == "2 errors, 1 warning"
    assert summary([]) == ""


@pytest.mark.parametrize(
    ("text", "column", "end"),
    [
        ("name: 模型, kind: x", 15, 16),
        ("name: 模型", 7, 9),
        ("a: \u0301e, b", 6, 7),
        ("\tkey: value", 2, 5),
        ("k:\t\tvalue", 5, 10),
        ("😀: wrong", 4, 9),
    ],
)
def test_the_caret_is_below_the_mistake(text: str, column: int, end: int) -> None:
    shown = render_text([Diagnostic("E101", "wrong", at(text, column, end))], color=False, width=80).splitlines()
    before, marked = (part.replace("\t", "    ") for part in (text[: column - 1], text[column - 1 : end - 1]))
    assert shown[3].startswith(f"3 | {before}{marked}")
    assert shown[4] == "  | " + " " * wcswidth(before) + "^" * wcswidth(marked)


def test_a_long_line_is_truncated_around_the_caret() -> None:
    text = "x" * 300 + " bad " + "y" * 300
    for width in (40, 80, 120):
        shown = render_text(
            [Diagnostic("E101", "wrong", at(text, 302, 305), "label")], color=False, width=width
        ).splitlines()
        assert "bad" in shown[3]
        assert shown[4].index("^") == shown[3].index("bad")
        assert all(wcswidth(line) <= width for line in shown)


def test_text_is_wrapped_and_paths_stay_whole() -> None:
    path = "/a/very/long/path/that/has/no/place/to/break/at/all/and/must/stay/copyable.log"
    diagnostic = Diagnostic("E404", "word " * 30, cause="because " * 20, notes=(f"log: {path}",))
    shown = render_text([diagnostic], color=False, width=60)
    assert path in shown
    assert all(len(line) <= 60 for line in shown.splitlines() if path not in line)


def test_colours_are_only_added() -> None:
    diagnostic = Diagnostic("E101", "wrong", at("a: b", 4, 5), "label", "cause", "help", ("log: x",))
    coloured = render_text([diagnostic], color=True, width=80)
    assert "\x1b[1;31m" in coloured
    for code in ("\x1b[1;31m", "\x1b[1;34m", "\x1b[1m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == render_text([diagnostic], color=False, width=80)


def test_control_characters_are_made_visible() -> None:
    diagnostic = Diagnostic("E101", "a\x1b[2J", at("key: \u202eevil", 6, 11), "\x07", "b\rc", notes=("log: \x9b31m",))
    shown = render_text([diagnostic], color=False, width=80) + render_github([diagnostic]).replace("\n", "")
    assert not any(character in shown for character in "\x1b\x07\x9b\u202e\r")


def test_annotations_are_escaped() -> None:
    diagnostic = Diagnostic("E101", "100% wrong: a, b", Span("a,b:c.yaml", 2, 5, 2, 8, "x"), "why", remedy="one\ntwo")
    assert render_github([diagnostic]) == (
        "::error file=a%2Cb%3Ac.yaml,line=2,endLine=2,col=5,endColumn=7,title=E101%3A 100%25 wrong%3A a%2C b"
        "::100%25 wrong: a, b (why)%0Ahelp: one%0Atwo"
    )
    several = Diagnostic("W101", "m", Span("a.yaml", 2, 5, 4, 1, "x"), severity="warning")
    assert (
        render_github([several, several]).splitlines()
        == ["::warning file=a.yaml,line=2,endLine=4,title=W101%3A m::m"] * 2
    )


def test_json_holds_every_field() -> None:
    diagnostic = Diagnostic("E101", "m", at("a: b", 4, 5), "label", "cause", "help", ("log: x",))
    (read,) = json.loads(json.dumps(as_json([diagnostic])))
    assert read == {
        "code": "E101",
        "message": "m",
        "span": {"file": "spec.yaml", "line": 3, "column": 4, "end_line": 3, "end_column": 5, "text": "a: b"},
        "label": "label",
        "cause": "cause",
        "remedy": "help",
        "notes": ["log: x"],
        "severity": "error",
        "at": [],
    }
