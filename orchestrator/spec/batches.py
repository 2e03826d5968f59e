"""Checks the batch dimension, and batch sizes and batching against its range, declared in the spec or read from the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from orchestrator.diagnostics import Diagnostic
from orchestrator.spec.batch_dimension import NO_BATCH, Batch
from orchestrator.spec.document import find, span_of
from orchestrator.spec.places import did_you_mean

if TYPE_CHECKING:
    from orchestrator.spec.models import ModelDeployment
    from orchestrator.spec.yaml_tree import Node

__all__ = ["batch_problems"]


def batch_problems(
    spec: ModelDeployment,
    root: Node,
    batch: Batch,
    dims: Mapping[str, tuple[int, int]],
    multiples: Mapping[str, int],
) -> Iterator[Diagnostic]:
    """Settings that do not fit the batch dimension.

    Args:
        spec: the effective spec.
        root: the tree that it was built from.
        batch: the batch dimension.
        dims: the known range of each dimension of an input.
        multiples: the number that all sizes of a dimension are multiples of, where it is not 1.

    Yields:
        E123 for a batch size that cannot be measured, E126 for batches larger than the model accepts and for a batch dimension
        that no input has.
    """
    if batch.unknown is not None:
        yield Diagnostic(
            "E126",
            f"no input has the dimension `{batch.unknown}`",
            span_of(root, ("model", "batch")),
            label=did_you_mean(batch.unknown, [*dims, NO_BATCH]),
            remedy=f"name one of {', '.join(f'`{name}`' for name in dims)}, or write `batch: none`"
            if dims
            else "write `batch: none`, or remove this key",
        )
        return
    yield from _size_problems(spec, root, batch, dims, multiples)
    batching = spec.serving.batching
    if batching == "auto":
        return
    allowed = None if batch.name is None else dims.get(batch.name)
    span = span_of(root, ("serving", "batching", "max_size"))
    if batch.name is None and batching.max_size > 1:
        yield Diagnostic("E126", "requests cannot be batched", span, label=batch.why_not, remedy=_remedy(spec))
    elif batch.name is not None and allowed is not None and batching.max_size > allowed[1]:
        yield Diagnostic(
            "E126",
            f"batches of {batching.max_size} exceed the range of `{batch.name}`",
            span,
            label=f"the maximum of `{batch.name}` is {allowed[1]}",
            remedy=f"lower it, or {_widen(root, batch.name, batching.max_size)}",
        )


def _size_problems(
    spec: ModelDeployment,
    root: Node,
    batch: Batch,
    dims: Mapping[str, tuple[int, int]],
    multiples: Mapping[str, int],
) -> Iterator[Diagnostic]:
    if find(root, ("benchmark", "batch_sizes")).depth != 2:
        return
    name = batch.name
    for index, size in enumerate(spec.benchmark.batch_sizes):
        span = span_of(root, ("benchmark", "batch_sizes", index))
        if name is None:
            if size != 1:
                message = f"batch size {size} cannot be measured"
                yield Diagnostic("E123", message, span, label=batch.why_not, remedy=_remedy(spec))
            continue
        allowed, step = dims.get(name), multiples.get(name, 1)
        if allowed is not None and not allowed[0] <= size <= allowed[1]:
            yield Diagnostic(
                "E123",
                f"batch size {size} is outside the range of `{name}`",
                span,
                label=f"`{name}` ranges from {allowed[0]} to {allowed[1]}",
                remedy=f"remove it, or {_widen(root, name, size)}",
            )
        elif size % step:
            yield Diagnostic(
                "E123",
                f"batch size {size} is not a size of `{name}`",
                span,
                label=f"`{name}` is a multiple of {step}",
                remedy=f"measure multiples of {step}",
            )


def _remedy(spec: ModelDeployment) -> str:
    if spec.model.inputs and spec.model.batch is None:
        return "give the first dimension of every input the same name, or remove this key"
    return "remove this key"


def _widen(root: Node, batch: str, size: int) -> str:
    found = find(root, ("model", "dims", batch))
    if found.depth == 3:
        return f"extend `model.dims.{batch}` on line {found.node.line}"
    return f"add a range to `model.dims` that includes it: `{batch}: {{max: {size}}}`"
