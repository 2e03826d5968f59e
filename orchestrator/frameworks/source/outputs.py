"""Finds the shapes of a source model's outputs and runs it on samples and edge cases, whatever its framework."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from orchestrator.artifacts.baseline import Answers, answers_of
from orchestrator.artifacts.imported import RefusedCase
from orchestrator.frameworks.source.edge_cases import EdgeCase, call_at, edge_cases, largest_size, sizes_of
from orchestrator.frameworks.source.samples import dtype_name, take_rows
from orchestrator.spec.signature import Signature, Tensor
from orchestrator.steps.context import StepError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestrator.frameworks.source.samples import Array, Samples

__all__ = [
    "Answer",
    "NotByRow",
    "calls_at_both_ends",
    "failed_call",
    "first_call",
    "misdeclared",
    "rank_changing",
    "refuse_nan",
    "resolve_outputs",
    "run_edge_cases",
    "run_samples",
    "with_seen_shapes",
]

Outputs = dict[str, "Array"]
"""Of one call, by name."""

_CHUNK = 32
_ROWS_ALONE = 4


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


class NotByRow(Exception):
    """The outputs of a batch cannot be told apart by rows.

    Attributes:
        output: the name of an output that shows it.
        why: a clause.
    """

    def __init__(self, output: str, why: str) -> None:
        super().__init__(why)
        self.output = output
        self.why = why


def run_samples(answer: Answer, signature: Signature, samples: Samples) -> dict[str, Answers]:
    """The outputs on all samples by name; batch by batch if the model has a batch dimension.

    Raises:
        NotByRow: an output has not one entry for each row, or its shape depends on the other rows.
    """
    names = [tensor.name for tensor in signature.outputs]
    if signature.batch is None:
        sizes = sizes_of(samples, signature)
        calls = [answer(call_at(samples, signature, sizes, row)) for row in range(samples.rows)]
        return {name: answers_of([call[name] for call in calls]) for name in names}
    size = signature.fitting(signature.batch, _CHUNK)
    parts: list[dict[str, Array]] = []
    for start in range(0, samples.rows, size):
        count = min(size, samples.rows - start)
        # A remainder that is no batch of the model is padded with rows that are removed from the outputs.
        outputs = _rows_called(answer, signature, samples, start, signature.covering(signature.batch, count))
        parts.append({name: array[:count] for name, array in outputs.items()})
    low, _ = signature.dims[signature.batch]
    few = [_rows_called(answer, signature, samples, row, low) for row in range(min(_ROWS_ALONE, samples.rows))]
    for name in names:
        inner = list(dict.fromkeys(part[name].shape[1:] for part in (*parts, *few)))
        if len(inner) > 1:
            raise NotByRow(name, f"the shape of a row is {list(inner[0])} in one batch and {list(inner[1])} in another")
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def _rows_called(answer: Answer, signature: Signature, samples: Samples, start: int, count: int) -> dict[str, Array]:
    """The outputs of a call with samples from `start` on; the first follow the last."""
    outputs = answer(take_rows(samples, np.arange(start, start + count) % samples.rows))
    _check_rows(signature, outputs, count)
    return outputs


def _check_rows(signature: Signature, outputs: Mapping[str, Array], rows: int) -> None:
    for tensor in signature.outputs:
        shape = outputs[tensor.name].shape
        if shape[:1] != (rows,):
            raise NotByRow(tensor.name, f"its shape is {list(shape)} for a batch of {rows}")


def resolve_outputs(answer: Answer, signature: Signature, samples: Samples) -> Signature:
    """The signature with the dtype and shape of every output, found by running the model at both ends of every range.

    A size that does not equal a dimension (half of one, for instance) gets a name of its own, such as `out0_1` for the
    second dimension of the first output, with the observed range.

    Raises:
        StepError: E321, E322 the model fails, E326 an output does not have its declared shape.
        NotByRow: the model has a batch dimension, and an output does not begin with it.
    """
    runs = calls_at_both_ends(answer, signature, samples)
    dims = dict(signature.dims)
    outputs = []
    for number, declared in enumerate(signature.outputs):
        seen = [(sizes, outputs_then[declared.name]) for sizes, outputs_then in runs]
        shape = _shape_of(signature, number, seen, dims)
        if signature.batch is not None and (not shape or shape[0] != signature.batch):
            shapes = dict.fromkeys(str(list(array.shape)) for _, array in seen)
            raise NotByRow(declared.name, f"its shape is {' or '.join(shapes)}")
        outputs.append(Tensor(declared.name, dtype_name(seen[0][1]), tuple(shape)))
    return replace(signature, outputs=tuple(outputs), dims=dims)


def calls_at_both_ends(answer: Answer, signature: Signature, samples: Samples) -> list[tuple[dict[str, int], Outputs]]:
    """The model's outputs with each dimension of an input at both ends of its range, beside the sizes of that call.

    Raises:
        StepError: E321, E322 the model fails.
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
    return runs


