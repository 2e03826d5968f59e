"""Puts a state dict into a model, and tells apart everything that does not fit."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import torch

from orchestrator.frameworks.pytorch.weights import shown
from orchestrator.frameworks.source.expected_kind import AT_WEIGHTS, headline
from orchestrator.steps import StepError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["load_weights"]

_WRAPPERS = {"module.": "torch.nn.DataParallel", "_orig_mod.": "torch.compile"}
"""Prefix of names → what is known to put it there."""


def load_weights(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], weights_key: str | None = None
) -> list[str]:
    """Copy `state` into `model`.

    Args:
        model: as the factory builds it.
        state: as it was read.
        weights_key: what led to it.

    Returns:
        Notes on what a person should know, such as weights stored in another precision than the model's.

    Raises:
        StepError: E305 missing or unexpected keys, E306 a shape differs, E307 a type differs in kind.
    """
    own = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    notes = _check_tensors(own, state)
    try:
        result = model.load_state_dict(dict(state), strict=False)
    except RuntimeError as error:
        raise StepError("E306", "the weights do not fit the model", cause=headline(error), at=AT_WEIGHTS) from error
    # A tensor that the model uses under two names may be stored under one of them, as safetensors does.
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
            f"{len(shapes)} of the model's tensors have another shape than the weights",
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
            f"{len(kinds)} of the model's tensors have another type than the weights",
            cause=shown([f"{n}: {_dtype(state[n])} stored, {_dtype(own[n])} in the model" for n in kinds], "; "),
            remedy="save the weights of this architecture, in a floating-point type",
            at=AT_WEIGHTS,
        )
    casts = {(_dtype(state[n]), _dtype(own[n])) for n in shared if own[n].dtype != state[n].dtype}
    return [f"weights: stored as {stored}, computed in {used} as the model is built" for stored, used in sorted(casts)]


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
    for name in missing:
        for key in unexpected:
            prefix = key.removesuffix(name)
            if key.endswith(f".{name}") and {f"{prefix}{other}" for other in missing} <= set(unexpected):
                why = _WRAPPERS.get(prefix, "a module around the model, such as one of PyTorch Lightning,")
                way = f"{weights_key}.{prefix[:-1]}" if weights_key else prefix[:-1]
                return f"the stored keys begin with `{prefix}`: {why} puts it there; write `weights_key: {way}`"
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
