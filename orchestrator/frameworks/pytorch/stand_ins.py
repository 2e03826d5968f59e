"""Dictionaries in place of classes that a program's inputs or outputs are of, such as the Transformers library's outputs.

An exported program names these classes, and PyTorch needs them registered to load it. What they hold is known from the file: the
names of their fields. So a program loads without the code that defines them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils import _pytree as pytree

__all__ = ["StandIn", "as_dictionaries", "class_without_stand_in", "register_stand_ins"]

_CLASS_NAME = re.compile(r"[A-Za-z_][\w.]*")


class StandIn(dict[str, Any]):
    """The fields of an object by name, in order.

    Attributes:
        context: what PyTorch keeps of the object besides the fields' values.
    """

    context: Any = None


def register_stand_ins(structure: str) -> None:
    """Register a dictionary for each class of a structure that is not registered in this process.

    Args:
        structure: as `torch.export.save` writes that of inputs or outputs.
    """
    for name, fields in _unknown(structure):
        if fields is not None and name not in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE:
            _register(name)


def class_without_stand_in(structure: str) -> str | None:
    """The first class of a structure that is neither registered nor described by the names of its fields; None if all are."""
    return next((name for name, fields in _unknown(structure) if fields is None), None)


def as_dictionaries(value: Any) -> Any:
    """The value with plain dictionaries in place of stand-ins, so that an export of it names no class."""
    if isinstance(value, StandIn):
        return {name: as_dictionaries(each) for name, each in value.items()}
    if type(value) is dict:
        return {key: as_dictionaries(each) for key, each in value.items()}
    if type(value) in {list, tuple}:
        return type(value)(map(as_dictionaries, value))
    return value


def _register(name: str) -> None:
    made = type(name.rpartition(".")[2], (StandIn,), {"__doc__": f"In place of {name}."})

    def taken_apart(value: StandIn) -> tuple[list[Any], Any]:
        return list(value.values()), value.context

    def put_together(values: Any, context: Any) -> StandIn:
        whole: StandIn = made(zip(_fields(context) or (), values, strict=True))
        whole.context = context
        return whole

    pytree.register_pytree_node(made, taken_apart, put_together, serialized_type_name=name)


def _unknown(structure: str) -> Iterator[tuple[str, Sequence[str] | None]]:
    """The classes that are not registered, with the names of their fields if these are known."""
    waiting = [json.loads(structure)[1]]
    while waiting:
        node = waiting.pop()
        waiting += node["children_spec"]
        name = node["type"]
        if name is None or name in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE:
            continue
        fields = _fields(json.loads(node["context"])) if isinstance(node["context"], str) else None
        known = fields is not None and len(fields) == len(node["children_spec"]) and _CLASS_NAME.fullmatch(name)
        yield str(name), fields if known else None


def _fields(context: Any) -> Sequence[str] | None:
    """The names of fields: a list of them, or for a dataclass the list of those that have a value and that of the others."""
    if isinstance(context, list) and len(context) == 2 and all(isinstance(part, list) for part in context):
        context = context[0]
    if isinstance(context, list) and all(isinstance(part, str) for part in context) and len({*context}) == len(context):
        return context
    return None
