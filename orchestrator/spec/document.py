"""A YAML file and its tree: plain data, and the place of every path in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.diagnostics import Diagnostic, Span
from orchestrator.spec.source_text import SourceText, read_source
from orchestrator.spec.yaml_tree import Entry, Layer, Node, parse_tree

__all__ = ["Found", "SpecDocument", "SpecPath", "find", "read_document", "span_of"]

SpecPath = tuple[str | int, ...]
"""A way into a document: keys and indices."""


@dataclass(frozen=True, slots=True)
class Found:
    """The deepest node on a path that exists.

    Attributes:
        node: that node.
        entry: the key that leads to it; None at the root and in lists.
        owner: the nearest key at or above it; None at the root.
        depth: how many segments of the path were walked.
    """

    node: Node
    entry: Entry | None
    owner: Entry | None
    depth: int


def find(root: Node, path: SpecPath) -> Found:
    """Walk `path` from `root` as far as it exists."""
    node, entry, owner, depth = root, None, None, 0
    for segment in path:
        below = node.child(segment)
        if below is None:
            break
        entry = node.entries[segment] if node.entries is not None and isinstance(segment, str) else None
        owner = entry or owner
        node, depth = below, depth + 1
    return Found(node, entry, owner, depth)


def span_of(root: Node, path: SpecPath, *, key: bool = False) -> Span:
    """The place of the deepest existing node on `path`, or of the key that leads to it.

    A node that spans lines is shown by its key, since a caret under the first of many lines says little.
    """
    found = find(root, path)
    whole = found.node.span
    if found.owner is None:
        first = next(iter((found.node.entries or {}).values()), None)
        return whole if first is None else first.span
    if key:
        return found.owner.span
    if whole.end_line == whole.line and whole.end_column > whole.column:
        return whole
    return found.entry.span if found.entry is not None else _first_line(whole)


def _first_line(whole: Span) -> Span:
    """The first line of a list element that spans several lines or is empty."""
    end = len(whole.text.rstrip()) + 1
    return Span(whole.file, whole.line, whole.column, whole.line, max(end, whole.column + 1), whole.text)


@dataclass(frozen=True, slots=True)
class SpecDocument:
    """One file as it was read.

    Attributes:
        source: its text; `source.file` is its name as given by the user.
        root: the tree.
        problems: problems that did not prevent parsing (duplicate keys, ambiguous values).
    """

    source: SourceText
    root: Node
    problems: tuple[Diagnostic, ...]

    @property
    def file(self) -> str:
        """The file's name as shown to the user."""
        return self.source.file

    @property
    def text(self) -> str:
        """The file's text."""
        return self.source.text

    @property
    def data(self) -> dict[str, Any]:
        """Plain Python values; treat them as read-only."""
        data: dict[str, Any] = self.root.data
        return data

    def span(self, path: SpecPath, *, key: bool = False) -> Span:
        """The place of the deepest existing node on `path`; of its key where `key` is set."""
        return span_of(self.root, path, key=key)


def read_document(path: str | Path, layer: Layer, shown: str | None = None) -> SpecDocument:
    """Read and parse one YAML file.

    Args:
        path: the file.
        layer: where its values come from, as in `Node.layer`.
        shown: the file's name in messages; by default `path`.

    Raises:
        SpecInvalid: the file cannot be read or is not a YAML mapping.
    """
    source = read_source(path, shown)
    root, problems = parse_tree(source, layer)
    return SpecDocument(source, root, tuple(problems))
