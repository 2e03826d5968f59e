"""Verifies that a PyTorch source is in evaluation mode: outputs repeat, and rows do not depend on their batch.

If that fails, the model is run again with every operation recorded. The error names the first operation that returns
different results for the same tensors, with its layer and its line in the user's code.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from orchestrator.frameworks.pytorch.calls import guarded_call, lacks_rows_for_statistics
from orchestrator.frameworks.pytorch.programs import ProgramByPosition
from orchestrator.frameworks.pytorch.runtime import as_tensors
from orchestrator.frameworks.source.comparison import (
    amplifies_rounding,
    apart_by_first_dimension,
    compared_sizes,
    holds_rows,
    rows_in_two_batches,
    with_second_row,
)
from orchestrator.frameworks.source.edge_cases import call_at
from orchestrator.frameworks.source.padding import padding_of_difference
from orchestrator.frameworks.source.rounding import RowCheck, turned_rows
from orchestrator.steps.context import StepError, refuse_as
from orchestrator.steps.reasons import headline

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestrator.frameworks.source.padding import Padding
    from orchestrator.frameworks.source.rounding import Call
    from orchestrator.frameworks.source.samples import Array, Samples
    from orchestrator.spec.signature import Signature

__all__ = ["TOLERANCE", "verify_evaluation_mode"]

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""The tolerance between two results for the same row: this, plus this times the output's largest value."""

_AT = ("model", "source", "weights")
_AT_CODE = ("model", "source", "factory")
_RANDOM = ("bernoulli", "dropout", "multinomial", "normal", "poisson", "rand", "exponential", "uniform", "rrelu")
_GENERATED = (torch.jit.ScriptModule, torch.fx.GraphModule, ProgramByPosition)  # their classes mean nothing to the user
_SAVED = "save it again after model.eval()"
_FIRST, _LAST = slice(0, 1), slice(-1, None)
_ROWS_LAST = 2


@dataclass(frozen=True, slots=True)
class _Operation:
    """One call of an operator: its inputs, its results, and its position in the code."""

    name: str
    given: list[Any]
    result: list[torch.Tensor]
    place: str


