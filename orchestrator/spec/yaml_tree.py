"""Parses YAML text into a tree of nodes with positions. Strict, size-limited, built in one pass over the parser's events."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import yaml

from orchestrator.diagnostics import Diagnostic, Span
from orchestrator.errors import SpecInvalid
from orchestrator.spec.redacted import redacted
from orchestrator.spec.scalars import AmbiguousScalarError, resolve
from orchestrator.spec.yaml_syntax import syntax_error

if TYPE_CHECKING:
    from orchestrator.spec.source_text import SourceText

__all__ = ["MAX_DEPTH", "MAX_NODES", "SPEC", "Entry", "Layer", "Node", "parse_tree", "quoted"]

MAX_DEPTH = 64
MAX_NODES = 20_000


@dataclass(frozen=True, slots=True)
class Layer:
    """Where a value comes from; `name` is the platform's file or the environment's name."""

    kind: Literal["spec", "platform", "environment"]
    name: str = ""

    def __str__(self) -> str:
        """As messages have it: `platform mlo-platform.yaml`."""
        return f"{self.kind} {self.name}".rstrip()


SPEC = Layer("spec")


@dataclass(frozen=True, slots=True)
class Node:
    """A scalar, a list or a mapping, with its position.

    Attributes:
        data: plain Python: text, numbers, booleans, None, lists, dicts with text keys. Treat it as read-only, since
            an alias shares it with its anchor.
        source: the file that contains it.
        layer: where it comes from.
        start, end: offsets into the file's text.
        plain: a scalar written without quotes.
        entries: a mapping's keys in order; None if this is not a mapping.
        items: a list's elements; None if this is not a list.
        size, height: number of nodes including this one, and of levels; an alias counts each time it is used.
    """

    data: Any
    source: SourceText
    layer: Layer
    start: int
    end: int
    plain: bool = False
    entries: dict[str, Entry] | None = None
    items: list[Node] | None = None
    size: int = 1
    height: int = 1

    @property
    def span(self) -> Span:
        """The position of the value."""
        return self.source.span(self.start, self.end)

    @property
    def line(self) -> int:
        """The line on which the value starts."""
        return self.source.line_of(self.start)

    @property
    def raw(self) -> str:
        """The value as it is written."""
        return self.source.text[self.start : self.end]

    def child(self, segment: str | int) -> Node | None:
        """The value below a key or at an index."""
        if self.entries is not None:
            entry = self.entries.get(segment) if isinstance(segment, str) else None
            return None if entry is None else entry.value
        if self.items is not None and isinstance(segment, int) and 0 <= segment < len(self.items):
            return self.items[segment]
        return None


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a mapping with its position, and its value."""

    key: str
    source: SourceText
    start: int
    end: int
    value: Node

    @property
    def span(self) -> Span:
        """The position of the key."""
        return self.source.span(self.start, self.end)


def quoted(value: object) -> str:
    """A user's value for a message: short, on one line, without control sequences and secrets."""
    text = redacted(str(value))
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"`{text}`" if text.isprintable() else f"`{text.encode('unicode_escape').decode('ascii')}`"


def parse_tree(source: SourceText, layer: Layer) -> tuple[Node, list[Diagnostic]]:
    """Parse one YAML document whose root is a mapping.

    Returns:
        The tree, and problems that did not prevent parsing: duplicate keys, ambiguous scalars, tags.

    Raises:
        SpecInvalid: it is not YAML, not a single mapping, or too large.
    """
    builder = _Builder(source, layer)
    try:
        for event in yaml.parse(source.text, Loader=yaml.CSafeLoader):
            builder.take(event)
    except yaml.YAMLError as error:
        raise SpecInvalid(syntax_error(source, error)) from None
    root = builder.root
    if root is None or (root.entries is None and root.data is None):
        raise SpecInvalid(
            Diagnostic(
                "E112", f"{source.file} is empty", remedy="start with the lines `apiVersion: mlo/v1` and `kind:`"
            )
        )
    if root.entries is None:
        raise SpecInvalid(
            Diagnostic(
                "E112",
                "the top level of the file is not a mapping",
                span=root.span,
                label="expected `apiVersion: mlo/v1`" if root.items is None else "a list starts here",
                remedy="write a spec as a mapping: lines of `key: value`",
            )
        )
    return root, builder.problems


@dataclass(slots=True)
class _Open:
    """A list or mapping that is still open."""

    start: int
    end: int
    anchor: str | None
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] | None = None
    merges: list[Node] = field(default_factory=list)
    key: tuple[str, int, int, bool] | None = None  # text, start, end, whether it is `<<`
    size: int = 1
    height: int = 1


