"""Finds the shapes of a source model's outputs and runs it on samples and edge cases, whatever its framework."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from orchestrator.artifacts.imported import RefusedCase
from orchestrator.frameworks.source.edge_cases import EdgeCase, call_at, edge_cases, largest_size, sizes_of
from orchestrator.frameworks.source.samples import dtype_name, take_rows
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepError, refuse_on

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.frameworks.source.samples import Array, Samples

__all__ = ["Answer", "failed_call", "first_call", "refuse_nan", "resolve_outputs", "run_edge_cases", "run_samples"]

_CHUNK = 32


class Answer(Protocol):
    """One call of the source model: inputs by name, outputs by name."""

    def __call__(self, inputs: Mapping[str, Array], dim: str | None = None) -> dict[str, Array]:
        """The outputs; bfloat16 is returned as float32, because numpy lacks it.

        Args:
            inputs: every input by name.
            dim: the dimension whose range the call tests, if any.

        Raises:
            StepError: E321 the model does not accept these inputs, or E322 if the call tests a dimension's range.
            MemoryError: there is not enough memory.
        """


def failed_call(cause: str, signature: Signature, inputs: Mapping[str, Array], dim: str | None) -> StepError:
    """The error that an `Answer` raises if the framework fails on a call.

    Args:
        cause: the framework's message, in one line.
        signature: the model's.
        inputs: of the call.
        dim: the dimension whose range the call tests, if any.
    """
    given = ", ".join(f"{t.name} {inputs[t.name].dtype} {list(inputs[t.name].shape)}" for t in signature.inputs)
    if dim is None:
        return StepError(
            "E321",
            "the model does not accept the declared inputs",
            cause=cause,
            remedy="correct `inputs:` or the samples, or leave `inputs` out to have them read from the model",
            at=("model", "inputs"),
            notes=(f"given: {given}",),
        )
    low, high = signature.dims[dim]
    return StepError(
        "E322",
        f"the model fails for a size of `{dim}` within its declared range of {low} to {high}",
        cause=cause,
        remedy=f"declare a range of `{dim}` that the model accepts; where it takes only multiples, with `multiple_of`",
        at=("model", "dims", dim),
        notes=(f"given: {given}",),
    )


def first_call(samples: Samples, signature: Signature) -> dict[str, Array]:
    """One call with a few samples, to see what the model returns."""
    sizes = sizes_of(samples, signature)
    if signature.batch is not None:
        sizes[signature.batch] = signature.fitting(signature.batch, min(2, samples.rows))
    return call_at(samples, signature, sizes)


def run_samples(answer: Answer, signature: Signature, samples: Samples) -> dict[str, Array]:
    """The outputs on all samples by name, with rows as the first axis; batch by batch if the model has a batch dimension."""
    parts: list[dict[str, Array]] = []
    if signature.batch is None:
        sizes = sizes_of(samples, signature)
        for row in range(samples.rows):
            outputs = answer(call_at(samples, signature, sizes, row))
            parts.append({name: array[None] for name, array in outputs.items()})
    else:
        size = signature.fitting(signature.batch, _CHUNK)
        for start in range(0, samples.rows, size):
            count = min(size, samples.rows - start)
            # A remainder that is no batch of the model is padded with rows that are removed from the outputs.
            rows = np.arange(start, start + signature.covering(signature.batch, count)) % samples.rows
            outputs = answer(take_rows(samples, rows))
            parts.append({name: array[:count] for name, array in outputs.items()})
    with refuse_on(
        ValueError,
        "E326",
        "the shape of an output depends on the values of the inputs",
        cause=str,
        remedy="let the model return the same shape for inputs of the same shape, padded if necessary",
        at=("model", "outputs"),
    ):
        return {tensor.name: np.concatenate([part[tensor.name] for part in parts]) for tensor in signature.outputs}


def resolve_outputs(answer: Answer, signature: Signature, samples: Samples) -> Signature:
    """The signature with the dtype and shape of every output, found by running the model at both ends of every range.

    A size that does not equal a dimension (half of one, for instance) gets a name of its own, such as `out0_1` for the
    second dimension of the first output, with the observed range.

    Raises:
        StepError: E321, E322 the model fails, E326 an output does not have its declared shape, E327 an output has
            no batch dimension.
    """
    base = sizes_of(samples, signature)
    base.update({dim: low for dim, (low, _) in signature.dims.items() if dim == signature.batch})
    runs = [(base, answer(call_at(samples, signature, base)))]
    for dim, (low, _) in signature.dims.items():
        if not any(dim in (tensor.shape or ()) for tensor in signature.inputs):
            continue
        for size in dict.fromkeys((low, largest_size(signature, base, dim))):
            if size != base[dim]:
                at = {**base, dim: size}
                runs.append((at, answer(call_at(samples, signature, at), dim)))
    dims = dict(signature.dims)
    outputs = []
    for number, declared in enumerate(signature.outputs):
        seen = [(sizes, outputs_then[declared.name]) for sizes, outputs_then in runs]
        _check_rank(declared, number, [array for _, array in seen])
        shape: list[int | str] = []
        for axis in range(seen[0][1].ndim):
            found = [(sizes, array.shape[axis]) for sizes, array in seen]
            shape.append(_dimension(signature, number, axis, found, dims))
        if signature.batch is not None and (not shape or shape[0] != signature.batch):
            raise _no_batch(declared, number, [array.shape for _, array in seen], signature.batch)
        outputs.append(Tensor(declared.name, dtype_name(seen[0][1]), tuple(shape)))
    return replace(signature, outputs=tuple(outputs), dims=dims)


def _check_rank(declared: Tensor, number: int, arrays: Sequence[Array]) -> None:
    ranks = {array.ndim for array in arrays}
    if len(ranks) > 1 or (declared.shape is not None and ranks != {len(declared.shape)}):
        raise _other_shape(
            declared, number, arrays[0].shape, f"it has {' or '.join(map(str, sorted(ranks)))} dimensions"
        )


def _dimension(
    signature: Signature,
    number: int,
    axis: int,
    found: Sequence[tuple[Mapping[str, int], int]],
    dims: dict[str, tuple[int, int]],
) -> int | str:
    """The size or the name of one dimension of an output; a new name is added to `dims`."""
    declared = signature.outputs[number]
    wanted = None if declared.shape is None else declared.shape[axis]
    sizes = [size for _, size in found]
    named = [dim for dim in found[0][0] if all(at[dim] == size for at, size in found)]
    # A dimension whose range is a single size looks like a fixed size; the batch is recognized by its position.
    varying = [dim for dim in named if len({at[dim] for at, _ in found}) > 1 or (axis == 0 and dim == signature.batch)]
    constant = len(set(sizes)) == 1
    if isinstance(wanted, int):
        if not constant or sizes[0] != wanted:
            raise _other_shape(declared, number, None, f"dimension {axis} is {_seen(sizes)}, but {wanted} is declared")
        return wanted
    if isinstance(wanted, str):
        low, high = dims[wanted]
        is_input = any(wanted in (tensor.shape or ()) for tensor in signature.inputs)
        if wanted not in named and (is_input or not all(low <= size <= high for size in sizes)):
            where = next(
                (f" where `{wanted}` is {at[wanted]}" for at, size in found if is_input and at[wanted] != size), ""
            )
            cause = f"dimension {axis} is {_seen(sizes)}{where}, but `{wanted}` is declared"
            raise _other_shape(declared, number, None, cause)
        return wanted
    if varying:
        return varying[0]
    if constant:
        return sizes[0]
    name = f"out{number}_{axis}"
    dims[name] = (min(sizes), max(sizes))
    return name


def _seen(sizes: Sequence[int]) -> str:
    return " or ".join(str(size) for size in dict.fromkeys(sizes))


def _other_shape(declared: Tensor, number: int, actual: Sequence[int] | None, cause: str) -> StepError:
    wanted = "[" + ", ".join(map(str, declared.shape or ())) + "]"
    returned = "" if actual is None else f", such as {list(actual)}"
    return StepError(
        "E326",
        f"the output `{declared.name}` does not have the declared shape {wanted}"
        if declared.shape is not None
        else f"the number of dimensions of the output `{declared.name}` changes",
        cause=cause + returned,
        remedy="correct the shape, or leave it out to have it found by running the model",
        at=("model", "outputs", number, "shape") if declared.shape is not None else ("model", "outputs", number),
    )


def _no_batch(declared: Tensor, number: int, shapes: Sequence[Sequence[int]], batch: str) -> StepError:
    return StepError(
        "E327",
        f"the first dimension of the output `{declared.name}` is not `{batch}`",
        cause=f"its shape is {' or '.join(dict.fromkeys(str(list(shape)) for shape in shapes))}, so the rows of a batch "
        "cannot be told apart",
        remedy=f"let the model return one entry for each row, or declare the inputs without `{batch}`",
        at=("model", "outputs", number),
    )


def refuse_nan(outputs: Mapping[str, Array], samples: Samples) -> None:
    """Check that the model's outputs on the samples can be compared.

    Raises:
        StepError: E328, they contain NaN.
    """
    for number, (name, array) in enumerate(outputs.items()):
        if array.dtype.kind != "f" or not np.isnan(array).any():
            continue
        rows = np.flatnonzero(np.isnan(array).reshape(len(array), -1).any(axis=1))
        raise StepError(
            "E328",
            f"the model returns NaN in `{name}` for {len(rows)} of {samples.rows} samples",
            cause=f"the first is row {rows[0]}"
            + ("" if samples.real else "; the inputs are random, since no samples are given"),
            remedy="correct these samples or the model" if samples.real else "give real inputs in `samples:`",
            at=("model", "samples") if samples.real else ("model", "outputs", number),
        )


def run_edge_cases(
    answer: Answer, signature: Signature, samples: Samples
) -> tuple[list[tuple[EdgeCase, dict[str, Array]]], list[tuple[EdgeCase, RefusedCase]]]:
    """Every edge case with its outputs; and those with values or inner sizes that the model refuses, which is allowed.

    Raises:
        StepError: E322 the model fails at the smallest or largest size of a dimension.
    """
    answered, left_out = [], []
    for case in edge_cases(samples, signature):
        try:
            answered.append((case, answer(case.inputs, case.dim)))
        except StepError as error:
            if case.dim is not None and not case.inner:
                raise
            left_out.append((case, RefusedCase(name=case.name, reason=error.cause)))
    return answered, left_out
