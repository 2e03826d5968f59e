"""What a step function sees and may raise. A step runs in a worker process of its own.

A step function is named by string (`orchestrator.frameworks.pytorch.convert:to_onnx`), takes one `StepContext`, writes
its files under `context.output`, and returns a small JSON object of facts for people to read ("summary").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from orchestrator.diagnostics import Diagnostic
from orchestrator.steps.failures import is_out_of_memory, is_transient
from orchestrator.steps.reasons import headline

__all__ = [
    "Ending",
    "StepContext",
    "StepError",
    "StepFunction",
    "StepKind",
    "refuse_as",
    "refuse_on",
    "silent",
]


def silent(message: str, fraction: float | None = None) -> None:
    """A progress sink that ignores every message."""
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


StepKind = Literal[
    "inspect", "import", "convert", "optimize", "verify", "benchmark", "select", "render", "build", "deploy", "check"
]


class Ending(StrEnum):
    """How a step ended."""

    DONE = "done"
    REFUSED = "refused"
    """It raised a StepError: the same inputs will be refused again."""
    EXCEPTION = "exception"
    """It raised an exception that mlo did not expect."""
    MEMORY = "memory"
    """It ran out of memory, or was killed before the machine did."""
    DISK = "disk"
    """The disk filled up."""
    CHANGED = "changed"
    """A file of the user's that it read, or code that it imported, changed while it ran."""
    TIMEOUT = "timeout"
    """It took too long and was killed."""
    STOPPED = "stopped"
    """It was killed after Ctrl-C."""
    DIED = "died"
    """Its process ended without a result: a crash in native code, an exit, a signal from outside."""


StepFunction = Callable[[StepContext], dict[str, Any]]


class StepError(Exception):
    """A step cannot do what it was asked, for a reason that will not go away by itself.

    Raised by step functions; the engine adds the spec's line to its diagnostic. In a candidate's step it is that
    candidate's fate, and it is remembered: the same key is not tried again.

    Args:
        code: as in `Diagnostic.code`.
        message: what, one line.
        cause: why.
        remedy: what to do.
        at: path into the spec that is to blame, such as ("model", "inputs", 0, "shape").
        notes: further lines.
        keeps_output: whether what lies in the step's output explains the refusal, and is kept with it.

    Attributes:
        diagnostic: all but the last of this as one value.
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
        keeps_output: bool = False,
    ) -> None:
        super().__init__(message)
        self.keeps_output = keeps_output
        self.diagnostic = Diagnostic(code, message, cause=cause, remedy=remedy, at=at, notes=notes)

    @property
    def code(self) -> str:
        """Of the diagnostic."""
        return self.diagnostic.code

    @property
    def message(self) -> str:
        """Of the diagnostic."""
        return self.diagnostic.message

    @property
    def cause(self) -> str:
        """Of the diagnostic."""
        return self.diagnostic.cause

    @property
    def remedy(self) -> str:
        """Of the diagnostic."""
        return self.diagnostic.remedy

    @property
    def at(self) -> tuple[str | int, ...]:
        """Of the diagnostic."""
        return self.diagnostic.at

    @property
    def notes(self) -> tuple[str, ...]:
        """Of the diagnostic."""
        return self.diagnostic.notes


@contextmanager
def refuse_as(
    exceptions: type[Exception] | tuple[type[Exception], ...], refusal: Callable[[Exception], Exception]
) -> Iterator[None]:
    """Turn a library's exception into what `refusal` makes of it; the exception stays as its `__cause__`.

    A `StepError` passes unchanged. Where memory ran out, a `MemoryError` is raised instead of the refusal, which would be
    remembered: a machine with more memory may do what this one cannot. Where the machine failed (`is_transient`), the
    exception itself passes, for the same reason.

    Args:
        exceptions: what the library raises.
        refusal: makes the error of it, usually a `StepError`.
    """
    try:
        yield
    except (StepError, MemoryError):
        raise
    except exceptions as error:
        if is_out_of_memory(error):
            raise MemoryError(headline(error)) from error
        if is_transient(error):
            raise
        raise refusal(error) from error


@contextmanager
def refuse_on(
    exceptions: type[Exception] | tuple[type[Exception], ...],
    code: str,
    message: str,
    *,
    cause: str | Callable[[Exception], str] = headline,
    remedy: str = "",
    at: tuple[str | int, ...] = (),
) -> Iterator[None]:
    """Turn a library's exception into a `StepError` with the reason in its text as the cause; see `refuse_as`.

    Args:
        exceptions: what the library raises.
        code: as in `StepError`.
        message: as in `StepError`.
        cause: as in `StepError`, or a function that finds it in the exception.
        remedy: as in `StepError`.
        at: as in `StepError`.

    Raises:
        StepError: with this code, if one of `exceptions` is raised.
        MemoryError: memory ran out.
        Exception: one of `exceptions`, if it is the machine's and not the model's.
    """

    def refusal(error: Exception) -> StepError:
        text = cause if isinstance(cause, str) else cause(error)
        return StepError(code, message, cause=text, remedy=remedy, at=at)

    with refuse_as(exceptions, refusal):
        yield
