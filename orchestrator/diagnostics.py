"""What is told about one thing that is wrong: code, place, cause, remedy. A value; `cli/report.py` prints it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Diagnostic", "Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """A place in a file. Lines and columns count from 1, columns in characters; the end is exclusive.

    `text` is the first line as it stood when it was read (no line end), so that a caret can be drawn
    although the file has changed since.
    """

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing that is wrong.

    Attributes:
        code: stable, explained by `mlo explain CODE`: E1xx spec, E2xx plan, E3xx source model, E4xx steps,
            E5xx selection, E6xx deployment, E7xx store and state, E8xx environment; W... for warnings.
        message: what is wrong, one line, no full stop.
        span: where in the user's file, if a line of it is to blame.
        label: what stands beside the caret ("did you mean `framework`?").
        cause: why, if the message does not say it already.
        remedy: what to do; an instruction, not a guess.
        notes: further lines, each `name: value` (log file, reproduce command, second place).
        severity: errors fail the command, warnings do not.
    """

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    cause: str = ""
    remedy: str = ""
    notes: tuple[str, ...] = ()
    severity: Literal["error", "warning"] = "error"

    def as_json(self) -> dict[str, Any]:
        """The JSON form that `--json` and `--format json` print."""
        return asdict(self)