class _Builder:
    """Handles parser events one by one, without recursion, so that deep nesting cannot exhaust the stack."""

    def __init__(self, source: SourceText, layer: Layer) -> None:
        self.root: Node | None = None
        self.problems: list[Diagnostic] = []
        self._source = source
        self._layer = layer
        self._stack: list[_Open] = []
        self._anchors: dict[str, Node | None] = {}  # None while the anchored value is still open
        self._documents = 0
        self._count = 0  # nodes so far; an alias counts each time it is used

    def take(self, event: yaml.Event) -> None:
        assert event.start_mark is not None
        assert event.end_mark is not None
        start, end = event.start_mark.index, event.end_mark.index
        if isinstance(event, yaml.ScalarEvent):
            self._check_tag(event.tag, start, end)
            self._scalar(event, start, end)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._check_tag(event.tag, start, end)
            self._open(event, start, end)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._close(start, end)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor or "", start, end)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._refuse("E112", "a second document starts here", start, end, "a file may contain one document",
                             "put it into a separate file")  # fmt: skip

    def _scalar(self, event: yaml.ScalarEvent, start: int, end: int) -> None:
        if self._wants_key():
            self._stack[-1].key = (event.value, start, end, event.value == "<<" and event.implicit[0])
            if not event.value:
                self._note("E113", "a key without a name", start, end, "write a name before the colon")
            return
        value: Any = event.value
        if event.implicit[0]:  # a plain scalar, neither quoted nor a block
            try:
                value = resolve(event.value)
            except AmbiguousScalarError as error:
                self._note("E113", f"{quoted(event.value)} {error.problem}", start, end, error.remedy)
        node = Node(value, self._source, self._layer, start, end, plain=event.implicit[0])
        self._count += 1
        self._finish(node, event.anchor)

    def _open(self, event: yaml.CollectionStartEvent, start: int, end: int) -> None:
        if self._wants_key():
            self._refuse("E113", "a key that is a list or a mapping", start, end, "keys are text", "write a plain name")
        if len(self._stack) >= MAX_DEPTH:
            self._too_deep(start, end)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        entries: dict[str, Entry] | None = {} if isinstance(event, yaml.MappingStartEvent) else None
        self._stack.append(_Open(start, end, event.anchor, entries=entries))

    def _close(self, start: int, end: int) -> None:
        done = self._stack.pop()
        self._count += 1
        # The end event of a block collection is at the next token, lines later; that of a flow collection at its bracket.
        last = end if end > start else done.end
        data: Any
        if done.entries is None:
            data = [item.data for item in done.items]
            node = Node(data, self._source, self._layer, done.start, last, items=done.items, size=done.size,
                        height=done.height)  # fmt: skip
        else:
            for key, entry in self._merged(done.merges).items():
                done.entries.setdefault(key, entry)
            data = {key: entry.value.data for key, entry in done.entries.items()}
            node = Node(data, self._source, self._layer, done.start, last, entries=done.entries, size=done.size,
                        height=done.height)  # fmt: skip
        self._finish(node, done.anchor)

    def _alias(self, anchor: str, start: int, end: int) -> None:
        node = self._anchors.get(anchor)
        if node is None:
            inside = anchor in self._anchors
            self._refuse("E113", f"{quoted('*' + anchor)} {'contains itself' if inside else 'has no anchor'}", start, end,
                         f"it is inside `&{anchor}`" if inside else f"no `&{anchor}` before this",
                         "write the value itself")  # fmt: skip
            return
        if self._wants_key():
            self._refuse("E113", "a key that is an alias", start, end, "keys are text", "write a plain name")
        self._count += node.size
        self._finish(node, None)

    def _finish(self, node: Node, anchor: str | None) -> None:
        """Attach a completed value: to the open key, the open list, or as the root."""
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._stack:
            self.root = node
            return
        parent = self._stack[-1]
        parent.size += node.size
        parent.height = max(parent.height, node.height + 1)
        parent.end = max(parent.end, node.end)
        if len(self._stack) + node.height > MAX_DEPTH:
            self._too_deep(node.start, node.end)
        if self._count > MAX_NODES:
            self._refuse("E111", f"more than {MAX_NODES:,} values (an alias counts each time it is used)",
                         node.start, node.end, "too many values from here on", "a spec has a few dozen; check that this is a spec")  # fmt: skip
        if parent.entries is None:
            parent.items.append(node)
            return
        assert parent.key is not None
        (key, start, end, merge), parent.key = parent.key, None
        if merge:
            self._merge(parent, node, start, end)
        elif (first := parent.entries.get(key)) is not None:
            where = f"first set on line {self._source.line_of(first.start)}"
            self._note("E108", f"duplicate key {quoted(key)}", start, end, "keep one of the two", where)
        else:
            parent.entries[key] = Entry(key, self._source, start, end, node)

    def _merge(self, parent: _Open, node: Node, start: int, end: int) -> None:
        merged = [node] if node.items is None else node.items
        if all(each.entries is not None for each in merged):
            parent.merges += merged
        else:
            self._note(
                "E113",
                "`<<` can only merge mappings",
                start,
                end,
                "use an `*alias` of a mapping, or a list of such aliases",
            )

    @staticmethod
    def _merged(merges: list[Node]) -> dict[str, Entry]:
        """The entries merged by `<<`; if two mappings have the same key, the earlier one wins."""
        chained = itertools.chain.from_iterable((each.entries or {}).items() for each in reversed(merges))
        return dict(chained)

    def _wants_key(self) -> bool:
        return bool(self._stack) and self._stack[-1].entries is not None and self._stack[-1].key is None

    def _check_tag(self, tag: str | None, start: int, end: int) -> None:
        if tag is not None and tag != "!":
            shown = tag.replace("tag:yaml.org,2002:", "!!")
            self._note(
                "E113",
                f"YAML tags such as {quoted(shown)} are not supported",
                start,
                end,
                "remove it; put quotes around text",
            )

    def _note(self, code: str, message: str, start: int, end: int, remedy: str, label: str = "") -> None:
        if len(self.problems) < 100:
            self.problems.append(Diagnostic(code, message, self._source.span(start, end), label=label, remedy=remedy))

    def _refuse(self, code: str, message: str, start: int, end: int, label: str, remedy: str) -> None:
        span = self._source.span(start, end)
        raise SpecInvalid(*self.problems, Diagnostic(code, message, span, label=label, remedy=remedy))

    def _too_deep(self, start: int, end: int) -> None:
        self._refuse("E111", f"nested more than {MAX_DEPTH} levels deep", start, end, "this level is too deep",
                     "a spec has fewer than ten levels; check the brackets")  # fmt: skip
