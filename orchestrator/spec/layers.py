"""Merges trees of values: platform defaults, the spec, an environment; later ones take precedence."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.diagnostics import Diagnostic
from orchestrator.spec.yaml_tree import SPEC, Entry, Layer, Node, quoted

__all__ = ["FIXED_SECTIONS", "fixed_keys", "overlaid", "relabelled", "without"]


FIXED_SECTIONS = frozenset({"apiVersion", "kind", "model", "environments"})
"""Sections that environments and platform defaults cannot change: the model is the same everywhere."""

# A section with a discriminator is replaced as a whole when the kind changes: keys of another kind have no meaning.
_KIND_KEYS = ("kind", "target")


def overlaid(lower: Node, upper: Node) -> Node:
    """`lower` with the values of `upper`: mappings are merged key by key, everything else is replaced.

    A merged mapping keeps its position in the spec, so that missing keys are reported there.
    """
    if lower.entries is None or upper.entries is None or _changes_kind(lower, upper):
        return upper
    entries = dict(lower.entries)
    for key, entry in upper.entries.items():
        below = entries.get(key)
        if below is None:
            entries[key] = entry
        else:
            value = overlaid(below.value, entry.value)
            entries[key] = replace(
                below if below.value.layer == SPEC and value.entries is not None else entry, value=value
            )
    return _mapping(lower if lower.layer == SPEC else upper, entries)


def _changes_kind(lower: Node, upper: Node) -> bool:
    for key in _KIND_KEYS:
        below, above = lower.child(key), upper.child(key)
        if below is not None and above is not None and below.data != above.data:
            return True
    return False


def relabelled(node: Node, layer: Layer) -> Node:
    """The same tree, attributed to `layer`."""
    entries = node.entries and {k: replace(e, value=relabelled(e.value, layer)) for k, e in node.entries.items()}
    items = node.items and [relabelled(item, layer) for item in node.items]
    return replace(node, layer=layer, entries=entries, items=items)


def without(node: Node, key: str) -> Node:
    """The mapping without one of its keys."""
    assert node.entries is not None
    return _mapping(node, {k: e for k, e in node.entries.items() if k != key})


def _mapping(at: Node, entries: dict[str, Entry]) -> Node:
    return replace(at, entries=entries, data={key: entry.value.data for key, entry in entries.items()})


def fixed_keys(overlay: Node, where: str) -> list[Diagnostic]:
    """Errors for keys of an overlay or of defaults that only the spec may set."""
    entries: list[tuple[str, Entry]] = [
        (key, entry) for key, entry in (overlay.entries or {}).items() if key in FIXED_SECTIONS
    ]
    metadata = overlay.child("metadata")
    if metadata is not None and metadata.entries is not None and "name" in metadata.entries:
        entries.append(("metadata.name", metadata.entries["name"]))
    return [
        Diagnostic("E135", f"{quoted(key)} cannot be set in {where}", entry.span, remedy="set it in the spec itself")
        for key, entry in entries
    ]
