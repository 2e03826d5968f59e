"""State dicts: read from safetensors files and checkpoints without running code, and loaded into a model."""

from __future__ import annotations

import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Self

import torch

from orchestrator.frameworks.pytorch.wrapped_names import EXTRA_STATE, metadata_of, with_metadata, with_model_names
from orchestrator.frameworks.source.model_file import AT_WEIGHTS, expect_kind
from orchestrator.spec.model_files import file_kind
from orchestrator.steps.context import StepError, refuse_on
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["find_state_dict", "load_weights", "read_safetensors", "read_state_dict", "shown"]

_AT_KEY = ("model", "source", "weights_key")
_SHOWN = 8
_USUAL_KEYS = ("state_dict", "model_state_dict", "model", "net", "weights")
_SAVE_STATE = (
    'save only the tensors: safetensors.torch.save_file(model.state_dict(), "model.safetensors"), '
    'or torch.save(model.state_dict(), "model.pt")'
)


def read_state_dict(path: Path, weights_key: str | None) -> dict[str, Any]:
    """The tensors of a safetensors file or a checkpoint, by name, on the CPU. No code in the file is run.

    What a module's `get_extra_state` returned is kept as well, if it is plain data.

    Args:
        path: the file.
        weights_key: the dotted path to the state dict in a training checkpoint or to a part of it: `state_dict.model`
            selects the tensors whose names begin with `model.`, and removes that prefix.

    Raises:
        StepError: E301 another kind of file, E302 damaged, E303 Python objects, E304 `weights_key` is wrong or missing,
            E308 more than tensors.
    """
    expect_kind(path, "pytorch", "safetensors", "checkpoint")
    content = read_safetensors(path) if file_kind(path) == "safetensors" else _read_checkpoint(path)
    if isinstance(content, dict) and not content and weights_key is None and file_kind(path) == "safetensors":
        return {}  # for a model without parameters, such as a fixed transformation
    if weights_key is not None:
        content = _dig(content, weights_key)
    return _state_of(content, weights_key)


def find_state_dict(path: Path) -> tuple[str | None, dict[str, torch.Tensor]]:
    """The `weights_key` that a file needs, if any, and the tensors at that key.

    If a training checkpoint has several state dicts, it is the one with a common name, or else the first.

    Raises:
        StepError: as `read_state_dict`.
    """
    expect_kind(path, "pytorch", "safetensors", "checkpoint")
    if file_kind(path) == "safetensors":
        return None, read_safetensors(path)
    content = _read_checkpoint(path)
    inside = _state_dicts(content)
    key = None
    if inside and not _is_state_dict(content):
        key = next((usual for usual in _USUAL_KEYS if usual in inside), inside[0])
    state = _state_of(content if key is None else _dig(content, key), key)
    return key, {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}


class PythonObject:
    """A placeholder for a Python object in a checkpoint, whose class is neither imported nor instantiated."""

    def __new__(cls, *_arguments: object, **_keywords: object) -> Self:
        return super().__new__(cls)

    def __init__(self, *_arguments: object, **_keywords: object) -> None:
        """Accept and discard the arguments of the constructor."""

    def __setstate__(self, state: object) -> None:
        """Accept and discard the object's attributes."""


def _read_checkpoint(path: Path) -> Any:
    """The content of a checkpoint, with placeholders for Python objects beside a state dict.

    PyTorch Lightning stores hyperparameters, callbacks and loops there, which may be of any class.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # The unpickler, the zip reader and the storage reader each raise their own errors on a damaged file.
    except Exception as error:
        refusal = _refusal(error)
        content = _around_objects(path) if refusal.code == "E303" else None
        if content is None:
            raise refusal from error
        return content


def _around_objects(path: Path) -> Any:
    """The content with placeholders; None if it has no state dict, or still cannot be read."""
    try:
        content = _with_placeholders(path)
    # Any exception: the first error is reported.
    except Exception:  # noqa: BLE001 - as above
        return None
    return content if _is_state_dict(content) or _state_dicts(content) else None


def _with_placeholders(path: Path) -> Any:
    """The content with placeholders for all that only unpickling could build; raises what PyTorch raises."""
    legacy = not zipfile.is_zipfile(path)
    # PyTorch lists the names in its present format only. In the older one, the objects precede the tensors, so that asking again
    # after each name is quick.
    names: list[str] = [] if legacy else torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    while True:
        with torch.serialization.safe_globals([(PythonObject, name) for name in names]):
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:
                refused = _refused_names(error)
                if not legacy or not refused or set(refused) <= set(names):
                    raise
                names += refused


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file by name, on the CPU.

    Raises:
        StepError: E302, it is damaged or truncated.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        cause = headline(error)
        if "IncompleteBuffer" in cause or "incomplete" in cause.lower():
            cause = f"the file ends before its tensors do ({cause})"
        raise StepError(
            "E302",
            "the safetensors file is damaged",
            cause=cause,
            remedy="copy or save it again",
            at=AT_WEIGHTS,
        ) from error
    return tensors


def _refusal(error: Exception) -> StepError:
    text = str(error)
    names = _refused_names(error)
    if not names and "weights_only" not in text.lower() and "Weights only" not in text:
        return StepError(
            "E302",
            "the checkpoint is damaged",
            cause=headline(error),
            remedy="copy or save it again",
            at=AT_WEIGHTS,
        )
    held = f"Python objects ({', '.join(f'`{name}`' for name in names[:_SHOWN])})" if names else "Python objects"
    whole = any(name.startswith("torch.nn.modules.") for name in names)
    return StepError(
        "E303",
        "the weights are a pickled whole model" if whole else "the weights hold more than tensors",
        cause=f"the file holds {held}, which only unpickling can build, and unpickling runs whatever code the file names",
        remedy=f"load it once where you trust it and {_SAVE_STATE}",
        at=AT_WEIGHTS,
    )


def _refused_names(error: Exception) -> list[str]:
    """The Python objects that PyTorch's unpickler names where it refuses them; it only has a sentence for it."""
    return list(dict.fromkeys(re.findall(r"GLOBAL ([\w.]+)", str(error))))


