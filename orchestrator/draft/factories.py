"""Classes that may build a PyTorch model's architecture, found by reading Python files without running them."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FoundClasses", "module_classes"]

_MOST_FILES = 50
_LARGEST = 2**20
_SHOWN = 3
_LEVELS_UP = 3
_PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg")


@dataclass(frozen=True, slots=True)
class FoundClasses:
    """Classes of PyTorch modules near a spec.

    Attributes:
        names: `module:Class`, at most a few.
        root: the folder that their modules are imported from, relative to the spec's; empty for the spec's own folder.
    """

    names: tuple[str, ...] = ()
    root: str = ""


def module_classes(folder: Path) -> FoundClasses:
    """The classes in files beside a spec, or else in the packages of the `src` folder of the project that it is in.

    The last of each file comes first: the outermost module of a file is usually at its end, after its parts.
    """
    if beside := _names(folder, sorted(folder.glob("*.py"))):
        return FoundClasses(beside)
    here = folder.resolve()
    for base in (here, *here.parents[:_LEVELS_UP]):
        source = base / "src"
        if source.is_dir() and any((base / name).is_file() for name in _PROJECT_FILES):
            names = _names(source, sorted(source.rglob("*.py"), key=lambda file: (len(file.parts), file)))
            return FoundClasses(names, Path(os.path.relpath(source, here)).as_posix() if names else "")
    return FoundClasses()


def _names(root: Path, files: Sequence[Path]) -> tuple[str, ...]:
    found: list[str] = []
    for file in files[:_MOST_FILES]:
        parts = file.relative_to(root).with_suffix("").parts
        if all(part.isidentifier() for part in parts) and file.is_file() and file.stat().st_size <= _LARGEST:
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found += [f"{module}:{name}" for name in reversed(list(_classes(file))) if module]
    return tuple(found[:_SHOWN])


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
