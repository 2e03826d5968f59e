"""The step `probe` of all frameworks: finds out by calling a model what a spec has to say about its sizes and integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.artifacts.probed import Probed, ProbedDim, ProbedInput
from orchestrator.frameworks.source.independent_rows import found_rows
from orchestrator.frameworks.source.integer_ranges import searched_ranges
from orchestrator.frameworks.source.outputs import calls_at_both_ends, first_call, misdeclared, rank_changing
from orchestrator.frameworks.source.samples import LARGEST_INTEGER, STRING, random_samples
from orchestrator.frameworks.source.sizes import FoundSizes, SizeSearch
from orchestrator.frameworks.source.trials import Trials, shortened
from orchestrator.spec.signature import Allowed, Signature, Tensor
from orchestrator.steps.context import StepError
from orchestrator.steps.parameters import ProbeParameters

if TYPE_CHECKING:
    from orchestrator.frameworks.source.outputs import Answer
    from orchestrator.frameworks.source.samples import IntegerRange
    from orchestrator.steps.context import StepContext

__all__ = ["found_by_calls", "write_probed"]

_PATIENCE = 60.0
"""Seconds of computing for the search of sizes. What else the machine does is not counted."""

_MASK = "mask"


def write_probed(
    context: StepContext,
    answer: Answer,
    shown: Mapping[str, IntegerRange],
    compared: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, Any]:
    """Probe a loaded model, and write what was found.

    Args:
        context: of the step, with `ProbeParameters`.
        answer: calls the model.
        shown: input → the ids of the table that it looks up.
        compared: input that holds one number → the numbers that the graph compares it with.

    Returns:
        The facts.
    """
    found = found_by_calls(context, ProbeParameters.from_json(context.params), answer, shown, compared or {})
    found.write(context.output)
    return {"calls": found.calls, "questions": list(found.questions)}


def found_by_calls(
    context: StepContext,
    parameters: ProbeParameters,
    answer: Answer,
    shown: Mapping[str, IntegerRange],
    compared: Mapping[str, Sequence[int]],
) -> Probed:
    """What the model takes.

    Args:
        context: for progress.
        parameters: with the proposed signature.
        answer: as of `write_probed`.
        shown: as of `write_probed`.
        compared: as of `write_probed`.
    """
    signature = parameters.signature
    trials = Trials(signature, lambda inputs: answer(inputs).values(), [{}], _PATIENCE, context.progress)
    search = SizeSearch(signature, frozenset(parameters.stated), trials)
    for values in _alternatives(signature, shown, compared):
        trials.start_with(values)
        if search.first() is not None:
            break
    else:
        question = f"no inputs were found that the model takes: {trials.last_refusal}; give their sizes and values"
        return Probed(
            dims={},
            inputs={},
            misdeclared={},
            batch=signature.batch,
            why_batch="",
            questions=(question,),
            calls=trials.calls,
        )
    inputs = _compared_inputs(trials, search, compared) if compared else {}
    context.progress("finding sizes")
    sizes = search.found()
    narrowed = _narrowed(signature, sizes, inputs)
    context.progress("finding what integers may be")
    inputs |= _integers(narrowed, answer, shown)
    known = replace(narrowed, inputs=tuple(_allowed(tensor, inputs.get(tensor.name)) for tensor in narrowed.inputs))
    context.progress("finding out whether rows are independent")
    rows = found_rows(known, sizes.dims, answer)
    context.progress("finding what its outputs are")
    as_called = replace(known, batch=known.batch if known.batch == rows.batch else None)
    dims, other_shapes, questions = _with_outputs(as_called, dict(rows.dims), answer)
    return Probed(
        dims=dims,
        inputs=inputs,
        misdeclared=other_shapes,
        batch=rows.batch,
        why_batch=rows.why,
        questions=(*sizes.questions, *questions),
        calls=trials.calls,
    )


def _alternatives(
    signature: Signature, shown: Mapping[str, IntegerRange], compared: Mapping[str, Sequence[int]]
) -> Iterator[dict[str, Allowed]]:
    """What integers hold in the first calls, the most plausible first."""
    integers = [tensor for tensor in signature.inputs if _is_integer(tensor)]
    for low, high in ((0, 1), (1, 1), (0, 0), (16, 16), (100, 100)):
        values = {tensor.name: Allowed((low, high), None) for tensor in integers}
        values |= {name: Allowed((found.low, found.high), None) for name, found in shown.items()}
        numbers = {name: Allowed(None, (each[0],)) for name, each in compared.items() if each}
        yield values | numbers
        if not integers or set(shown) | set(numbers) >= {tensor.name for tensor in integers}:
            return


def _is_integer(tensor: Tensor) -> bool:
    return tensor.dtype not in {STRING, "bool"} and np.dtype(tensor.dtype).kind in "iu"


def _compared_inputs(
    trials: Trials, search: SizeSearch, compared: Mapping[str, Sequence[int]]
) -> dict[str, ProbedInput]:
    """The values of inputs that the graph compares with numbers; afterwards every size is tried with each of them."""
    found: dict[str, ProbedInput] = {}
    alternatives: list[Mapping[str, Allowed]] = list(trials.values)
    first = alternatives[0]
    for name, numbers in compared.items():
        taken = []
        for number in numbers:
            trials.start_with({**first, name: Allowed(None, (number,))})
            if search.first() is not None:
                taken.append(number)
        every: list[Mapping[str, Allowed]] = [
            {**values, name: Allowed(None, (number,))} for values in alternatives for number in taken
        ]
        trials.start_with(*every or alternatives)
        if taken and search.first() is None:  # no size suits all of them
            taken, every = taken[:1], [{**values, name: Allowed(None, (taken[0],))} for values in alternatives]
        if not taken:
            continue
        alternatives = every
        listed = " and ".join(map(str, numbers))
        found[name] = ProbedInput(
            None,
            tuple(taken),
            f"the graph compares it with {listed}, and computes otherwise for other numbers; add those that clients send",
            question=len(taken) < max(2, len(numbers)),
        )
    trials.start_with(*alternatives)
    search.first()
    return found


def _narrowed(signature: Signature, sizes: FoundSizes, inputs: Mapping[str, ProbedInput]) -> Signature:
    """The signature with the sizes and values that were found, and one name for dimensions that are the same."""
    same = {name: dim.same_as for name, dim in sizes.dims.items() if dim.same_as is not None}

    def known(tensor: Tensor) -> Tensor:
        shape = None if tensor.shape is None else tuple(same.get(str(dim), dim) for dim in tensor.shape)
        return replace(_allowed(tensor, inputs.get(tensor.name)), shape=shape)

    dims = {**signature.dims, **{name: (dim.low, dim.high) for name, dim in sizes.dims.items()}}
    return replace(
        signature,
        inputs=tuple(map(known, signature.inputs)),
        outputs=tuple(map(known, signature.outputs)),
        dims={name: found for name, found in dims.items() if name not in same},
        multiples={name: dim.step for name, dim in sizes.dims.items() if dim.step > 1 and name not in same},
    )


def _allowed(tensor: Tensor, found: ProbedInput | None) -> Tensor:
    if found is None or (found.range is None and found.values is None):
        return tensor
    return replace(tensor, allowed=Allowed(found.range, found.values))


def _integers(signature: Signature, answer: Answer, shown: Mapping[str, IntegerRange]) -> dict[str, ProbedInput]:
    """What integer inputs may hold, except for those that are known."""
    ranges, reasons = searched_ranges(signature, shown, lambda inputs: answer(inputs).values(), 0)
    found = {}
    for name, drawn in ranges.items():
        dtype = next(tensor.dtype for tensor in signature.inputs if tensor.name == name)
        whole = np.iinfo(dtype)
        if name in reasons and drawn.low == -drawn.high - 1 < -1:  # the negative ones count from the end of a table
            found[name] = ProbedInput((0, drawn.high), None, f"ids: it looks up a table of {drawn.high + 1:,}")
        elif (
            name in reasons
            and drawn.high < min(whole.max, LARGEST_INTEGER)
            and _grows(signature, name, drawn.high, ranges, answer)
        ):
            found[name] = ProbedInput((max(0, drawn.low), drawn.high), None, _length(drawn.high), question=True)
        elif name in reasons:
            found[name] = ProbedInput((drawn.low, drawn.high), None, f"others fail: {shortened(reasons[name])}")
        elif name in shown:
            found[name] = ProbedInput((drawn.low, drawn.high), None, f"ids: it looks up a table of {drawn.high + 1:,}")
        elif _MASK in name.lower():
            found[name] = ProbedInput((drawn.low, drawn.high), None, "assumed from its name", question=True)
        elif _unused(signature, name, drawn, ranges, answer):
            found[name] = ProbedInput(None, None, "none of the integers that were tried changes an output")
        elif (drawn.low, drawn.high) != (whole.min, whole.max) or drawn.high >= LARGEST_INTEGER:
            found[name] = ProbedInput(None, None, _unknown(drawn), question=True)
    return found


def _grows(signature: Signature, name: str, high: int, ranges: Mapping[str, IntegerRange], answer: Answer) -> bool:
    """Whether the input may hold more than `high`, the most that works with all sizes, where all sizes are at their largest."""
    batch = signature.batch
    sizes = {dim: (low if dim == batch else most,) * 2 for dim, (low, most) in signature.dims.items()}
    largest = replace(signature, dims=sizes)
    inputs = first_call(random_samples(largest, 0, ranges), largest)
    try:
        answer({**inputs, name: np.full_like(inputs[name], high + 1)})
    except (StepError, MemoryError):
        return False
    return True


def _length(high: int) -> str:
    return (
        f"up to {high} works with all sizes of the inputs, and more with larger ones, as for a length or a position: "
        "give real `samples`, and then leave its `range` out"
    )


def _unused(
    signature: Signature, name: str, drawn: IntegerRange, ranges: Mapping[str, IntegerRange], answer: Answer
) -> bool:
    """Whether the outputs are the same, bit for bit, whatever the input holds."""
    first = first_call(random_samples(signature, 0, ranges), signature)
    expected: dict[str, bytes] | None = None
    for number in sorted({each for each in (drawn.low, 0, 1, drawn.high) if drawn.low <= each <= drawn.high}):
        try:
            outputs = answer({**first, name: np.full_like(first[name], number)})
        except (StepError, MemoryError):
            return False
        given = {output: array.tobytes() for output, array in outputs.items()}
        expected = given if expected is None else expected
        if given != expected:
            return False
    return True


def _unknown(drawn: IntegerRange) -> str:
    return (
        "what its integers mean is unknown: give `range: [SMALLEST, LARGEST]`, or real `samples`; "
        f"until then random ones go from {drawn.low:,} to {drawn.high:,}, which all work"
    )


def _with_outputs(
    signature: Signature, dims: dict[str, ProbedDim], answer: Answer
) -> tuple[dict[str, ProbedDim], dict[str, str], list[str]]:
    """The dimensions, the outputs that have not the shape that the model's file states, and questions.

    The batch is of 1 if an output then has another number of dimensions than in larger batches.
    """
    batch = signature.batch
    bounds = {name: (dim.low, dim.high) for name, dim in dims.items() if dim.same_as is None}
    signature = replace(signature, dims={**signature.dims, **bounds})
    try:
        runs = calls_at_both_ends(answer, signature, random_samples(signature, 0))
    except StepError:
        return dims, {}, []  # the import step says so
    if (changed := rank_changing(runs)) is not None and batch is not None and dims[batch].low == 1:
        runs = [(at, outputs) for at, outputs in runs if at[batch] == 1]
        signature = replace(signature, dims={**signature.dims, batch: (1, 1)})
        why = f"the number of dimensions of the output `{changed}` is another in larger batches"
        dims = {**dims, batch: ProbedDim(1, 1, 1, why)}
        changed = rank_changing(runs)
    questions = [] if changed is None else [_rank_changes(changed)]
    return dims, misdeclared(signature, runs), questions


def _rank_changes(output: str) -> str:
    return (
        f"the number of dimensions of the output `{output}` changes with the sizes of the inputs; "
        "declare ranges in which it does not"
    )
