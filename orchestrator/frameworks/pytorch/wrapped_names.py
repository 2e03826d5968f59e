"""Matches the names of stored weights with a model's where only wrappers, such as `torch.compile`, make them differ."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["EXTRA_STATE", "metadata_of", "with_metadata", "with_model_names"]

EXTRA_STATE = "_extra_state"
"""The last part of the name under which PyTorch stores what a module's `get_extra_state` returns, of any type."""

_WRAPPERS = {
    "module": "torch.nn.DataParallel",
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_checkpoint_wrapped_module": "activation checkpointing",
}
"""A part of names → what puts it there."""


def with_model_names(state: Mapping[str, Any], names: Iterable[str]) -> tuple[OrderedDict[str, Any], list[str]]:
    """The stored state with the model's names.

    A stored name that the model does not have becomes the one that it has if both are the same without wrappers, and no others
    are. All else is left as it is: a model may have a part of its own that is called `module`.

    Args:
        state: as read from the file.
        names: of the model.

    Returns:
        The state, and a note for each wrapper that was put aside.
    """
    own = set(names)
    wanted = _by_bare_name(own - set(state))
    stored = _by_bare_name(set(state) - own)
    renamed = {
        there[0]: wanted[bare][0]
        for bare, there in stored.items()
        if len(there) == 1 and len(wanted.get(bare, ())) == 1
    }
    found = OrderedDict((renamed.get(name, name), value) for name, value in state.items())
    metadata = dict(metadata_of(state))
    for before, after in renamed.items():
        if (version := metadata.get(_module(before))) is not None:
            metadata[_module(after)] = version
    with_metadata(found, metadata)
    return found, _notes(renamed)


def metadata_of(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """What PyTorch stores beside a state dict: name of a module → its version, by which modules read older states."""
    found = getattr(state, "_metadata", None)
    return found if isinstance(found, Mapping) else {}


def with_metadata(state: OrderedDict[str, Any], metadata: Mapping[str, Any]) -> None:
    """Attach the versions of modules to a state dict, as PyTorch does."""
    if metadata:
        state._metadata = dict(metadata)  # type: ignore[attr-defined]  # noqa: SLF001 - where PyTorch keeps and reads it


def _by_bare_name(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(".".join(part for part in name.split(".") if part not in _WRAPPERS), []).append(name)
    return found


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _notes(renamed: Mapping[str, str]) -> list[str]:
    names: Counter[str] = Counter()
    for before, after in renamed.items():
        parts, others = Counter(before.split(".")), Counter(after.split("."))
        names.update(part for part in _WRAPPERS if parts[part] != others[part])
    return [
        f"weights: {count} stored name{'s differ' if count > 1 else ' differs'} from the model's by `{part}`, which "
        f"{_WRAPPERS[part]} puts there"
        for part, count in sorted(names.items())
    ]
