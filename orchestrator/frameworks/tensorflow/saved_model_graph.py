"""Walks the graph of a SavedModel and its functions: what reaches what, and where a value comes from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Graphs", "Place"]

_PASSES_ON = frozenset({"Identity", "PlaceholderWithDefault"})
_USES_OF_A_VARIABLE = frozenset({"AssignVariableOp", "ReadVariableOp", "VarIsInitializedOp"})
_FIRST_ARGUMENT = {"PartitionedCall": 0, "StatefulPartitionedCall": 0, "If": 1, "StatelessIf": 1, "Case": 1, "While": 0}
"""Operator that calls functions → its first input that becomes an argument of theirs."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node of the graph, or of one of its functions."""

    function: str
    node: str

    def __str__(self) -> str:
        return f"`{self.node}` of the function `{self.function}`" if self.function else f"`{self.node}`"


class Graphs:
    """The nodes of a MetaGraphDef and of its functions.

    Attributes:
        functions: name → FunctionDef.
        entry_functions: the functions that the loaded object calls.
    """

    def __init__(self, meta_graph: Any) -> None:
        self.functions: Mapping[str, Any] = {f.signature.name: f for f in meta_graph.graph_def.library.function}
        self._nodes: dict[str, dict[str, Any]] = {"": {node.name: node for node in meta_graph.graph_def.node}}
        for name, function in self.functions.items():
            self._nodes[name] = {node.name: node for node in function.node_def}
        objects = meta_graph.object_graph_def
        self.entry_functions = frozenset(objects.concrete_functions)
        self._bound = {
            name: [objects.nodes[index].WhichOneof("kind") for index in function.bound_inputs]
            for name, function in objects.concrete_functions.items()
        }
        self._callers: dict[str, list[tuple[Place, Any]]] = defaultdict(list)
        for place, node in self.nodes():
            for called in self._called(node):
                self._callers[called].append((place, node))

    def nodes(self) -> Iterator[tuple[Place, Any]]:
        """Every node, those of the graph itself first."""
        for function, nodes in self._nodes.items():
            for name, node in nodes.items():
                yield Place(function, name), node

    def reached(self, references: Iterable[str]) -> frozenset[Place]:
        """Every node that these tensors or operations of the graph itself depend on, whole functions included."""
        waiting = [_node_name(reference) for reference in references]
        seen: set[str] = set()
        called: set[str] = set()
        while waiting:
            name = waiting.pop()
            node = self._nodes[""].get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            called.update(self._called(node))
            waiting.extend(_node_name(reference) for reference in node.input)
        return frozenset(Place("", name) for name in seen) | self.reached_functions(called)

    def reached_functions(self, names: Iterable[str]) -> frozenset[Place]:
        """Every node of these functions and of those that they call."""
        waiting = list(names)
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in seen or name not in self.functions:
                continue
            seen.add(name)
            for node in self._nodes[name].values():
                waiting.extend(self._called(node))
        return frozenset(Place(name, node) for name in seen for node in self._nodes[name])

    def origins(self, place: Place, reference: str, fed: frozenset[str]) -> frozenset[str]:
        """Where an input of a node comes from, through all that only passes it on.

        Args:
            place: the node.
            reference: its input, as the graph names it.
            fed: tensors of the graph itself that are fed, and so are the end of the way.

        Returns:
            Names out of `fed`, `asset` for a file of the loaded object, and `elsewhere` for all else.
        """
        found: set[str] = set()
        seen: set[tuple[str, str]] = set()
        waiting = [(place.function, reference)]
        while waiting:
            function, reference = waiting.pop()
            if (function, reference) in seen:
                continue
            seen.add((function, reference))
            tensor = reference if ":" in reference else f"{reference}:0"
            node = self._nodes[function].get(_node_name(reference))
            if not function and tensor in fed:
                found.add(tensor)
            elif node is not None:
                sources = self._sources(function, node)
                waiting.extend((function, source) for source in sources)
                if not sources:
                    found.add("elsewhere")
            else:
                found |= self._given(function, reference, waiting)
        return frozenset(found)

    def _sources(self, function: str, node: Any) -> list[str]:
        """Those inputs of nodes of the same graph whose value this node has unchanged; none where that is not known."""
        if node.op in _PASSES_ON:
            return [node.input[0]]
        if node.op != "ReadVariableOp" or function:
            return []
        # TensorFlow 2 puts the path of an asset into a variable first, which nothing else may write to.
        handle = self._nodes[""].get(_node_name(node.input[0]))
        if handle is None or handle.op != "VarHandleOp":
            return []
        names = [other.attr["shared_name"].s for _, other in self.nodes() if other.op == "VarHandleOp"]
        users = [n for n in self._nodes[""].values() if handle.name in map(_node_name, n.input)]
        if names.count(handle.attr["shared_name"].s) > 1 or {user.op for user in users} - _USES_OF_A_VARIABLE:
            return []
        return [user.input[1] for user in users if user.op == "AssignVariableOp"]

    def _given(self, function: str, argument: str, waiting: list[tuple[str, str]]) -> set[str]:
        """What the loaded object gives for an argument of a function; what other functions give is put into `waiting`."""
        if function not in self.functions:
            return {"elsewhere"}
        arguments = [given.name for given in self.functions[function].signature.input_arg]
        if argument not in arguments:
            return {"elsewhere"}
        index = arguments.index(argument)
        found: set[str] = set()
        if function in self.entry_functions:
            bound = self._bound[function]
            captured = index - (len(arguments) - len(bound))
            found.add("asset" if captured >= 0 and bound[captured] == "asset" else "elsewhere")
        for caller, node in self._callers[function]:
            first = _FIRST_ARGUMENT.get(node.op, 0 if node.op == function else None)
            inputs = [reference for reference in node.input if not reference.startswith("^")]
            if first is None or first + index >= len(inputs):
                found.add("elsewhere")
            else:
                waiting.append((caller.function, inputs[first + index]))
        return found

    def _called(self, node: Any) -> Iterator[str]:
        if node.op in self.functions:
            yield node.op
        for value in node.attr.values():
            if value.HasField("func"):
                yield value.func.name
            for function in value.list.func:
                yield function.name


def _node_name(reference: str) -> str:
    return reference.removeprefix("^").partition(":")[0]
