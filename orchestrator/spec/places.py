"""Maps pydantic's error locations to the tree of values and to the schema for that location."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.diagnostics import Span
from orchestrator.spec.document import Found, SpecPath, find, span_of
from orchestrator.spec.yaml_tree import Node

__all__ = ["Place", "Schema", "did_you_mean", "nearest", "words_allowed"]

Schema = dict[str, Any]


def nearest(word: object, options: Iterable[str]) -> str | None:
    """The option that `word` is most likely a misspelling of."""
    if not isinstance(word, str) or len(word) > 100:
        return None
    import difflib  # noqa: PLC0415 - only for a mistake

    folded = word.lower().replace("_", "-")
    best, best_ratio = None, 0.6  # difflib's own cut-off for a close match
    for option in options:
        ratio = difflib.SequenceMatcher(a=folded, b=option.lower().replace("_", "-")).ratio()
        if ratio > best_ratio:  # ties go to the first option, so that common options can be listed first
            best, best_ratio = option, ratio
    return best


def did_you_mean(word: object, options: Iterable[str]) -> str:
    """The hint for the label; empty if nothing is close."""
    near = nearest(word, options)
    return "" if near is None else f"did you mean `{near}`?"


def _arms(schema: Schema, definitions: Schema) -> Iterator[Schema]:
    """The schema itself, or the schemas that it refers to, including each member of a union."""
    if "$ref" in schema:
        yield from _arms(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return
    yield schema
    for key in ("anyOf", "oneOf", "allOf"):
        for arm in schema.get(key, ()):
            yield from _arms(arm, definitions)


def words_allowed(schemas: Iterable[Schema]) -> list[str]:
    """The words that the schemas allow."""
    words: dict[str, None] = {}
    for schema in schemas:
        options = [*schema.get("enum", ()), *([schema["const"]] if "const" in schema else ())]
        words |= dict.fromkeys(option for option in options if isinstance(option, str))
    return list(words)


@dataclass(frozen=True)
class Place:
    """One location of an error.

    Attributes:
        root: the tree.
        path: the location without the segments that pydantic adds.
        arms: the schemas that apply to a value there.
        on_key: whether the key is wrong rather than its value.
    """

    root: Node
    path: SpecPath
    arms: list[Schema]
    on_key: bool

    @staticmethod
    def of(loc: SpecPath, root: Node, schema: Schema) -> Place:
        """Follow pydantic's `loc` through the tree and the schema in parallel."""
        definitions: Schema = schema.get("$defs", {})
        arms = list(_arms(schema, definitions))
        path: list[str | int] = []
        on_key = False
        for segment in loc:
            if segment == "[key]":
                on_key = True
                continue
            tagged = _tagged(arms, segment)
            if tagged is not None:
                arms = list(_arms(tagged, definitions))
            elif not (
                isinstance(segment, str) and segment.startswith("(")
            ):  # "(text)" and "(other)" tag the members of a union
                path.append(segment)
                arms = [arm for below in _below(arms, segment) for arm in _arms(below, definitions)]
        return Place(root, tuple(path), arms, on_key)

    @property
    def found(self) -> Found:
        """The deepest existing node on the path."""
        return find(self.root, self.path)

    @property
    def parent(self) -> Place:
        """The mapping or list around it; its schema is not known."""
        return Place(self.root, self.path[:-1], [], on_key=False)

    @property
    def name(self) -> str:
        """The last key of the path that exists, with indices: `shape[0]`."""
        name = ""
        existing = self.path[: self.found.depth] or self.path
        for segment in reversed(existing):
            if isinstance(segment, str):
                return segment + name
            name = f"[{segment}]" + name
        return name or "the file"

    @property
    def properties(self) -> list[str]:
        """The keys allowed in a mapping here."""
        return list(dict.fromkeys(key for arm in self.arms for key in arm.get("properties", ())))

    @property
    def example(self) -> Any:
        """An example value for this place, or None."""
        for arm in self.arms:
            if arm.get("examples"):
                return arm["examples"][0]
        return next(iter(words_allowed(self.arms)), None)

    def span(self, *, key: bool = False) -> Span:
        """The position of the value, or of its key."""
        return span_of(self.root, self.path, key=key or self.on_key)


def _tagged(arms: list[Schema], segment: str | int) -> Schema | None:
    for arm in arms:
        mapping = arm.get("discriminator", {}).get("mapping", {})
        if segment in mapping:
            return {"$ref": mapping[segment]}
    return None


def _below(arms: list[Schema], segment: str | int) -> Iterator[Schema]:
    for arm in arms:
        if isinstance(segment, int):
            if isinstance(arm.get("items"), dict):
                yield arm["items"]
        elif segment in arm.get("properties", {}):
            yield arm["properties"][segment]
        else:
            yield from arm.get("patternProperties", {}).values()
