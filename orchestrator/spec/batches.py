"""Checks batch sizes and batching against the range of the batch dimension, declared in the spec or read from the model."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.diagnostics import Diagnostic
from orchestrator.spec.document import find, span_of
from orchestrator.spec.models import ModelDeployment
from orchestrator.spec.yaml_tree import Node

__all__ = ["batch_problems"]


def batch_problems(
    spec: ModelDeployment, root: Node, batch: str | None, allowed: tuple[int, int] | None, step: int = 1
) -> Iterator[Diagnostic]:
    """Settings that do not fit the batch dimension.

    Args:
        spec: the effective spec.
        root: the tree that it was built from.
        batch: the batch dimension; None if there is none.
        allowed: its smallest and largest size; None if unknown.
        step: its sizes are multiples of it.

    Yields:
        E123 for a batch size that cannot be measured, E126 for batches larger than the model accepts.
    """
    no_batch = "the model has no batch dimension"
    remedy = (
        "give the first dimension of every input the same name, or remove this key"
        if spec.model.inputs
        else "remove this key"
    )
    if find(root, ("benchmark", "batch_sizes")).depth == 2:
        for index, size in enumerate(spec.benchmark.batch_sizes):
            span = span_of(root, ("benchmark", "batch_sizes", index))
            if batch is None and size != 1:
                yield Diagnostic("E123", f"batch size {size} cannot be measured", span, label=no_batch, remedy=remedy)
            elif allowed is not None and not allowed[0] <= size <= allowed[1]:
                yield Diagnostic(
                    "E123",
                    f"batch size {size} is outside the range of `{batch}`",
                    span,
                    label=f"`{batch}` ranges from {allowed[0]} to {allowed[1]}",
                    remedy=f"remove it, or {_widen(root, batch, size)}",
                )
            elif batch is not None and size % step:
                yield Diagnostic(
                    "E123",
                    f"batch size {size} is not a size of `{batch}`",
                    span,
                    label=f"`{batch}` is a multiple of {step}",
                    remedy=f"measure multiples of {step}",
                )
    batching = spec.serving.batching
    if batching != "auto":
        span = span_of(root, ("serving", "batching", "max_size"))
        if batch is None and batching.max_size > 1:
            yield Diagnostic("E126", "requests cannot be batched", span, label=no_batch, remedy=remedy)
        elif allowed is not None and batching.max_size > allowed[1]:
            yield Diagnostic(
                "E126",
                f"batches of {batching.max_size} exceed the range of `{batch}`",
                span,
                label=f"the maximum of `{batch}` is {allowed[1]}",
                remedy=f"lower it, or {_widen(root, batch, batching.max_size)}",
            )


def _widen(root: Node, batch: str | None, size: int) -> str:
    found = find(root, ("model", "dims", batch or ""))
    if found.depth == 3:
        return f"extend `model.dims.{batch}` on line {found.node.line}"
    return f"add a range to `model.dims` that includes it: `{batch}: {{max: {size}}}`"
