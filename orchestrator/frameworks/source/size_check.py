"""Runs a converted model beside its source at the smallest and the largest size of every dimension.

A conversion that "succeeded" may have fixed a size or a branch. This check is about that and its tolerance is loose;
`measure/verify.py` judges values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.frameworks.pytorch.export_failure import headline
from orchestrator.frameworks.source.edge_inputs import EdgeCase, call_at, edge_cases, largest_size, sizes_of
from orchestrator.steps import StepError

if TYPE_CHECKING:
    from orchestrator.frameworks.source.samples import Array, Samples
    from orchestrator.spec.signature import Signature

__all__ = ["Call", "check_sizes", "trace_sizes"]

_LOOSE = 0.02
"""Of an output's largest magnitude; for integers, of the share of elements."""

Call = Callable[[Mapping[str, "Array"]], Mapping[str, "Array"]]


def trace_sizes(samples: Samples, signature: Signature) -> dict[str, int]:
    """A size for every dimension to trace with: the samples' own, but at least 2 where the range allows it.

    Exporters take a size of 0 or 1 for a constant.
    """
    sizes = sizes_of(samples, signature)
    return {dim: min(max(size, 2), signature.dims[dim][1]) for dim, size in sorted(sizes.items())}


def check_sizes(signature: Signature, samples: Samples, source: Call, converted: Call) -> list[str]:
    """Call both on zeros, on extreme values and at the smallest and largest size of every dimension and of all together.

    Returns:
        The names of the calls that were made.

    Raises:
        StepError: E423, naming the dimension and the size, when shapes or values are off or one of the two raises.
    """
    done = []
    for case in _cases(samples, signature):
        try:
            expected = source(case.inputs)
        # A model may refuse extreme values in any way, and `import` has told so; there is nothing to compare with then.
        except Exception as error:
            if case.dim is None:
                continue
            raise _failed(f"the source model fails with {case.name}", case, headline(error)) from error
        actual = _called(converted, case, "the converted model fails, and its source does not,")
        for tensor in signature.outputs:
            if off := _difference(expected[tensor.name], actual[tensor.name]):
                cause = f"output {tensor.name}: {off}"
                raise _failed(f"the converted model differs from its source with {case.name}", case, cause)
        done.append(case.name)
    return done


def _cases(samples: Samples, signature: Signature) -> Iterator[EdgeCase]:
    yield from edge_cases(samples, signature)
    if len(signature.dims) > 1:
        smallest = {dim: low for dim, (low, _) in signature.dims.items()}
        yield EdgeCase("every dimension at its smallest", call_at(samples, signature, smallest))
        largest = smallest
        for dim in signature.dims:
            largest = {**largest, dim: largest_size(signature, largest, dim)}
        yield EdgeCase("every dimension at its largest", call_at(samples, signature, largest))
    # Other values in the same shapes find a branch that was fixed by the values of the trace.
    for row in range(1, min(samples.rows, 4)):
        yield EdgeCase(f"sample {row}", call_at(samples, signature, sizes_of(samples, signature), row))


def _called(call: Call, case: EdgeCase, complaint: str) -> Mapping[str, Array]:
    try:
        return call(case.inputs)
    except StepError:
        raise
    # A model's code may raise anything; it is the model's fault and is told.
    except Exception as error:
        raise _failed(f"{complaint} with {case.name}", case, headline(error)) from error


def _failed(message: str, case: EdgeCase, cause: str) -> StepError:
    if case.dim is None:
        return StepError("E423", message, cause=cause)
    return StepError(
        "E423",
        message,
        cause=cause,
        remedy="take sizes from the tensor's shape in the model's code, or narrow the range of the dimension",
        at=("model", "dims", case.dim),
    )


def _difference(expected: Array, actual: Array) -> str | None:
    if expected.shape != actual.shape:
        return f"shape {list(actual.shape)} instead of {list(expected.shape)}"
    if expected.dtype.kind != actual.dtype.kind:
        return f"{actual.dtype} instead of {expected.dtype}"
    if expected.size == 0:
        return None
    if expected.dtype.kind != "f":
        share = float(np.mean(expected != actual))
        return f"{share:.1%} of the values are others" if share > _LOOSE else None
    wide, other = expected.astype(np.float64), actual.astype(np.float64)
    finite = np.isfinite(wide)
    if not np.array_equal(finite, np.isfinite(other)):
        return "NaN or infinity on one side only"
    if not finite.any():
        return None
    scale = max(float(np.abs(wide[finite]).max()), 1e-6)
    error = float(np.abs(wide[finite] - other[finite]).max())
    return f"values are off by {error:.3g} where the largest is {scale:.3g}" if error > _LOOSE * scale else None