def _dig(content: Any, weights_key: str) -> Any:
    rest, walked = weights_key, ""
    while rest:
        keys = [key for key in content if isinstance(key, str)] if isinstance(content, Mapping) else []
        # The longest first, because a key may itself contain dots.
        step = next((key for key in sorted(keys, key=len, reverse=True) if f"{rest}.".startswith(f"{key}.")), None)
        if step is None:
            if part := _part(content, keys, rest):
                return part
            close = get_close_matches(rest, keys, n=1)
            raise StepError(
                "E304",
                f"`weights_key: {weights_key}` leads nowhere",
                cause=f"{f'`{walked}`' if walked else 'the file'} holds {_listed(keys)}",
                remedy=f"did you mean `{walked + '.' if walked else ''}{close[0]}`?" if close else _key_hint(content),
                at=_AT_KEY,
            )
        content, walked, rest = content[step], f"{walked}.{step}".lstrip("."), rest[len(step) + 1 :]
    return content


def _part(content: Mapping[str, Any], keys: list[str], prefix: str) -> OrderedDict[str, Any]:
    """The entries whose names begin with the prefix and a point, without these, with the versions of their modules."""
    beginning = f"{prefix}."
    part = OrderedDict((key.removeprefix(beginning), content[key]) for key in keys if key.startswith(beginning))
    versions = metadata_of(content).items()
    with_metadata(
        part,
        {
            f"{name}.".removeprefix(beginning).removesuffix("."): version
            for name, version in versions
            if f"{name}.".startswith(beginning)
        },
    )
    return part


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and bool(content) and all(map(_is_entry, content, content.values()))


def _is_entry(name: Any, value: Any) -> bool:
    """Whether it is a tensor by its name, or a module's own extra state, as plain data."""
    if not isinstance(name, str):
        return False
    return isinstance(value, torch.Tensor) or (name.rpartition(".")[2] == EXTRA_STATE and _is_plain(value))


def _is_plain(value: Any) -> bool:
    waiting, seen = [value], set()
    while waiting:
        each = waiting.pop()
        # A function or class stored by its name becomes the placeholder's class itself.
        if each is PythonObject or isinstance(each, PythonObject):
            return False
        if id(each) in seen:  # a list may hold itself
            continue
        seen.add(id(each))
        if isinstance(each, Mapping):
            waiting += [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set | frozenset):
            waiting += each
    return True


def _state_of(content: Any, weights_key: str | None) -> OrderedDict[str, Any]:
    where = f"`weights_key: {weights_key}`" if weights_key else "the checkpoint"
    if isinstance(content, Mapping) and content:
        if _is_state_dict(content):
            state = OrderedDict(content)
            with_metadata(state, metadata_of(content))
            return state
        others = {key: value for key, value in content.items() if not _is_entry(str(key), value)}
        inside = list(_state_dicts(content))
        if inside:
            raise StepError(
                "E304",
                f"{where} leads to a whole training checkpoint, not to a state dict",
                cause=f"it holds {_listed([str(key) for key in content])}",
                remedy=f"write `weights_key: {_joined(weights_key, inside[0])}`"
                + (f" (or {', '.join(_joined(weights_key, key) for key in inside[1:4])})" if inside[1:] else ""),
                at=_AT_KEY if weights_key else AT_WEIGHTS,
            )
        held = [f"`{key}` ({type(value).__name__})" for key, value in list(others.items())[:_SHOWN]]
        cause = f"beside tensors it holds {', '.join(held)}" if held else "not all of its keys are names"
    else:
        cause = f"{where} is {'empty' if isinstance(content, Mapping) else f'a {type(content).__name__}'}"
    raise StepError(
        "E308", "the weights are not a state dict of tensors", cause=cause, remedy=_SAVE_STATE, at=AT_WEIGHTS
    )


def _state_dicts(content: Any, depth: int = 3) -> list[str]:
    if not isinstance(content, Mapping) or depth == 0:
        return []
    found: list[str] = []
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Mapping) or not value:
            continue
        if _is_state_dict(value):
            found.append(key)
        else:
            found.extend(f"{key}.{inner}" for inner in _state_dicts(value, depth - 1))
    return found