class _Watch(TorchDispatchMode):  # type: ignore[misc]  # torch is not typed here
    """Records the inputs and results of every operator."""

    def __init__(self, model: torch.nn.Module, project: Path) -> None:
        super().__init__()
        self._names = {id(module): name for name, module in model.named_modules()}
        self._weights = {id(weight) for weight in model.parameters()}
        self._project = project
        self.operations: list[_Operation] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # Weights do not change and may be large; anything else could be overwritten later.
        given = [
            leaf.clone() if isinstance(leaf, torch.Tensor) and id(leaf) not in self._weights else leaf
            for leaf in pytree.tree_leaves((args, kwargs or {}))
        ]
        result = func(*args, **(kwargs or {}))
        kept = [leaf.clone() for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.operations.append(_Operation(str(func), given, kept, self._place()))
        return result

    def _place(self) -> str:
        layer = line = ""
        frame = sys._getframe(2)  # noqa: SLF001 - the only way to the caller's line
        while frame is not None:
            owner = frame.f_locals.get("self")
            if not layer and id(owner) in self._names and not isinstance(owner, _GENERATED):
                name = self._names[id(owner)]
                layer = f"`{name}` ({type(owner).__name__})" if name else f"`{type(owner).__name__}`"
            path = Path(frame.f_code.co_filename)
            if not line and path.is_relative_to(self._project) and "site-packages" not in path.parts:
                line = f"{path.relative_to(self._project)}:{frame.f_lineno}"
            if frame.f_back is None:
                break
            frame = frame.f_back
        return ", ".join(part for part in (layer and f"layer {layer}", line) if part)


def verify_evaluation_mode(
    model: torch.nn.Module, signature: Signature, samples: Samples, project: Path, *, saved_in_training: bool = False
) -> list[str]:
    """Run some rows twice and in different batches, and compare.

    Args:
        model: on the CPU, put into evaluation mode.
        signature: as declared.
        samples: at least one row.
        project: where the user's code lies.
        saved_in_training: whether the file states that it was saved in training mode.

    Returns:
        Notes: a sentence for each output that differs because the model amplifies rounding.

    Raises:
        StepError: E330 random numbers are drawn, E331 rows influence each other, E332 a call affects the next.
    """
    dim = signature.batch
    if dim is not None:
        samples = with_second_row(samples, signature)
    inputs = call_at(samples, signature, compared_sizes(samples, signature))
    once, twice = (_leaves(model, signature, inputs, project) for _ in range(2))
    if _differing(once, twice):
        raise _Failure(model, signature, inputs, inputs, project, saved_in_training).explain()
    moved: set[int] = set()
    if dim is None:
        return []
    check = RowCheck(
        _arrays_of(model, signature, project), signature, _arrays_close, _in_double(model, signature, project)
    )
    calls = list(rows_in_two_batches(samples, signature, dim))
    tried = [(few, many, _FIRST) for few, many in calls]
    # The first row of a sequence depends on no other one where it is read forwards, so some stand last too.
    tried += [(turned_rows(few), turned_rows(many), _LAST) for few, many in calls[:_ROWS_LAST]]
    for few, many, row in tried:
        failure = _Failure(model, signature, many, few, project, saved_in_training, row is _LAST)
        try:
            alone = _leaves(model, signature, few, project)
        except StepError as error:
            if lacks_rows_for_statistics(error):
                raise failure.explain() from error
            raise
        together = _leaves(model, signature, many, project)
        if not all(
            holds_rows(leaf.shape, each) for each, leaves in ((few, alone), (many, together)) for leaf in leaves
        ):
            return []  # such a model is not called with batches
        differing = _differing(together, alone, row)
        if differing and not check.only_rounding(few, many, last=row is _LAST):
            place = differing[0]
            first = {name: array[row] for name, array in few.items()}
            padding = padding_of_difference(
                first, _array(alone[place][row]), _array(together[place][row]), _arrays_close, batched=True
            )
            raise failure.explain(None if padding is None else (signature.outputs[place].name, padding))
        moved.update(differing)
    return [amplifies_rounding(tensor.name) for place, tensor in enumerate(signature.outputs) if place in moved]


def _arrays_of(model: torch.nn.Module, signature: Signature, project: Path) -> Call:
    def call(inputs: Mapping[str, Array]) -> list[Array]:
        leaves = _leaves(model, signature, inputs, project)
        return [_array(leaf) for leaf in leaves]

    return call


def _array(leaf: torch.Tensor) -> Array:
    array: Array = (leaf.float() if leaf.dtype is torch.bfloat16 else leaf).numpy(force=True)
    return array


def _in_double(model: torch.nn.Module, signature: Signature, project: Path) -> Call:
    """The same model with weights and inputs in double precision; it is made when it is needed."""

    def call(inputs: Mapping[str, Array]) -> list[Array]:
        with refuse_as(Exception, lambda error: StepError("E331", "there is no such copy", cause=headline(error))):
            precise = copy.deepcopy(model).double()
        doubles = {
            name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in inputs.items()
        }
        return _arrays_of(precise, signature, project)(doubles)

    return call


def _arrays_close(one: Array, other: Array) -> bool:
    return _close(torch.from_numpy(one.copy()), torch.from_numpy(other.copy()))


@dataclass(frozen=True, slots=True)
class _Failure:
    """Two calls that should agree but do not, with everything needed to find the reason."""

    model: torch.nn.Module
    signature: Signature
    many: Mapping[str, Array]
    few: Mapping[str, Array]
    project: Path
    saved_in_training: bool
    last: bool = False

    def explain(self, padded: tuple[str, Padding] | None = None) -> StepError:
        """Run both calls under the recorder and name the operation where they first differ.

        Args:
            padded: an output and the padding, if it differs at padded positions only.
        """
        operation, by_state = self._first_difference()
        name = operation.name.lower() if operation else ""
        where = f"`{operation.name}`" + (f" in {operation.place}" if operation.place else "") if operation else ""
        code = bool(operation and operation.place)
        at = _AT_CODE if code else _AT
        if any(word in name for word in _RANDOM):
            drops = "dropout" in name or "bernoulli" in name
            remedy = "draw nothing at random in `forward`, or make the random values an input"
            if drops:
                remedy = "use torch.nn.Dropout, or F.dropout(x, training=self.training)"
            return StepError(
                "E330",
                "the model's outputs change when a call is repeated: dropout or other randomness is active",
                cause=f"{where} draws random numbers although the model was put into evaluation mode",
                remedy=_SAVED if drops and not code else remedy,
                at=at,
            )
        if self.many is self.few or by_state:
            return StepError(
                "E332",
                "the model's outputs change when a call is repeated: one call affects the next",
                cause=f"{where or 'something'} reads what an earlier call left behind in the model",
                remedy="keep no state between calls, or make it an input and an output",
                at=at,
            )
        if "norm" in name:
            cause = f"{where} normalizes by the statistics of the batch, as in training"
            remedy = "use a norm with track_running_stats=True, and leave it in evaluation mode" if code else _SAVED
        else:
            cause = f"{where or 'an operation'} mixes the rows of a batch"
            remedy = apart_by_first_dimension(self.signature)
            if padded is not None:
                output, padding = padded
                cause += f", at padded positions only: where `{padding.input}` is {padding.value}"
                remedy = padding.remedy(output)
        if self.saved_in_training:
            remedy = _SAVED
        return StepError(
            "E331",
            "a row's outputs depend on the other rows of its batch: batch statistics, or other mixing of rows",
            cause=cause,
            remedy=remedy,
            at=at,
        )

    def _first_difference(self) -> tuple[_Operation | None, bool]:
        """The first operation whose results differ for the same inputs, and whether its inputs already differed."""
        few, many = self._watched(self.few), self._watched(self.many)
        for one, other in zip(few, many, strict=False):
            if one.name != other.name:
                break
            if any(word in one.name for word in ("empty", "new_")):
                continue  # uninitialized memory
            row = None if self.many is self.few else (_LAST if self.last else _FIRST)
            same_given = _agree(one.given, other.given, row)
            if row is None and not same_given:
                return other, True
            if same_given and not _agree(one.result, other.result, row):
                return other, False
        longer = few if len(few) > len(many) else many
        return (longer[-1] if longer else None), False

    def _watched(self, inputs: Mapping[str, Array]) -> list[_Operation]:
        watch = _Watch(self.model, self.project)
        tensors = as_tensors(self.signature, inputs)
        try:
            with torch.inference_mode(), watch:
                self.model(*tensors)
        # The call may fail, for instance in batch statistics of one row; then the recording ends with the operation before.
        except Exception:  # noqa: BLE001 - what was recorded until then is reported
            return watch.operations
        return watch.operations


def _leaves(
    model: torch.nn.Module, signature: Signature, inputs: Mapping[str, Array], project: Path
) -> list[torch.Tensor]:
    returned = guarded_call(model, signature, inputs, project, signature.batch)
    return [leaf.clone() for leaf in pytree.tree_leaves(returned) if isinstance(leaf, torch.Tensor)]


def _differing(many: list[torch.Tensor], few: list[torch.Tensor], row: slice | None = None) -> list[int]:
    """Which outputs differ; with a `row`, only that one is compared."""
    found = []
    for place, (one, other) in enumerate(zip(many, few, strict=True)):
        if row is None:
            same = one.shape == other.shape and _close(one, other)
        elif one.shape[1:] != other.shape[1:]:
            continue  # a model whose shapes depend on other rows is not called with batches
        else:
            same = _close(one[row], other[row])
        if not same:
            found.append(place)
    return found


def _agree(few: list[Any], many: list[Any], row: slice | None) -> bool:
    """Whether two lists of values are the same; with a `row`, only that one of tensors is compared."""
    for one, other in zip(few, many, strict=False):
        if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
            continue
        left, right = (one, other) if row is None or not one.ndim or not other.ndim else (one[row], other[row])
        # Tensors of different layouts cannot be compared, and count as equal.
        if left.shape == right.shape and not _close(left, right):
            return False
    return True


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    if not one.dtype.is_floating_point:
        return bool(torch.equal(one, other))
    allowed = TOLERANCE.get(one.dtype, 1e-5)
    left, right = one.double(), other.double()
    finite = torch.isfinite(left) & torch.isfinite(right)
    largest = float(left[finite].abs().max()) if bool(finite.any()) else 0.0
    return bool(torch.allclose(left, right, rtol=0.0, atol=allowed * (1 + largest), equal_nan=True))
