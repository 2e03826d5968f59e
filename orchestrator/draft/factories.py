"""Classes that may build a PyTorch model's architecture, found by reading Python files without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

__all__ = ["module_classes"]

_MOST_FILES = 50
_LARGEST = 2**20
_SHOWN = 3


def module_classes(folder: Path) -> list[str]:
    """`module:Class` of PyTorch modules in files beside a spec; at most a few, the last of each file first.

    The outermost module of a file is usually at its end, after its parts.
    """
    found: list[str] = []
    for file in sorted(folder.glob("*.py"))[:_MOST_FILES]:
        if file.stem.isidentifier() and file.is_file() and file.stat().st_size <= _LARGEST:
            found += [f"{file.stem}:{name}" for name in reversed(list(_classes(file)))]
    return found[:_SHOWN]


def _classes(file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # Python could not import it either
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any(_last_name(base).endswith("Module") for base in node.bases):
            yield node.name


def _last_name(base: ast.expr) -> str:
    if isinstance(base, ast.Attribute):
        return base.attr
    return base.id if isinstance(base, ast.Name) else ""
