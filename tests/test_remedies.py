"""What messages say to do can be done: keys, commands, options and files exist, and every code has a test that does it.

The cases that follow remedies are in `tests/remedies/`; a code of the catalogue without one needs an entry here.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.main import cli
from orchestrator.spec.catalogue import codes
from tests.remedies.elsewhere import FOLLOWED, NOT_FOLLOWED
from tests.remedies.spec_cases import SPEC_CASES
from tests.remedies.test_commands import CASES
from tests.remedies.texts import PART, all_texts

ROOT = Path(__file__).parents[1]
TEXTS = list(all_texts())

_QUOTED = re.compile(r"`([^`]+)`")
_COMMAND = re.compile(r"\bmlo ([a-z]+)((?: [^`;,)]+)?)")


def _quoted() -> list[tuple[str, str]]:
    return [(each.where, found) for each in TEXTS for found in _QUOTED.findall(each.text)]


@cache
def _key_paths() -> frozenset[str]:
    """Every path of keys in a spec, and each of its tails: `optimize.time_budget`, `time_budget`."""
    paths: set[str] = set()
    schema = json.loads((ROOT / "docs" / "spec.schema.json").read_text(encoding="utf-8"))
    _collect(schema, schema, (), paths)
    return frozenset(paths)


def _collect(node: Any, schema: Any, path: tuple[str, ...], paths: set[str]) -> None:
    if isinstance(node, list):
        for each in node:
            _collect(each, schema, path, paths)
    if not isinstance(node, dict) or len(path) > 6:
        return
    if "$ref" in node:
        _collect(schema["$defs"][node["$ref"].rpartition("/")[2]], schema, path, paths)
    for key in ("anyOf", "oneOf", "allOf", "items", "additionalProperties", "prefixItems"):
        _collect(node.get(key), schema, path, paths)
    for name, member in node.get("properties", {}).items():
        inner = (*path, name)
        paths.update(".".join(inner[start:]) for start in range(len(inner)))
        _collect(member, schema, inner, paths)


_KEY_PATH = re.compile(r"[a-z][a-z_0-9]*(\.[a-z][a-z_0-9]*)+")
_KEY_AND_VALUE = re.compile(r"([a-z][a-z_]*): ?[^:]*")
_NOT_OF_THE_SPEC = re.compile(
    r"(mlo|torch|tf|numpy|np|keras|onnx|model|os|sys|jit|state_dict|image|server|index|peft)\.[a-z_.]+|[a-z_]+\.(json|sh|py|npz|yaml|md|pb|ini|pt|txt)"
)
"""What also has dots between names: attributes of Python's libraries, values of the chart, files."""


def test_keys_of_the_spec_exist() -> None:
    unknown = [
        f"{where}: `{quoted}`"
        for where, quoted in _quoted()
        if _KEY_PATH.fullmatch(quoted) and quoted not in _key_paths() and not _NOT_OF_THE_SPEC.fullmatch(quoted)
    ]
    assert not unknown


def test_keys_with_values_exist() -> None:
    unknown = [
        f"{where}: `{quoted}`"
        for where, quoted in _quoted()
        if (match := _KEY_AND_VALUE.fullmatch(quoted)) and match[1] not in _key_paths() | _OTHER_KEYS
    ]
    assert not unknown


_OTHER_KEYS = {"architectures", "model_type", "file", "key", "module"}
"""Of a model's config.json, and examples."""


@cache
def _command(name: str) -> click.Command | None:
    return cli.get_command(click.Context(cli), name)


def _options(command: click.Command) -> set[str]:
    return {option for each in command.params for option in each.opts} | {"--help"}


def test_commands_and_their_options_exist() -> None:
    wrong = []
    for each in TEXTS:
        for quoted in [*_QUOTED.findall(each.text), *re.findall(r": (mlo .+[^.])$", each.text)]:
            for name, rest in _COMMAND.findall(quoted):
                command = _command(name)
                options = re.findall(r"(?<!\S)(--?[a-z][a-z-]*)", rest)
                if command is None or not _options(command).issuperset(options):
                    wrong.append(f"{each.where}: {quoted}")
    assert not wrong


