"""All that the code says to do: remedies in messages, also those put together from parts, and the paragraphs of the catalogue."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orchestrator
from orchestrator.spec.catalogue import codes

__all__ = ["PART", "Text", "all_texts"]

ROOT = Path(orchestrator.__file__).parent

PART = "\N{HORIZONTAL ELLIPSIS}"
"""Stands for a part that is only known when the message is made."""

_DIAGNOSTICS = {"Diagnostic", "StepError", "Finding", "Unavailable", "refuse_on", "replace"}


@dataclass(frozen=True)
class Text:
    """One text, and where it stands."""

    where: str
    text: str


def all_texts() -> Iterator[Text]:
    """Each of them."""
    for code, (_, paragraph) in codes().items():
        yield Text(f"the catalogue's {code}", paragraph)
    for path in sorted(ROOT.rglob("*.py")):
        if "server" in path.relative_to(ROOT).parts[:1]:
            continue  # it has no remedies: it is the other side of the wire
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = _named_texts(tree)
        for node in ast.walk(tree):
            for expression in _remedies(node):
                for text in _texts(expression, names):
                    yield Text(f"{path.relative_to(ROOT.parent)}:{expression.lineno}", text)


def _remedies(node: ast.AST) -> Iterator[ast.expr]:
    """The expressions that become a remedy: arguments called so, variables and functions named so, and members of results."""
    match node:
        case ast.Call():
            yield from (each.value for each in node.keywords if each.arg in ("remedy", "label"))
        case ast.Assign(targets=[ast.Name(id=name)]) if "remedy" in name.lower():
            yield node.value
        case ast.FunctionDef() if "remedy" in node.name or node.name.startswith(("_more_time", "_widen")):
            yield from (
                each.value for each in ast.walk(node) if isinstance(each, ast.Return) and each.value is not None
            )


def _named_texts(tree: ast.Module) -> dict[str, ast.expr]:
    return {
        target.id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def _texts(node: ast.expr, names: dict[str, ast.expr]) -> list[str]:
    """The texts that an expression may be, with `PART` for what is not written in the code."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.JoinedStr():
            texts = [""]
            for value in node.values:
                more = [PART] if isinstance(value, ast.FormattedValue) else _texts(value, names)
                texts = [before + after for before in texts for after in more]
            return texts
        case ast.BinOp(op=ast.Add()):
            return [one + other for one in _texts(node.left, names) for other in _texts(node.right, names)]
        case ast.IfExp():
            return [*_texts(node.body, names), *_texts(node.orelse, names)]
        case ast.BoolOp(op=ast.Or()):
            return [text for value in node.values for text in _texts(value, names)]
        case ast.Name(id=name) if name in names:
            return _texts(names[name], names)
        case _:
            return [PART]
