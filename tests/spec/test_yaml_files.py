"""For any file at the path: a clear message, never a traceback, never more than a second."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.cli.diagnostics_text import render_github, render_text
from orchestrator.errors import SpecInvalid
from orchestrator.spec.load import load_spec
from orchestrator.spec.source_text import source_from_bytes
from orchestrator.spec.yaml_tree import SPEC, parse_tree
from tests.spec.conftest import BASE, Load, Shown


def data_of(text: str) -> object:
    root, problems = parse_tree(source_from_bytes("x.yaml", text.encode()), SPEC)
    assert problems == []
    return root.data


def bomb() -> bytes:
    lines = [b"a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [b"a%d: &a%d [%s]" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 30)]
    return b"\n".join(lines)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"", "error[E112]: spec.yaml is empty", id="empty"),
        pytest.param(b"# only a comment\n", "error[E112]: spec.yaml is empty", id="comment"),
        pytest.param(b"---\n...\n", "error[E112]: spec.yaml is empty", id="empty document"),
        pytest.param(b"- a\n", "error[E112]: the top level of the file is not a mapping", id="list"),
        pytest.param(b"hello", "error[E112]: the top level of the file is not a mapping", id="word"),
        pytest.param(b"a: 1\n---\nb: 2\n", "error[E112]: a second document starts here", id="two documents"),
        pytest.param(b"a: " + b"[" * 100 + b"]" * 100, "error[E111]: nested more than 64 levels deep", id="brackets"),
        pytest.param(b"- " * 100, "error[E111]: nested more than 64 levels deep", id="dashes"),
        pytest.param(b"[" * 500_000, "error[E111]: nested more than 64 levels deep", id="500,000 brackets"),
        pytest.param(bomb(), "error[E111]: more than 20,000 values", id="alias bomb"),
        pytest.param(b"a: [" + b"1," * 60_000 + b"]", "error[E111]: more than 20,000 values", id="long list"),
        pytest.param(b"a: &x [*x]", "error[E113]: `*x` contains itself", id="recursive alias"),
        pytest.param(b"a: *x", "error[E113]: `*x` has no anchor", id="unknown alias"),
        pytest.param(
            b"a: !!python/object:os.system {}",
            "error[E113]: YAML tags such as `!!python/object:os.system` are not supported",
            id="tag",
        ),
        pytest.param(b"? [a]\n: b", "error[E113]: a key that is a list or a mapping", id="complex key"),
        pytest.param(b"a: x" * 262_145, "error[E111]: spec.yaml is larger than 1 MiB", id="large"),
        pytest.param(b"a: 'x\n", "error[E109]: a quote is not closed", id="quote"),
        pytest.param(b"a: [1, 2\nb: 3\n", "error[E109]: a list in brackets is not closed", id="bracket"),
        pytest.param(b"a: b: c\n", "error[E109]: a `:` is not allowed here", id="colon"),
        pytest.param(b"a: @b\n", "error[E109]: a value cannot start with this character", id="at sign"),
        pytest.param(b"<<<<<<< HEAD\na: 1\n", "error[E109]: an unresolved merge conflict", id="conflict"),
        pytest.param(b"\x89PNG\r\n\x1a\n\x00\x00", "error[E110]: spec.yaml is a binary file, not text", id="PNG"),
        pytest.param(b"a: 1\x00", "error[E110]: spec.yaml is a binary file, not text", id="NUL"),
        pytest.param("a: 1".encode("utf-16"), "error[E110]: spec.yaml is UTF-16 text", id="UTF-16"),
        pytest.param(b"a: caf\xe9\n", "error[E110]: spec.yaml is not UTF-8 text", id="Latin-1"),
        pytest.param(b"a: \x1b[31m\n", "error[E110]: control character U+001B", id="escape"),
        pytest.param(b"\n" * 1_000_000, "error[E112]: spec.yaml is empty", id="newlines"),
        pytest.param(b"? " * 500_000, "error[E113]: a key that is a list or a mapping", id="question marks"),
    ],
)
def test_bad_content_is_named(shown: Shown, content: bytes, expected: str) -> None:
    started = time.process_time()
    text = shown(content)
    assert expected in text
    assert time.process_time() - started < 5
    assert len(text) < 10_000


@pytest.mark.processes
def test_a_file_with_thousands_of_wrong_keys_costs_no_more_for_each_than_a_shorter_one(shown: Shown) -> None:
    seconds = {}
    for keys in (1_900, 19_000):
        started = time.process_time()
        text = shown("".join(f"key{i}: 1\n" for i in range(keys)))
        seconds[keys] = time.process_time() - started
        assert "more problems are not shown" in text
    assert seconds[19_000] < 30 * seconds[1_900]


def test_missing_files_suggest_the_similar_name(folder: Path) -> None:
    (folder / "digits.yaml").write_text(BASE)
    with pytest.raises(SpecInvalid) as caught:
        load_spec("digit.yaml")
    assert render_text(caught.value.diagnostics, color=False, width=100) == (
        "error[E100]: digit.yaml does not exist\n  = help: did you mean digits.yaml?"
    )


def test_a_file_that_is_not_regular_is_refused_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "pipe.yaml")
    (folder / "folder.yaml").mkdir()
    (folder / "loop.yaml").symlink_to("loop.yaml")
    for name, problem in (
        ("pipe.yaml", "is not a regular file"),
        ("folder.yaml", "is a folder"),
        ("loop.yaml", "cannot be read: Too many levels of symbolic links"),
        ("a\x00b.yaml", "cannot be read: embedded null byte"),
        ("n" * 300, "cannot be read: File name too long"),
    ):
        with pytest.raises(SpecInvalid) as caught:
            load_spec(name)
        (told,) = caught.value.diagnostics
        assert told.code == "E100"
        assert problem in told.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(folder: Path) -> None:
    (folder / "spec.yaml").write_text(BASE)
    (folder / "spec.yaml").chmod(0)
    with pytest.raises(SpecInvalid, match="cannot be read: Permission denied"):
        load_spec("spec.yaml")


def test_byte_order_mark_and_windows_line_ends_are_fine(load: Load) -> None:
    crlf = BASE.replace("\n", "\r\n").encode()
    loaded = load(b"\xef\xbb\xbf" + crlf)
    assert loaded.spec.metadata.name == "digits"
    span = loaded.span(("metadata", "name"))
    assert (span.line, span.column, span.text) == (4, 9, "  name: digits")


def test_a_tab_in_the_indentation_is_shown(shown: Shown) -> None:
    assert shown(b"model:\n\tsource: x\n") == (
        "error[E109]: a tab in the indentation\n"
        " --> spec.yaml:2:1\n"
        "  |\n"
        "2 |     source: x\n"
        "  | ^^^^\n"
        "  = help: indent with spaces; YAML does not allow tabs"
    )


def test_duplicate_keys_name_both_lines(shown: Shown) -> None:
    assert shown(BASE + "kind: ModelDeployment\n") == (
        "error[E108]: duplicate key `kind`\n"
        "  --> spec.yaml:15:1\n"
        "   |\n"
        "15 | kind: ModelDeployment\n"
        "   | ^^^^ first set on line 2\n"
        "   = help: keep one of the two"
    )


def test_scalars_are_read_as_written() -> None:
    text = "[no, yes, on, 0777, 0x1f, 0o17, 12:30, 12:30:45, 2024-01-01, 1_000, =, <<, nan, '1', '']"
    assert data_of(f"a: {text}") == {
        "a": [
            "no",
            "yes",
            "on",
            "0777",
            "0x1f",
            "0o17",
            "12:30",
            "12:30:45",
            "2024-01-01",
            "1_000",
            "=",
            "<<",
            "nan",
            "1",
            "",
        ]
    }
    assert data_of("a: [true, false, null, ~, 1, -2, +3, 3.10, 1e-4, 1.0e+3, .5, -0.0]") == {
        "a": [True, False, None, None, 1, -2, 3, 3.1, 1e-4, 1000.0, 0.5, -0.0]
    }
    assert data_of("no: 1\n1: 2\ntrue: 3") == {"no": 1, "1": 2, "true": 3}


@pytest.mark.parametrize("word", ["True", "FALSE", "Null", ".inf", "-.Inf", ".NaN", "9" * 30, "1e999"])
def test_values_that_parsers_interpret_differently_are_errors(shown: Shown, word: str) -> None:
    assert f"error[E113]: `{word}`" in shown(BASE + f"slo: {{enforce: {word}}}\n")


def test_merge_keys_are_resolved_and_explicit_keys_win() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}\nd: {x: 4, <<: *a}"
    read = data_of(text)
    assert isinstance(read, dict)
    assert read["c"] == {"x": 3, "y": 1, "z": 2}
    assert read["d"] == {"x": 4, "y": 1}


def test_aliases_may_not_nest_beyond_the_depth(shown: Shown) -> None:
    chain = b"a: &a " + b"[" * 50 + b"]" * 50 + b"\nb: " + b"[" * 20 + b"*a" + b"]" * 20
    assert "error[E111]: nested more than 64 levels deep" in shown(chain)


YAMLISH = st.lists(
    st.sampled_from([
        "a", "b: ", "- ", ": ", "\n", "  ", "\t", "[", "]", "{", "}", ",", "'", '"', "&x ", "*x", "<<: ", "!!str ", "|\n", "? ",
        "---\n", "1", "true", "model", "kind", "\\", "%", "@", "é", "\U0001f600", "\u202e", "\u2028", "\x85", "#", " #", "..."
    ]),
    max_size=60,
).map("".join)  # fmt: skip


@pytest.mark.processes
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda t: t.encode("utf-8", "surrogatepass")),
                         YAMLISH.map(str.encode), YAMLISH.map(lambda t: (BASE + t).encode())))  # fmt: skip
def test_garbage_is_refused_with_a_message(folder: Path, content: bytes) -> None:
    file = folder / "garbage.yaml"
    file.write_bytes(content)
    try:
        told = load_spec(file).warnings
    except SpecInvalid as error:
        told = tuple(error.diagnostics)
        assert told
    render_text(told, color=True, width=60)
    render_github(told)
    for each in told:
        assert each.span is None or 1 <= each.span.line <= content.count(b"\n") + content.count(b"\r") + 1
