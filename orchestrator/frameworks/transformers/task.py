"""A Transformers model as a module with positional tensors in and tensors out, as it is served."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from orchestrator.frameworks.transformers.modules import Dense

if TYPE_CHECKING:
    from orchestrator.frameworks.transformers.modules import SentenceModules

__all__ = ["SentenceHead", "TaskModel"]

MASK = "attention_mask"
EMBEDDING = "sentence_embedding"
_LEAST = 1e-9  # tokens; the divisor for a row without any


class TaskModel(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """The model behind an interface of plain tensors.

    Args:
        model: of the Transformers library.
        takes: its names of the inputs, in order.
        returns: its names of the outputs, in order.
        head: computes the sentence embedding from the last hidden state; None for other tasks.
    """

    def __init__(
        self, model: nn.Module, takes: Sequence[str], returns: Sequence[str], head: SentenceHead | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.head = head
        self.takes = tuple(takes)
        self.returns = tuple(returns)
        self.training = False

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs in order.

        A row with an empty mask is treated as if all positions were tokens: the library's implementations of attention
        differ for such rows, which no text produces.
        """
        named = dict(zip(self.takes, inputs, strict=True))
        if MASK in named:
            mask = named[MASK]
            empty = mask.amax(dim=1, keepdim=True) == 0
            named[MASK] = torch.where(empty, torch.ones_like(mask), mask)
        found: Mapping[str, Any] = self.model(**named)
        if self.head is not None:
            hidden = found["last_hidden_state"]
            mask = named.get(MASK)
            found = {EMBEDDING: self.head(hidden, torch.ones_like(hidden[..., 0]) if mask is None else mask)}
        return tuple(found[name] for name in self.returns)


class SentenceHead(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Pooling and the modules after it, as the sentence-transformers library computes them.

    Args:
        modules: as in the folder.
        weights: the tensors of each dense layer, in order.
    """

    def __init__(self, modules: SentenceModules, weights: Sequence[Mapping[str, torch.Tensor]]) -> None:
        super().__init__()
        self._modes = modules.pooling
        waiting = iter(weights)
        self.after = nn.Sequential(
            *(_dense(each, next(waiting)) if isinstance(each, Dense) else _Normalize() for each in modules.after)
        )

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Embeddings [batch, size] of hidden states [batch, sequence, width] and a mask [batch, sequence]."""
        pooled = [_POOLING[mode](hidden, mask) for mode in self._modes]
        embedding: torch.Tensor = self.after(torch.cat(pooled, dim=-1))
        return embedding


class _Normalize(nn.Module):  # type: ignore[misc]
    """Scales every row to length 1."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(rows, p=2.0, dim=-1)


def _dense(dense: Dense, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    linear = nn.Linear(dense.inputs, dense.outputs, bias=dense.bias)
    linear.load_state_dict({name.removeprefix("linear."): tensor for name, tensor in weights.items()})
    return nn.Sequential(linear, getattr(nn, dense.activation)())


def _weights(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return mask.unsqueeze(-1).to(hidden.dtype)


def _mean(hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=_LEAST)


def _by_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _mean(hidden, _weights(hidden, mask))


def _by_mean_sqrt(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weights = _weights(hidden, mask)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=_LEAST).sqrt()


def _by_weighted_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Later tokens get more weight: the first token 1, the next 2, independent of the padding."""
    places = torch.arange(1, hidden.shape[1] + 1, device=hidden.device) - _first(mask)
    return _mean(hidden, _weights(hidden, mask) * places.unsqueeze(-1).to(hidden.dtype))


def _by_max(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)


def _by_first(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _at(hidden, _first(mask))


def _by_last(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _at(hidden, hidden.shape[1] - 1 - _first(mask.flip(1)))


def _first(mask: torch.Tensor) -> torch.Tensor:
    """The position [batch, 1] of the first token; ONNX Runtime has no maximum of int64."""
    return (mask != 0).to(torch.int32).argmax(dim=1, keepdim=True)


def _at(hidden: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return hidden.gather(1, places.unsqueeze(-1).expand(-1, 1, hidden.shape[-1])).squeeze(1)


_POOLING: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": _by_first,
    "max": _by_max,
    "mean": _by_mean,
    "mean_sqrt_len_tokens": _by_mean_sqrt,
    "weightedmean": _by_weighted_mean,
    "lasttoken": _by_last,
}
