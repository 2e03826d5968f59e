"""Follows integer inputs through a graph to the tables that they look up, whose size is the range of their ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.frameworks.source.samples import IntegerRange

__all__ = ["Lookup", "Passes", "shown_ids"]


@dataclass(frozen=True, slots=True)
class Passes:
    """A node whose outputs hold the integers of its inputs: a cast, another shape, some of them."""

    inputs: Sequence[str]
    outputs: Sequence[str]


@dataclass(frozen=True, slots=True)
class Lookup:
    """A node that takes the integers in `ids` for positions among `size` entries."""

    ids: str
    size: int


def shown_ids(nodes: Iterable[Passes | Lookup], inputs: Mapping[str, str]) -> dict[str, IntegerRange]:
    """The ids of each input that is looked up in a table; of the smallest one, if there are several.

    Args:
        nodes: of the graph, in any order.
        inputs: the graph's name of each input → the spec's.
    """
    known = list(nodes)
    holds: dict[str, set[str]] = {own: {name} for own, name in inputs.items()}
    changed = True
    while changed:
        changed = False
        for node in known:
            if not isinstance(node, Passes):
                continue
            found = set().union(*(holds.get(name, set()) for name in node.inputs))
            for name in node.outputs:
                if not found <= holds.get(name, set()):
                    holds[name] = holds.get(name, set()) | found
                    changed = True
    sizes: dict[str, int] = {}
    for node in known:
        if isinstance(node, Lookup) and node.size > 0:
            for name in holds.get(node.ids, ()):
                sizes[name] = min(node.size, sizes.get(name, node.size))
    return {name: IntegerRange(0, size - 1) for name, size in sizes.items()}
