"""The first calls of a PyTorch source, which check its inputs and outputs against the spec."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from orchestrator.frameworks.pytorch.programs import ProgramByPosition
from orchestrator.frameworks.pytorch.runtime import as_tensors
from orchestrator.frameworks.source.user_code import raised_notes
from orchestrator.steps.context import StepError, refuse_as
from orchestrator.steps.reasons import headline_with_type

if TYPE_CHECKING:
    from pathlib import Path

    from orchestrator.frameworks.source.samples import Array
    from orchestrator.spec.signature import Signature

__all__ = ["call_model", "check_inputs", "declared_outputs", "guarded_call", "lacks_rows_for_statistics"]

_AT_INPUTS = ("model", "inputs")
_AT_OUTPUTS = ("model", "outputs")
_TENSOR_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_.]{0,63}$")
_DTYPE_WORDS = ("dtype", "scalar type", "data type", "should be the same", "IntTensor", "LongTensor")


def check_inputs(model: torch.nn.Module, signature: Signature) -> None:
    """Compare `inputs:` with the positional parameters of the model's `forward`.

    Raises:
        StepError: E320.
    """
    names = [tensor.name for tensor in signature.inputs]
    parameters = _parameters(model)
    if parameters is None:
        return
    positional, needed, keyword_only, unlimited = parameters
    takes = f"forward takes ({', '.join([*positional, *(f'{name}=' for name in keyword_only)])})"
    if keyword_only:
        raise StepError(
            "E320",
            f"the model takes `{keyword_only[0]}` by keyword only, but inputs are given by position",
            cause=takes,
            remedy="give the model a `forward` that takes its inputs by position",
            at=_AT_INPUTS,
        )
    if len(names) < needed:
        raise StepError(
            "E320",
            f"the model takes {needed} inputs, but the spec declares {len(names)}",
            cause=f"{takes}; nothing is declared for {', '.join(f'`{name}`' for name in positional[len(names) : needed])}",
            remedy="declare every input, in this order, or give the others a default",
            at=_AT_INPUTS,
        )
    if len(names) > len(positional) and not unlimited:
        raise StepError(
            "E320",
            f"the model takes {len(positional)} inputs, but the spec declares {len(names)}",
            cause=takes,
            remedy=f"remove `{names[len(positional)]}`",
            at=(*_AT_INPUTS, len(positional)),
        )
    if names != positional[: len(names)] and set(names) == set(positional[: len(names)]):
        raise StepError(
            "E320",
            "the inputs are declared in a different order than the model takes them",
            cause=f"{takes}, and the spec declares ({', '.join(names)})",
            remedy="inputs are given by position: put them in the order of `forward`",
            at=_AT_INPUTS,
        )


def declared_outputs(
    model: torch.nn.Module, signature: Signature, inputs: Mapping[str, Array], project: Path
) -> Signature:
    """The signature with its outputs in the order in which the model returns them, found by one call.

    A dictionary's values are matched to `outputs:` by name; everything else by position, nested values leaf by leaf.

    Raises:
        StepError: E321 the model fails on these inputs, E323 the number of outputs differs, E324 the names differ, E325 an
            output is not a tensor.
    """
    returned = guarded_call(model, signature, inputs, project)
    names = [tensor.name for tensor in signature.outputs]
    leaves = [leaf for leaf in pytree.tree_leaves(returned) if leaf is not None]
    for number, leaf in enumerate(leaves):
        if not isinstance(leaf, torch.Tensor):
            raise StepError(
                "E325",
                f"output {number} of the model is not a tensor",
                cause=f"it is a {type(leaf).__name__}; the model returns {_structure(returned)}",
                remedy="let `forward` return a tensor, or a tuple, list or dictionary of tensors",
                at=(*_AT_OUTPUTS, min(number, len(names) - 1)),
            )
    keys = _keys(returned)
    if len(leaves) != len(names):
        raise StepError(
            "E323",
            f"the model returns {len(leaves)} tensors, but the spec declares {len(names)}",
            cause=f"it returns {_structure(returned)}",
            remedy=f"declare {', '.join(f'`{key}`' for key in keys)}"
            if keys
            else "name every output that the model returns, in order",
            at=_AT_OUTPUTS,
        )
    if not keys:
        return signature
    if set(keys) != set(names):
        wrong = next(index for index, name in enumerate(names) if name not in keys)
        raise StepError(
            "E324",
            f"the model returns no output named `{names[wrong]}`",
            cause=f"it returns {_structure(returned)}",
            remedy=f"name the outputs as in the dictionary: {', '.join(f'`{key}`' for key in keys)}",
            at=(*_AT_OUTPUTS, wrong, "name"),
        )
    by_name = {tensor.name: tensor for tensor in signature.outputs}
    return replace(signature, outputs=tuple(by_name[key] for key in keys))


def guarded_call(
    model: torch.nn.Module,
    signature: Signature,
    inputs: Mapping[str, Array],
    project: Path,
    dim: str | None = None,
) -> Any:
    """One call in inference mode; returns the model's result unchanged.

    Args:
        model: in evaluation mode, on the CPU.
        signature: with the order of the inputs.
        inputs: of one call.
        project: the folder with the user's code.
        dim: the dimension whose range the call tests, if any.

    Raises:
        StepError: E321 the model fails, or E322 if the call tests a dimension's range.
        MemoryError: there is not enough memory for the call.
    """
    tensors = as_tensors(signature, inputs)
    # It is the user's model: whatever it raises is reported with the shapes of its inputs.
    with (
        refuse_as(Exception, lambda error: _failed_call(error, signature, inputs, project, dim)),
        torch.inference_mode(),
    ):
        return model(*tensors)


def lacks_rows_for_statistics(refusal: StepError) -> bool:
    """Whether a call failed because normalization in training mode needs more rows; PyTorch only has a sentence for it."""
    return "Expected more than 1 value per channel when training" in str(refusal.__cause__)


def call_model(
    model: torch.nn.Module, signature: Signature, inputs: Mapping[str, Array], project: Path, dim: str | None = None
) -> dict[str, Array]:
    """The outputs of one call by name; see `guarded_call`. bfloat16 is returned as float32, because numpy lacks it."""
    leaves = pytree.tree_leaves(guarded_call(model, signature, inputs, project, dim))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    if len(tensors) != len(signature.outputs):
        raise StepError(
            "E323",
            "the number of tensors that the model returns depends on its inputs",
            cause=f"{len(tensors)} here, {len(signature.outputs)} before",
            remedy="let `forward` always return the same outputs",
            at=_AT_OUTPUTS,
        )
    return {
        tensor.name: (leaf.float() if leaf.dtype is torch.bfloat16 else leaf).numpy(force=True).copy()
        for tensor, leaf in zip(signature.outputs, tensors, strict=True)
    }


def _failed_call(
    error: Exception, signature: Signature, inputs: Mapping[str, Array], project: Path, dim: str | None
) -> StepError:
    given = ", ".join(f"{t.name} {inputs[t.name].dtype} {list(inputs[t.name].shape)}" for t in signature.inputs)
    notes = (f"given: {given}", *raised_notes(error, project))
    cause = headline_with_type(error)
    if dim is not None:
        low, high = signature.dims[dim]
        return StepError(
            "E322",
            f"the model fails for a size of `{dim}` within its declared range of {low} to {high}",
            cause=cause,
            remedy=f"declare a range of `{dim}` that the model accepts, with `multiple_of` where it takes only multiples, "
            "or correct the model"
            + ("; an exported program accepts only the sizes that it was exported for" if "Guard" in cause else ""),
            at=("model", "dims", dim),
            notes=notes,
        )
    about_dtype = any(word in str(error) for word in _DTYPE_WORDS)
    what = "dtype" if about_dtype else "shape"
    return StepError(
        "E321",
        "the model does not accept the declared inputs",
        cause=cause,
        remedy=f"correct the {what} in `inputs:`, or the model, if it should take them",
        at=(*_AT_INPUTS, 0, what) if len(signature.inputs) == 1 else _AT_INPUTS,
        notes=notes,
    )


def _parameters(model: torch.nn.Module) -> tuple[list[str], int, list[str], bool] | None:
    """Positional names, the number of required ones, required keyword-only names, and whether any number is accepted."""
    if isinstance(model, torch.jit.ScriptModule):
        arguments = model.forward.schema.arguments[1:]  # the first parameter is the module
        names = [argument.name for argument in arguments]
        return names, sum(not argument.has_default_value() for argument in arguments), [], False
    if isinstance(model, ProgramByPosition):
        return model.names, len(model.names), [], False
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # written in C: only a call shows it
        return None
    positional = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    keyword_only = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    needed = sum(p.default is p.empty for p in positional)
    return [p.name for p in positional], needed, keyword_only, any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _keys(returned: Any) -> list[str]:
    """The names in a flat dictionary of tensors, in the order of its leaves; None for anything else."""
    if not isinstance(returned, Mapping):
        return []
    keys = [key for key, value in returned.items() if value is not None]
    flat = all(isinstance(returned[key], torch.Tensor) for key in keys)
    return keys if flat and all(isinstance(key, str) and _TENSOR_NAME.match(key) for key in keys) else []


def _structure(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dictionary with {', '.join(f'`{key}`' for key in value) or 'nothing'}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of ({', '.join(_structure(item) for item in value)})"
    return f"a {type(value).__name__}"
