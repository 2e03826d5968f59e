"""Kustomize overlays: what an environment's objects have of their own, as JSON patches of those in the base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.targets.gitops.manifests import kustomization
from orchestrator.targets.gitops.sync import yaml_text

__all__ = ["overlay_files"]

Object = dict[str, Any]


def overlay_files(base: list[Object], wanted: list[Object], namespace: str) -> dict[str, str]:
    """File → content of an overlay that makes the objects `wanted` of those of `base`.

    Args:
        base: in the folder `../../base`.
        wanted: with their namespace.
        namespace: of all of them.
    """
    before, now = _by_name(base), _by_name(wanted)
    patches = []
    for key, document in before.items():
        kind, name = key
        target = {"kind": kind, "name": name}
        if key not in now:
            gone = {"apiVersion": document["apiVersion"], "kind": kind, "metadata": {"name": name}, "$patch": "delete"}
            patches.append({"target": target, "patch": yaml_text(gone)})
        elif operations := list(_operations("", _bare(document), _bare(now[key]))):
            patches.append({"target": target, "patch": yaml_text(operations)})
    added = {f"{kind.lower()}-{name}.yaml": now[kind, name] for kind, name in now.keys() - before.keys()}
    more = {"patches": patches} if patches else {}
    return {
        "kustomization.yaml": kustomization(["../../base", *sorted(added)], namespace=namespace, **more),
        **{file: yaml_text(document) for file, document in sorted(added.items())},
    }


def _by_name(documents: list[Object]) -> dict[tuple[str, str], Object]:
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


def _bare(document: Object) -> Object:
    """Without its namespace, which the overlay sets for all."""
    metadata = {key: value for key, value in document["metadata"].items() if key != "namespace"}
    return {**document, "metadata": metadata}


def _operations(path: str, before: Any, now: Any) -> Iterator[dict[str, Any]]:
    """JSON Patch (RFC 6902) from one value to the other; a list is replaced as a whole."""
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        if before != now:
            yield {"op": "replace", "path": path, "value": now}
        return
    for key in before:
        place = f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}"
        if key not in now:
            yield {"op": "remove", "path": place}
        else:
            yield from _operations(place, before[key], now[key])
    for key in now:
        if key not in before:
            yield {"op": "add", "path": f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}", "value": now[key]}
