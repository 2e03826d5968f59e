"""What an exporter's exception means, in one line that a model's author can act on."""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import PurePath

from orchestrator.steps import StepError

__all__ = ["conversion_failed", "headline", "innermost"]

_SPECIALISED = re.compile(
    r"marked (?P<dim>\w+) as dynamic but your code specialized it to be a constant \((?P<size>\d+)\)"
)
_UNSATISFIED = re.compile(
    r"Not all values of (?P<dim>\w+) = (?P<size>\S+) in .* satisfy the generated guard (?P<guard>.+?)\.?$", re.MULTILINE
)
_DATA_DEPENDENT = re.compile(r"[Cc]ould not guard on data-dependent expression|Dynamic control flow is not supported")
_NO_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='(?P<op>[\w.:]+)'")
_USER_LINE = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in \w+\n\s*(?P<code>\S.*)')
_BOILERPLATE = re.compile(
    r"^(Failed to (export|convert|decompose)|This is step|#|\(?Refer to|The error above|For more information)"
)


def innermost(error: BaseException) -> BaseException:
    """The exception that started the chain: exporters wrap it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def headline(error: BaseException) -> str:
    """The first line of what `error` says that is about the model, not about the exporter."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not _BOILERPLATE.match(line)]
    first = told[0] if told else type(error).__name__
    return first if len(first) <= 400 else first[:397] + "..."


def conversion_failed(target: str, error: Exception, dims: frozenset[str]) -> StepError:
    """The fate of a conversion that raised; the whole traceback goes to the log (standard error).

    Args:
        target: what was to be made, such as "ONNX".
        error: what the converter raised.
        dims: the declared dimensions, so that the spec's line can be named.

    Returns:
        E422 with the reason as its cause and, where a dimension is to blame, its place in the spec.
    """
    traceback.print_exception(error, file=sys.stderr)
    message = f"the model does not convert to {target}"
    root = innermost(error)
    text = str(root)
    if (match := _SPECIALISED.search(text)) and match["dim"] in dims:
        return StepError(
            "E422",
            message,
            cause=f"exporting fixes dimension {match['dim']} at {match['size']}: "
            "the model's code, or a layer of it, takes it for a constant",
            remedy=f"take sizes from the tensor's shape in the model's code, or declare dimension {match['dim']} as {match['size']}",
            at=("model", "dims", match["dim"]),
        )
    if (match := _UNSATISFIED.search(text)) and match["dim"] in dims:
        needed = match["guard"].replace(match["size"], match["dim"])
        return StepError(
            "E422",
            message,
            cause=f"the model does not work for every declared size of dimension {match['dim']}: it needs {needed}",
            remedy=f"narrow the range of dimension {match['dim']}, or change the model's code",
            at=("model", "dims", match["dim"]),
        )
    if _DATA_DEPENDENT.search(text):
        place = _USER_LINE.search(text)
        where = f" ({PurePath(place['file']).name}:{place['line']}: {place['code'].strip()})" if place else ""
        return StepError(
            "E422",
            message,
            cause=f"a branch in its code depends on the values of a tensor{where}",
            remedy="write the branch with torch.where or torch.cond",
        )
    if match := _NO_OPERATOR.search(text):
        return StepError(
            "E422",
            message,
            cause=f"ONNX has no counterpart of the operator {match['op']}",
            remedy="write it with other operators, or leave this format out of `optimize.formats`",
        )
    return StepError("E422", message, cause=headline(root))
