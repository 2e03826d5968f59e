"""Validates trees of values with pydantic and turns its errors into diagnostics with line numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.diagnostics import Diagnostic
from orchestrator.spec.document import SpecPath
from orchestrator.spec.places import Place, Schema, did_you_mean, nearest, words_allowed
from orchestrator.spec.redacted import redacted
from orchestrator.spec.scalars import LOOKS_BOOLEAN
from orchestrator.spec.types import EXPECTS
from orchestrator.spec.yaml_tree import Node, quoted

__all__ = ["in_order", "validated"]

_LIMIT = 50  # diagnostics shown at once; a file with more is probably the wrong file
_Model = TypeVar("_Model", bound=BaseModel)
_Error = Any  # pydantic_core's ErrorDetails, whose keys differ with its type

_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "`true` or `false`",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "model_attributes_type": "a mapping of keys to values",
}
_BOUNDS = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def validated(root: Node, model: type[_Model], schema: Callable[[], Schema]) -> tuple[_Model | None, list[Diagnostic]]:
    """Validate a tree.

    Args:
        root: the values.
        model: the pydantic model.
        schema: returns the model's JSON schema; called only if there are errors.

    Returns:
        The model, or None with at least one diagnostic.
    """
    try:
        return model.model_validate(root.data), []
    except ValidationError as error:
        # A file with thousands of errors is the wrong file: looking at enough to fill the screen will do.
        errors = error.errors(include_url=False)[: 4 * _LIMIT]
    places = [(Place.of(each["loc"], root, schema()), each) for each in errors]
    misspelled = _misspelled(places, root, schema())
    found = []
    for place, each in places:
        if each["type"] == "missing" and (place.parent.path, place.path[-1]) in misspelled:
            continue  # the key is present but misspelled, which is reported
        found.append(_diagnostic(place, each, root, schema()))
    return None, found


def in_order(diagnostics: list[Diagnostic]) -> list[Diagnostic]:
    """The diagnostics sorted by position, without duplicates; if there are too many, errors are kept before warnings."""
    once = sorted(dict.fromkeys(diagnostics), key=lambda d: (d.severity, _place(d)))
    shown = sorted(once[:_LIMIT], key=_place)
    if len(once) > _LIMIT:
        more = f"more: {len(once) - _LIMIT} more problems are not shown"
        shown[-1] = replace(shown[-1], notes=(*shown[-1].notes, more))
    return shown


def _place(diagnostic: Diagnostic) -> tuple[str, int, int]:
    span = diagnostic.span
    return ("", 0, 0) if span is None else (span.file, span.line, span.column)


def _misspelled(places: list[tuple[Place, _Error]], root: Node, schema: Schema) -> set[tuple[SpecPath, str | int]]:
    """Which missing keys are present under a misspelled name."""
    found: set[tuple[SpecPath, str | int]] = set()
    for place, error in places:
        if error["type"] == "extra_forbidden":
            near = nearest(place.path[-1], _free_keys(place, root, schema))
            if near is not None:
                found.add((place.parent.path, near))
    return found


def _free_keys(place: Place, root: Node, schema: Schema) -> list[str]:
    """The keys allowed beside an unknown key that its own layer does not set yet."""
    around = _around(place, root, schema)
    present = around.found.node.entries or {}
    layer = place.found.node.layer
    return [key for key in around.properties if key not in present or present[key].value.layer != layer]


def _around(place: Place, root: Node, schema: Schema) -> Place:
    """The mapping around a place, with its schema; in a union, the member that the mapping selects."""
    around = Place.of(place.path[:-1], root, schema)
    for arm in around.arms:
        union = arm.get("discriminator")
        if union is not None:
            kind = around.found.node.child(union["propertyName"])
            if kind is not None and kind.data in union["mapping"]:
                return Place.of((*place.path[:-1], kind.data), root, schema)
    return around


def _diagnostic(place: Place, error: _Error, root: Node, schema: Schema) -> Diagnostic:
    kind, context = error["type"], error.get("ctx", {})
    node = place.found.node
    if kind == "extra_forbidden":
        return _unknown_key(place, root, schema)
    if kind == "missing":
        return _missing(place.parent, str(place.path[-1]), place.example)
    if kind == "union_tag_not_found":
        key = str(context["discriminator"]).strip("'")
        return _missing(place, key, place.example and place.example.get(key))
    if kind == "union_tag_invalid":
        key = str(context["discriminator"]).strip("'")
        tag = Place.of((*place.path, key), root, schema)
        return _not_one_of(tag, words_allowed(tag.arms), "")
    if place.on_key:
        return _bad_key(place, error)
    if node.data is None:
        return Diagnostic(
            "E104",
            f"`{place.name}` has no value",
            place.span(key=True),
            label="the value is missing",
            remedy=_value_to_add(place, root, schema),
        )
    if kind in {"literal_error", "enum"}:
        return _not_one_of(place, words_allowed(place.arms), _list_of(place))
    if kind in _TYPES:
        return _wrong_type(place, _TYPES[kind])
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        message = f"`{place.name}` must be {words} {context[key]:g}, not {_shown(node)}"
        return Diagnostic("E106", message, place.span())
    if kind in {"too_short", "too_long"}:
        words, count = (
            ("at least", context["min_length"]) if kind == "too_short" else ("at most", context["max_length"])
        )
        entries = "entry" if count == 1 else "entries"
        message = f"`{place.name}` must have {words} {count} {entries}, not {len(node.data)}"
        return Diagnostic("E107", message, place.span())
    if kind == "remote_path":
        return Diagnostic(
            "E125",
            f"`{place.name}` is not a file on this machine",
            place.span(),
            label="mlo does not download files",
            remedy="download the file and write its path here, absolute or relative to the spec",
        )
    return _malformed(place, error)


def _unknown_key(place: Place, root: Node, schema: Schema) -> Diagnostic:
    key = str(place.path[-1])
    if (kind := _missing_kind(place, root, schema)) is not None:
        return Diagnostic(
            "E101",
            f"unknown key {quoted(key)}",
            place.span(key=True),
            label=f"`{kind}` is missing",
            remedy=f"add `{kind}`; {quoted(key)} is a key of that kind",
        )
    label = did_you_mean(key, _free_keys(place, root, schema))
    if not label:
        sections = Place.of((), root, schema).properties
        home = next((s for s in sections if key in Place.of((s,), root, schema).properties), None)
        elsewhere = home is not None and place.path[:-1] != (home,)
        label = f"did you mean `{home}: {{{key}: ...}}`?" if elsewhere and place.path[:-1] == () else ""
    allowed = ", ".join(_around(place, root, schema).properties)
    remedy = "" if label else f"allowed here: {allowed}" if allowed else "remove it"
    return Diagnostic("E101", f"unknown key {quoted(key)}", place.span(key=True), label=label, remedy=remedy)


def _missing_kind(place: Place, root: Node, schema: Schema) -> str | None:
    """The kind that the key belongs to, such as `target: folder`, if the mapping omits its kind and another is assumed."""
    around = Place.of(place.path[:-1], root, schema)
    for arm in around.arms:
        union = arm.get("discriminator", {})
        name, mapping = union.get("propertyName"), union.get("mapping", {})
        if name is None or around.found.node.child(name) is not None:
            continue
        for kind in mapping:
            if place.path[-1] in Place.of((*place.path[:-1], kind), root, schema).properties:
                return f"{name}: {kind}"
    return None


def _value_to_add(place: Place, root: Node, schema: Schema) -> str:
    required = any(place.path[-1] in arm.get("required", ()) for arm in _around(place, root, schema).arms)
    if not required:
        return "add a value, or remove the key"
    return (
        "add a value" if place.example is None else f"add a value, such as `{place.path[-1]}: {_flow(place.example)}`"
    )


def _missing(container: Place, key: str, example: Any) -> Diagnostic:
    line = f"{key}: {_flow(example)}"
    return Diagnostic("E102", f"missing key `{key}`", container.span(), label=f"add `{line}`")


def _flow(example: Any) -> str:
    """An example as it would be written in the file."""
    if example is None:
        return "..."
    if isinstance(example, dict):
        return "{" + ", ".join(f"{key}: {_flow(value)}" for key, value in example.items()) + "}"
    if isinstance(example, list):
        return "[" + ", ".join(_flow(value) for value in example) + "]"
    return example if isinstance(example, str) else json.dumps(example)


def _list_of(place: Place) -> str:
    """The allowed items, if a list is allowed here: `fp32, bf16`."""
    for arm in place.arms:
        if arm.get("type") == "array":
            return ", ".join(words_allowed([arm.get("items", {})]))
    return ""


def _not_one_of(place: Place, words: list[str], in_list: str) -> Diagnostic:
    node = place.found.node
    listed = in_list.split(", ") if in_list else []
    options = ", ".join(words) + (f", or a list of {in_list}" if in_list else "")
    if len(words) == 1 and not in_list:
        message = f"`{place.name}` must be `{words[0]}`, not {_shown(node)}"
    else:
        message = f"{_shown(node)} is not one of {options}"
    label = did_you_mean(node.data, words)
    if not label and (near := nearest(node.data, listed)) is not None:
        label = f"did you mean `[{near}]`?"
    return Diagnostic("E103", message, place.span(), label=label)


def _wrong_type(place: Place, expected: str) -> Diagnostic:
    node = place.found.node
    words = words_allowed(place.arms)
    text_too = any(arm.get("type") == "string" and "pattern" in arm for arm in place.arms) and expected != "text"
    if "mapping" in expected and any(arm.get("type") == "number" for arm in place.arms):
        expected = f"a number or {expected}"
    either = expected + "".join(f" or `{word}`" for word in words) + (" or a name" if text_too else "")
    label = ""
    if expected == "text" and node.entries is None and node.items is None:
        label = f'to make it text, put quotes around it: "{node.raw}"'
    elif expected == "a list" and node.entries is None and isinstance(node.data, str | int | float):
        label = f"for a list with one entry, write `[{redacted(node.raw)}]`" if len(node.raw) < 40 else ""
    elif expected == "`true` or `false`" and node.data in LOOKS_BOOLEAN:
        label = f"did you mean `{'true' if node.data in {'yes', 'on', 'y'} else 'false'}`?"
    elif "number" in expected and isinstance(node.data, str) and not node.plain:
        label = "a value in quotes is text, not a number"
    return Diagnostic("E104", f"`{place.name}` must be {either}, not {_shown(node)}", place.span(), label=label)


def _shown(node: Node) -> str:
    """A value as the user wrote it."""
    if node.entries is not None or node.items is not None:
        return "a list" if node.entries is None else "a mapping"
    if node.data is None:
        return "nothing"
    return quoted(node.raw if node.plain else node.data)


def _bad_key(place: Place, error: _Error) -> Diagnostic:
    key = str(place.path[-1])
    if error["type"] == "literal_error":
        words = [word.strip(" '") for word in str(error["ctx"]["expected"]).replace(" or ", ",").split(",")]
        message = f"{quoted(key)} is not one of {', '.join(words)}"
        return Diagnostic("E103", message, place.span(), label=did_you_mean(key, words))
    expected = EXPECTS.get(error.get("ctx", {}).get("pattern", ""), error["msg"])
    return Diagnostic(
        "E105", f"{quoted(key)} is not a valid key of `{place.parent.name}`", place.span(), f"use {expected}"
    )


def _malformed(place: Place, error: _Error) -> Diagnostic:
    """A value of the right type but in the wrong form."""
    node, context = place.found.node, error.get("ctx", {})
    if error["type"] == "string_pattern_mismatch":
        expected = f"expected {EXPECTS.get(context['pattern'], context['pattern'])}"
        folded = str(node.data).strip().lower().replace("_", "-").replace(" ", "-")
        if folded != node.data and place.name == "name" and folded.isascii() and folded.replace("-", "").isalnum():
            expected = f"did you mean `{folded}`?"
            remedy = f"use {EXPECTS[context['pattern']]}"
            return Diagnostic(
                "E105", f"{_shown(node)} is not a valid value for `{place.name}`", place.span(), expected, remedy=remedy
            )
    elif error["type"] == "value_error":
        expected = str(context["error"])
    elif error["type"] == "string_too_long":
        expected = f"expected at most {context['max_length']} characters"
    else:
        expected = str(error["msg"])
    return Diagnostic("E105", f"{_shown(node)} is not a valid value for `{place.name}`", place.span(), label=expected)
