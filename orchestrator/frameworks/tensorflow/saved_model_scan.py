"""Refuses a SavedModel whose graph does more than compute: every node of every graph and function is looked at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.frameworks.source.expected_kind import AT_WEIGHTS
from orchestrator.frameworks.tensorflow.saved_model_graph import Graphs, Place
from orchestrator.frameworks.tensorflow.saved_model_ops import (
    ATTRIBUTES,
    SAVER_READS,
    SAVER_WRITES,
    TABLE_FILES,
    why_refused,
)
from orchestrator.steps import StepError

__all__ = ["refuse_effects"]

_SHOWN = 8
_REMEDIES = {
    "calls a function of the Python process that made the model": "replace tf.py_function and tf.numpy_function by "
    "TensorFlow's own operations, and save the model again",
    "reads files": "let the model take the content as an input, or read the file where the model is made",
    "writes files": "save the model without it",
}
_ASSETS = ("saved_model_assets", "asset_filepaths")


def refuse_effects(meta_graph: Any, folder: Path) -> None:
    """Refuse a graph that runs Python, touches files other than its own, or talks to others when it is loaded or called.

    Raises:
        StepError: E353 an operator does so, E354 an asset lies outside the folder, E356 an operator is not TensorFlow's own.
    """
    assets = _assets(meta_graph, folder)
    graphs = Graphs(meta_graph)
    found: dict[str, list[Place]] = defaultdict(list)
    effects: dict[str, str] = {}
    unknown: dict[str, list[Place]] = defaultdict(list)
    saver = _Saver.of(meta_graph, graphs)
    for place, node in graphs.nodes():
        operator = _registered(node.op)
        if operator is None:
            if node.op not in graphs.functions:  # TensorFlow 1 calls a function by its name
                unknown[node.op].append(place)
            continue
        effect = _effect(node, place, operator, graphs, saver, assets)
        if effect is not None:
            found[node.op].append(place)
            effects[node.op] = effect
    if found:
        raise _refusal(found, effects)
    if unknown:
        name, places = next(iter(sorted(unknown.items())))
        raise StepError(
            "E356",
            f"TensorFlow has no operator `{name}`, which the graph uses ({_listed(places)})",
            cause="it comes from a library of its own, or from another version of TensorFlow",
            remedy="move what needs it out of the model, in front of or behind it, and save the model again",
            at=AT_WEIGHTS,
            notes=tuple(f"also: `{other}` ({_listed(at)})" for other, at in sorted(unknown.items())[1:_SHOWN]),
        )


def _effect(
    node: Any, place: Place, operator: Any, graphs: Graphs, saver: _Saver, assets: frozenset[str]
) -> str | None:
    if node.op in TABLE_FILES:
        file = next(reference for reference in node.input[1:] if not reference.startswith("^"))
        origins = graphs.origins(place, file, fed=assets)
        return None if origins and all(origin in {*assets, "asset"} for origin in origins) else "reads files"
    if node.op in SAVER_WRITES:
        return None if place in saver.saves and place not in saver.restores | saver.served else "writes files"
    if node.op in SAVER_READS:
        if place in saver.served or place not in saver.saves | saver.restores:
            return "reads files"
        origins = graphs.origins(place, node.input[0], fed=frozenset({saver.file}))
        return None if place not in saver.restores or origins == {saver.file} else "reads files"
    attribute = None
    if node.op in ATTRIBUTES and ATTRIBUTES[node.op][0] in node.attr:  # else it has its default, which is harmless
        attribute = node.attr[ATTRIBUTES[node.op][0]].s.decode("utf-8", errors="replace")
    return why_refused(node.op, stateful=operator.is_stateful, attribute=attribute)


@dataclass(frozen=True, slots=True)
class _Saver:
    """What the saver's two operations reach, and what serving reaches.

    Attributes:
        file: the tensor that is fed with the path of the variables.
    """

    saves: frozenset[Place]
    restores: frozenset[Place]
    served: frozenset[Place]
    file: str

    @staticmethod
    def of(meta_graph: Any, graphs: Graphs) -> _Saver:
        saver = meta_graph.saver_def
        tensors = [
            info.name
            for signature in meta_graph.signature_def.values()
            for infos in (signature.inputs, signature.outputs)
            for info in infos.values()
        ]
        served = graphs.reached(tensors) | graphs.reached_functions(graphs.entry_functions)
        return _Saver(
            saves=graphs.reached([saver.save_tensor_name]),
            restores=graphs.reached([saver.restore_op_name]),
            served=served | graphs.reached(_initializers(meta_graph)),
            file=saver.filename_tensor_name,
        )


def _initializers(meta_graph: Any) -> Iterator[str]:
    """What is run once when the graph is loaded."""
    for name in ("saved_model_main_op", "legacy_init_op", "table_initializer", "saved_model_init_op"):
        yield from meta_graph.collection_def[name].node_list.value if name in meta_graph.collection_def else ()


def _assets(meta_graph: Any, folder: Path) -> frozenset[str]:
    """The tensors that are fed with the paths of the model's own files, which are all there."""
    from tensorflow.core.protobuf.meta_graph_pb2 import AssetFileDef

    definitions = list(meta_graph.asset_file_def)
    if not definitions and _ASSETS[0] in meta_graph.collection_def:
        for packed in meta_graph.collection_def[_ASSETS[0]].any_list.value:
            definition = AssetFileDef()
            packed.Unpack(definition)
            definitions.append(definition)
    for definition in definitions:
        path = PurePosixPath(definition.filename)
        if path.is_absolute() or ".." in path.parts:
            raise StepError(
                "E354",
                f"the asset `{definition.filename[:80]}` lies outside the SavedModel",
                cause="an asset is a file in the folder's `assets`",
                remedy="save the model again",
                at=AT_WEIGHTS,
            )
        if not (folder / "assets" / path).is_file():
            raise StepError(
                "E352",
                f"the SavedModel lacks the asset `{definition.filename[:80]}`",
                cause="there is no such file in the folder's `assets`",
                remedy="copy the whole folder, or save the model again",
                at=AT_WEIGHTS,
            )
    return frozenset(definition.tensor_info.name for definition in definitions)


def _registered(name: str) -> Any:
    from tensorflow.python.framework import op_def_registry

    return op_def_registry.get(name)


def _refusal(found: Mapping[str, list[Place]], effects: Mapping[str, str]) -> StepError:
    first = next(iter(found))
    return StepError(
        "E353",
        f"the graph holds `{first}`, which {effects[first]}",
        cause=f"it is the node {_listed(found[first])}",
        remedy=_REMEDIES.get(effects[first], "save the model without it"),
        at=AT_WEIGHTS,
        notes=tuple(f"also: `{op}`, which {effects[op]} ({_listed(found[op])})" for op in list(found)[1 : _SHOWN + 1]),
    )


def _listed(places: Iterable[Place]) -> str:
    every = list(places)
    more = f" and {len(every) - 3} more" if len(every) > 3 else ""
    return ", ".join(str(place) for place in every[:3]) + more
