"""What a step function sees and may raise. A step runs in a worker process of its own.

A step function is named by string (`orchestrator.frameworks.pytorch.convert:to_onnx`), takes one `StepContext`, writes
its files under `context.output`, and returns a small JSON object of facts for people to read ("summary").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["StepContext", "StepError", "StepFunction", "silent"]


def silent(message: str, fraction: float | None = None) -> None:
    """The progress sink of a step that nobody watches."""
    del message, fraction


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a step function is given.

    Attributes:
        params: the step's parameters, plain JSON.
        inputs: role → file or directory, read-only. A role that is optional and whose producer failed is absent.
        output: an empty directory; every file the step leaves here becomes part of its result. File names and bytes
            must depend on nothing but params, inputs and tools (no times, no absolute paths) unless the step measures.
        scratch: an empty directory that is thrown away.
        project: the directory of the spec; user code is imported from here.
        progress: tell the user how far the step is: `progress("exporting", 0.4)`; fraction in [0, 1] or None.
    """

    params: Mapping[str, Any]
    inputs: Mapping[str, Path]
    output: Path
    scratch: Path
    project: Path
    progress: Callable[..., None] = field(default=silent)


StepFunction = Callable[[StepContext], dict[str, Any]]


class StepError(Exception):
    """A step cannot do what it was asked, for a reason that will not go away by itself.

    Raised by step functions; the engine turns it into a diagnostic with the spec's line. In a candidate's step it is
    that candidate's fate, and it is remembered: the same key is not tried again.

    Args:
        code: as in `Diagnostic.code`.
        message: what, one line.
        cause: why.
        remedy: what to do.
        at: path into the spec that is to blame, such as ("model", "inputs", 0, "shape").
        notes: further lines.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        cause: str = "",
        remedy: str = "",
        at: tuple[str | int, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.cause = cause
        self.remedy = remedy
        self.at = at
        self.notes = notes