def _shape_of(
    signature: Signature, number: int, seen: Sequence[tuple[Mapping[str, int], Array]], dims: dict[str, tuple[int, int]]
) -> tuple[int | str, ...]:
    """The shape of one output; new names are added to `dims`.

    Raises:
        StepError: E326, it is not as declared.
    """
    _check_rank(signature.outputs[number], number, [array for _, array in seen])
    return tuple(
        _dimension(signature, number, axis, [(sizes, array.shape[axis]) for sizes, array in seen], dims)
        for axis in range(seen[0][1].ndim)
    )


def misdeclared(signature: Signature, runs: Sequence[tuple[Mapping[str, int], Outputs]]) -> dict[str, str]:
    """The outputs that do not have their declared shape, and what they have instead, a phrase.

    Args:
        signature: with declared outputs; those without a shape are left out.
        runs: of `calls_at_both_ends`.
    """
    wrong = {}
    for number, declared in enumerate(signature.outputs):
        if declared.shape is not None:
            try:
                _shape_of(signature, number, [(at, given[declared.name]) for at, given in runs], dict(signature.dims))
            except StepError as error:
                wrong[declared.name] = error.cause
    return wrong


def rank_changing(runs: Sequence[tuple[Mapping[str, int], Outputs]]) -> str | None:
    """The first output that has not the same number of dimensions in all of these calls; None if there is none."""
    return next((name for name in runs[0][1] if len({outputs[name].ndim for _, outputs in runs}) > 1), None)


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
            other = next(
                (f"{size} where `{wanted}` is {at[wanted]}" for at, size in found if is_input and at[wanted] != size),
                "",
            )
            cause = f"dimension {axis} is {other or _seen(sizes)}, but `{wanted}` is declared"
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
        remedy=f"correct the shape, or declare `{{name: {declared.name}}}` without one to have it found by running the model"
        if declared.shape is not None
        else "declare a range of `dims:` in which it does not change; a batch of one is `{min: 1, max: 1}`",
        at=("model", "outputs", number, "shape") if declared.shape is not None else ("model", "outputs", number),
    )


def with_seen_shapes(
    signature: Signature, declared: Signature, calls: Iterable[tuple[Mapping[str, Array], Mapping[str, Array]]]
) -> tuple[Signature, list[str]]:
    """The signature with a range for every dimension of an output that depends on the values of the inputs.

    Args:
        signature: with resolved outputs.
        declared: as the spec has it.
        calls: inputs and outputs of all calls.

    Returns:
        The signature, and the names of the outputs that have such a dimension.

    Raises:
        StepError: E326, an output does not have its declared shape, or not always the same number of dimensions.
    """
    seen = [(_sizes_in(signature, inputs), outputs) for inputs, outputs in calls]
    dims, outputs, varying = dict(signature.dims), [], []
    for number, tensor in enumerate(signature.outputs):
        assert tensor.shape is not None, "outputs are resolved"
        _check_rank(declared.outputs[number], number, [given[tensor.name] for _, given in seen])
        shape = list(tensor.shape)
        for axis, dim in enumerate(tensor.shape):
            sizes = [given[tensor.name].shape[axis] for _, given in seen]
            if isinstance(dim, str) and all(dim not in at for at, _ in seen):
                low, high = dims[dim]
                fits = all(low <= size <= high for size in sizes)
            else:
                fits = all(at.get(str(dim), dim) == size for (at, _), size in zip(seen, sizes, strict=True))
            if fits:
                continue
            if declared.outputs[number].shape is not None:
                cause = f"dimension {axis} is from {min(sizes)} to {max(sizes)}, depending on the values of the inputs"
                raise _other_shape(declared.outputs[number], number, None, cause)
            shape[axis] = name = f"out{number}_{axis}"
            dims[name] = (min(sizes), max(sizes))
            varying.append(tensor.name)
        outputs.append(replace(tensor, shape=tuple(shape)))
    return replace(signature, outputs=tuple(outputs), dims=dims), list(dict.fromkeys(varying))


def _sizes_in(signature: Signature, inputs: Mapping[str, Array]) -> dict[str, int]:
    """The size of every named dimension in the inputs of a call."""
    return {
        dim: size
        for tensor in signature.inputs
        for dim, size in zip(tensor.shape or (), inputs[tensor.name].shape, strict=True)
        if isinstance(dim, str)
    }


def refuse_nan(outputs: Mapping[str, Answers], samples: Samples) -> None:
    """Check that the model's outputs on the samples can be compared.

    Raises:
        StepError: E328, they contain NaN.
    """
    for number, (name, answers) in enumerate(outputs.items()):
        rows = [row for row, array in enumerate(answers) if array.dtype.kind == "f" and np.isnan(array).any()]
        if not rows:
            continue
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
        NotByRow: the model has a batch dimension, and an output has not one entry for each row.
    """
    answered, left_out = [], []
    for case in edge_cases(samples, signature):
        try:
            outputs = answer(case.inputs, case.dim)
        except StepError as error:
            if case.dim is not None and not case.inner:
                raise
            left_out.append((case, RefusedCase(name=case.name, reason=error.cause)))
            continue
        if signature.batch is not None:
            _check_rows(signature, outputs, len(next(iter(case.inputs.values()))))
        answered.append((case, outputs))
    return answered, left_out