def _key_hint(content: Any) -> str:
    found = _state_dicts(content)
    if isinstance(content, Mapping) and content and all(isinstance(value, torch.Tensor) for value in content.values()):
        return "these are tensors already: leave the rest of the key out"
    return f"there are state dicts at {_listed(found)}" if found else "there is no state dict below it"


def _joined(prefix: str | None, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def shown(lines: list[str], separator: str = ", ") -> str:
    """The first eight lines, and the number of further ones."""
    more = f"{separator}and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return separator.join(lines[:_SHOWN]) + more


def _listed(keys: list[str]) -> str:
    return shown([f"`{key}`" for key in keys]) or "nothing that has a name"


def load_weights(model: torch.nn.Module, state: Mapping[str, Any], weights_key: str | None = None) -> list[str]:
    """Copy `state` into `model`.

    Args:
        model: as built by the factory.
        state: as read from the file.
        weights_key: its path in the file.

    Returns:
        Notes for the user, for instance that weights are stored in another precision than the model's.

    Raises:
        StepError: E305 missing or unexpected keys, E306 a shape differs, or the model does not take its extra state, E307 a type
            is of another kind.
    """
    everything = model.state_dict()
    state, notes = with_model_names(state, everything)
    own = {name: value for name, value in everything.items() if isinstance(value, torch.Tensor)}
    notes += _check_tensors(own, {name: value for name, value in state.items() if isinstance(value, torch.Tensor)})
    # A module's `set_extra_state` is the user's code, which may raise anything.
    with refuse_on(Exception, "E306", "the weights do not fit the model", at=AT_WEIGHTS):
        result = model.load_state_dict(state, strict=False)
    # A tensor with two names in the model may be stored under one of them only, as safetensors does.
    loaded = {own[name].data_ptr() for name in own if name in state and own[name].numel()}
    missing = [name for name in result.missing_keys if name not in own or own[name].data_ptr() not in loaded]
    if missing or result.unexpected_keys:
        raise _keys_differ(missing, list(result.unexpected_keys), weights_key)
    return notes


def _check_tensors(own: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> list[str]:
    shared = [name for name in own if name in state and not torch.nn.parameter.is_lazy(own[name])]
    shapes = [name for name in shared if own[name].shape != state[name].shape]
    if shapes:
        raise StepError(
            "E306",
            f"{len(shapes)} of the model's tensors have a different shape in the weights",
            cause=shown(
                [f"{n}: {list(state[n].shape)} stored, {list(own[n].shape)} in the model" for n in shapes], "; "
            ),
            remedy="build the model with the sizes that it was trained with: set them in `kwargs:`",
            at=AT_WEIGHTS,
        )
    kinds = [name for name in shared if own[name].dtype.is_floating_point != state[name].dtype.is_floating_point]
    if kinds:
        raise StepError(
            "E307",
            f"{len(kinds)} of the model's tensors have a different type in the weights",
            cause=shown([f"{n}: {_dtype(state[n])} stored, {_dtype(own[n])} in the model" for n in kinds], "; "),
            remedy="save the weights of this architecture, in a floating-point type",
            at=AT_WEIGHTS,
        )
    casts = {(_dtype(state[n]), _dtype(own[n])) for n in shared if own[n].dtype != state[n].dtype}
    return [
        f"weights: stored as {stored}, converted to {used}, the type of the model" for stored, used in sorted(casts)
    ]


def _keys_differ(missing: list[str], unexpected: list[str], weights_key: str | None) -> StepError:
    parts = []
    if missing:
        parts.append(f"{len(missing)} missing: {shown(missing)}")
    if unexpected:
        parts.append(f"{len(unexpected)} that the model does not have: {shown(unexpected)}")
    return StepError(
        "E305",
        "the weights and the model do not have the same keys",
        cause="; ".join(parts),
        remedy=_keys_remedy(missing, unexpected, weights_key),
        at=AT_WEIGHTS,
    )


def _keys_remedy(missing: list[str], unexpected: list[str], weights_key: str | None) -> str:
    if missing and all(name.rpartition(".")[2] == EXTRA_STATE for name in missing):
        return 'save the whole state with torch.save(model.state_dict(), "model.pt"): safetensors hold tensors only'
    for name in missing:
        for key in unexpected:
            prefix = key.removesuffix(name)
            if key.endswith(f".{name}") and {f"{prefix}{other}" for other in missing} <= set(unexpected):
                why = "a module around the model, such as one of PyTorch Lightning, puts it there"
                return f"the stored keys begin with `{prefix}`: {why}; write `weights_key: {_joined(weights_key, prefix[:-1])}`"
            if name.endswith(f".{key}"):
                return f"the model's keys begin with `{name.removesuffix(key)}`; let `factory:` build just that part"
    for name in missing:
        if close := get_close_matches(name, unexpected, n=1, cutoff=0.8):
            return f"is `{close[0]}` what the model now calls `{name}`? `factory:` must build what was saved"
    if not missing:
        return "remove them when saving, or let `factory:` build the part of the model that they belong to"
    return "let `factory:` build the architecture that was saved"


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
