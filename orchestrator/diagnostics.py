"""An error or warning: code, position, cause, remedy. The same value from a worker process to the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

__all__ = ["Diagnostic", "Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """A position in a file. Lines and columns count from 1, columns in characters; the end is exclusive.

    `text` is the first line as it was read (without line end), so that a caret can be drawn even if the
    file has changed since.
    """

    file: str
    line: int
    column: int
    end_line: int
    end_column: int
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One error or warning.

    Attributes:
        code: stable, explained by `mlo explain CODE`: E1xx spec, E2xx plan, E3xx source model, E4xx steps,
            E5xx selection, E6xx deployment, E7xx store and state, E8xx environment; W... for warnings.
        message: what is wrong, one line, no full stop.
        span: the position in the user's file, if the error is in a file.
        label: the text beside the caret ("did you mean `framework`?").
        cause: why, unless the message says it already.
        remedy: what to do; an instruction, not a guess.
        notes: further lines, each `name: value` (log file, reproduce command, second place).
        severity: errors fail the command, warnings do not.
        at: path into the spec that is to blame, such as ("model", "inputs", 0, "shape"); `span` is made of it where the
            spec's text is at hand (`LoadedSpec.located`).
    """

    code: str
    message: str
    span: Span | None = None
    label: str = ""
    cause: str = ""
    remedy: str = ""
    notes: tuple[str, ...] = ()
    severity: Literal["error", "warning"] = "error"
    at: tuple[str | int, ...] = ()

    @property
    def sentence(self) -> str:
        """What is wrong and why, on one line and without a full stop."""
        return f"{self.message}: {self.cause}" if self.cause else self.message

    def as_json(self) -> dict[str, Any]:
        """The form that `--json` prints, and that results, receipts and fates hold; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: object) -> Diagnostic:
        """The diagnostic of that form.

        Checked by hand, because `mlo --help` imports this module, and does so without pydantic.

        Raises:
            ValueError: a member is missing, unknown or of another type.
        """
        members = _members(cls, document)
        texts = ("code", "message", "label", "cause", "remedy")
        if not all(isinstance(members[name], str) for name in texts):
            raise ValueError(f"not text: {', '.join(name for name in texts if not isinstance(members[name], str))}")
        if members["severity"] not in ("error", "warning"):
            raise ValueError(f"severity cannot be {members['severity']!r}")
        notes, at = (members[name] for name in ("notes", "at"))
        if not isinstance(notes, list | tuple) or not all(isinstance(note, str) for note in notes):
            raise ValueError(f"notes cannot be {notes!r}")
        if not isinstance(at, list | tuple) or not all(type(part) in (str, int) for part in at):
            raise ValueError(f"at cannot be {at!r}")
        span = None if members["span"] is None else _span(members["span"])
        return cls(**{**members, "span": span, "notes": tuple(notes), "at": tuple(at)})


def _span(document: object) -> Span:
    members = _members(Span, document)
    for name, value in members.items():
        if type(value) is not (str if name in ("file", "text") else int):
            raise ValueError(f"{name} of a span cannot be {value!r}")
    return Span(**members)


def _members(kind: type[Diagnostic | Span], document: object) -> dict[str, Any]:
    names = {member.name for member in fields(kind)}
    if not isinstance(document, Mapping) or document.keys() != names:
        raise ValueError(f"a {kind.__name__.lower()} has the members {', '.join(sorted(names))}")
    return dict(document)
