"""Finds the inputs of a PyTorch model that hold ids, and how many there are, by watching one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from orchestrator.frameworks.pytorch.runtime import as_tensors
from orchestrator.frameworks.source.ids import Lookup, Passes, shown_ids

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Array, IntegerRange
    from orchestrator.spec.signature import Signature

__all__ = ["ids_of_inputs"]

_PASSES = frozenset({
    "_to_copy", "_unsafe_view", "alias", "cat", "clone", "contiguous", "detach", "expand", "flatten", "lift_fresh", "permute",
    "reshape", "select", "slice", "squeeze", "stack", "t", "to", "transpose", "unsqueeze", "view",
})  # fmt: skip
"""Names of operators; in inference mode some of them come as they are called, and some as what they are made of."""


class _Watch(TorchDispatchMode):  # type: ignore[misc]  # torch is not typed here
    """Records where integers go."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes: list[Passes | Lookup] = []
        self.alive: list[Any] = []  # an id of a tensor that is gone may be given to another

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0].removesuffix("_")
        self.alive += [args, result]
        if name in _PASSES:
            self.nodes.append(Passes(_names(args), _names(result)))
        else:
            self.nodes += _lookups(name, args)
        return result


def ids_of_inputs(model: Any, signature: Signature, inputs: Mapping[str, Array]) -> dict[str, IntegerRange]:
    """The ids that inputs hold, by the spec's names; as far as the call comes, if the model refuses it.

    Args:
        model: on the CPU, called with the inputs by position.
        signature: gives the inputs their order.
        inputs: one whole call.
    """
    tensors = as_tensors(signature, inputs)
    watch = _Watch()
    try:
        with torch.no_grad(), watch:
            model(*tensors)
    # It is the user's model, which may raise anything; whether it takes its inputs is found out elsewhere.
    except Exception:  # noqa: BLE001 - what is known by then is what is shown
        return _shown(watch, signature, tensors)
    return _shown(watch, signature, tensors)


def _shown(watch: _Watch, signature: Signature, tensors: list[torch.Tensor]) -> dict[str, IntegerRange]:
    names = [tensor.name for tensor in signature.inputs]
    return shown_ids(watch.nodes, {str(id(own)): name for own, name in zip(tensors, names, strict=True)})


def _names(values: Any) -> list[str]:
    return [str(id(leaf)) for leaf in pytree.tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _lookups(name: str, args: tuple[Any, ...]) -> Iterator[Lookup]:
    """What a call of an operator looks up, by the names and the arguments of PyTorch's own operators."""
    if name in {"embedding", "embedding_bag", "_embedding_bag", "_embedding_bag_forward_only"}:
        yield Lookup(str(id(args[1])), int(args[0].shape[0]))
    elif name in {"index_select", "gather", "scatter"} and len(args) > 2 and args[0].ndim:
        yield Lookup(str(id(args[2])), int(args[0].shape[args[1]]))
    elif name == "one_hot" and len(args) > 1 and args[1] > 0:
        yield Lookup(str(id(args[0])), int(args[1]))
    elif name == "index":
        for size, ids in zip(args[0].shape, args[1], strict=False):
            if isinstance(ids, torch.Tensor) and not ids.is_floating_point() and ids.dtype != torch.bool:
                yield Lookup(str(id(ids)), int(size))