def test_options_alone_belong_to_a_command() -> None:
    commands = filter(None, map(_command, cli.list_commands(click.Context(cli))))
    known = {option for command in commands for option in _options(command)}
    said = [
        (each.where, option)
        for each in TEXTS
        if not _OTHER_PROGRAMS.search(each.text)
        for option in re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", each.text)
    ]
    assert [f"{where}: {option}" for where, option in said if option not in known] == []


_OTHER_PROGRAMS = re.compile(r"\b(pip|kubectl|docker|helm) [a-z-]")


def test_documents_that_are_named_exist() -> None:
    for each in TEXTS:
        for named in re.findall(r"\b(?:docs/)?[a-z_]+\.md\b", each.text):
            assert (ROOT / named).is_file() or (ROOT / "docs" / named).is_file(), f"{each.where}: {named}"


def test_no_remedy_is_only_to_try_again() -> None:
    """What failed for a reason fails again; who says so names what may be different then."""
    again = re.compile(r"run `?mlo apply`? again|run the same command again|try again", re.IGNORECASE)
    bare = [each for each in TEXTS if again.fullmatch(each.text.strip())]
    assert {each.where.partition(":")[0] for each in bare} <= _AGAIN_HELPS, bare


_AGAIN_HELPS = {
    "orchestrator/engine/executors/cause.py",  # E406: Ctrl-C stopped it
}


@cache
def _tests_in(file: str) -> Mapping[str, frozenset[str]]:
    """Name of each test → the texts in it, and in the tables of its module that it or its parameters name."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    tables = {
        target.id: _texts_in(node)
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    return {
        node.name: _texts_in(node).union(*(tables.get(name, ()) for name in _names_in(node)))
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def _texts_in(node: ast.AST) -> frozenset[str]:
    return frozenset(
        each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)
    )


def _names_in(node: ast.AST) -> frozenset[str]:
    return frozenset(each.id for each in ast.walk(node) if isinstance(each, ast.Name))


_IN_CASES = {case.code for case in SPEC_CASES} | {case.code for case in CASES}


def test_every_code_has_a_test_that_does_what_it_says_or_a_reason() -> None:
    entries = {code: (code in _IN_CASES) + (code in FOLLOWED) + (code in NOT_FOLLOWED) for code in codes()}
    new = [code for code, number in entries.items() if number == 0]
    assert not new, (
        f"{', '.join(new)}: add a case to tests/remedies/ that makes it appear and follows its remedy, or an entry to "
        "tests/remedies/elsewhere.py"
    )
    assert [code for code, number in entries.items() if number > 1] == []


def test_the_table_holds_nothing_else() -> None:
    assert {*FOLLOWED, *NOT_FOLLOWED} <= {*codes()}
    assert all(len(reason) > 20 for reason in NOT_FOLLOWED.values())


def test_the_tests_that_are_named_exist_and_bring_the_code_up() -> None:
    for code, test in FOLLOWED.items():
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file(), f"{code}: {file}"
        assert name in _tests_in(file), f"{code}: {name} is not in {file}"
        assert any(code in text for text in _tests_in(file)[name]), f"{code}: {name} does not bring it up"


def test_the_files_that_reasons_name_exist() -> None:
    for code, reason in NOT_FOLLOWED.items():
        for named in re.findall(r"tests/[\w/]+(?:\.py)?", reason):
            assert (ROOT / named).exists(), f"{code}: {named}"


def test_parts_that_are_not_written_out_are_few() -> None:
    """The checks above see what is written in the code; remedies that come from somewhere else are written there."""
    unseen = [each.where for each in TEXTS if each.text == PART]
    assert len(unseen) < len(TEXTS) / 5, unseen
