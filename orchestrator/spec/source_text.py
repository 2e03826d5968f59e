"""A YAML file as text: size-limited, strictly decoded, with a position for every character."""

from __future__ import annotations

import os
import re
import stat
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from orchestrator.diagnostics import Diagnostic, Span
from orchestrator.errors import SpecInvalid
from orchestrator.spec.redacted import redacted

__all__ = ["MAX_BYTES", "SourceText", "read_source", "similar_file", "source_from_bytes"]

MAX_BYTES = 1 << 20
_KEPT_OF_A_LINE = 1000  # characters of a line that a Span carries; a longer line is cut
_READ_OF_A_LINE = 4 * _KEPT_OF_A_LINE  # to find a secret that is cut through

_LINE_END = re.compile(r"\r\n|\r|\n")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_UNPRINTABLE = r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
"""Characters not allowed in a YAML stream (YAML 1.1, section 5.1); a byte order mark is removed before."""


def _first_unprintable(text: str) -> int | None:
    # The large character class takes longer to compile than a spec takes to load, and most specs are ASCII.
    found = _CONTROL.search(text) if text.isascii() else re.search(_UNPRINTABLE, text)
    return None if found is None else found.start()


@dataclass(frozen=True)
class SourceText:
    """A file's text and its name as shown to the user.

    Attributes:
        file: the name as given by the user.
        text: decoded, without a byte order mark, with the original line ends.
    """

    file: str
    text: str

    @cached_property
    def _line_starts(self) -> list[int]:
        return [0, *(match.end() for match in _LINE_END.finditer(self.text))]

    def line_of(self, offset: int) -> int:
        """The line, counted from 1, of the character at `offset`."""
        return bisect_right(self._line_starts, offset)

    def line_text(self, line: int) -> str:
        """The text of line `line` without its line end and without secrets, truncated if very long."""
        start = self._line_starts[line - 1]
        stop = self._line_starts[line] if line < len(self._line_starts) else len(self.text)
        text = self.text[start : min(stop, start + _READ_OF_A_LINE)].rstrip("\r\n")
        return redacted(text)[:_KEPT_OF_A_LINE]

    def span(self, start: int, end: int) -> Span:
        """The position of the characters from `start` up to, not including, `end`."""
        line, end_line = self.line_of(start), self.line_of(max(start, end))
        return Span(
            file=self.file,
            line=line,
            column=start - self._line_starts[line - 1] + 1,
            end_line=end_line,
            end_column=max(start, end) - self._line_starts[end_line - 1] + 1,
            text=self.line_text(line),
        )


def read_source(path: str | Path, shown: str | None = None) -> SourceText:
    """Read a YAML file.

    Args:
        path: the file.
        shown: its name in messages; by default `path`.

    Raises:
        SpecInvalid: it is missing, not a regular file, unreadable, larger than 1 MiB, or not UTF-8 text.
    """
    shown = shown or str(path)
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer forever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _unreadable(shown, "is a folder" if stat.S_ISDIR(status.st_mode) else "is not a regular file")
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = similar_file(Path(path))
        remedy = f"did you mean {near}?" if near else "give the path of a YAML file"
        raise _unreadable(shown, "does not exist", remedy) from None
    except IsADirectoryError:
        raise _unreadable(shown, "is a folder") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise _unreadable(shown, f"cannot be read: {reason}") from None
    return source_from_bytes(shown, content)


def _unreadable(shown: str, problem: str, remedy: str = "") -> SpecInvalid:
    shown = shown.encode("unicode_escape").decode() if not shown.isprintable() else shown
    if problem == "is a folder":
        remedy = f"give a file inside it, such as {shown.rstrip('/')}/{Path(shown).name or 'spec'}.yaml"
    return SpecInvalid(Diagnostic("E100", f"{shown} {problem}", remedy=remedy or "give the path of a YAML file"))


def similar_file(path: Path, *, folders: bool = False) -> Path | None:
    """The file, or the folder, beside `path` whose name is closest to its own, if any is close."""
    try:
        names = [entry.name for entry in os.scandir(path.parent) if entry.is_dir() == folders]
    except (OSError, ValueError):
        return None
    import difflib  # noqa: PLC0415 - only for a mistake

    near = difflib.get_close_matches(path.name, sorted(names)[:2000], n=1)
    return path.with_name(near[0]) if near else None


def source_from_bytes(file: str, content: bytes) -> SourceText:
    """Decode a file's bytes.

    Raises:
        SpecInvalid: more than 1 MiB, not UTF-8, or characters that YAML does not allow.
    """
    if len(content) > MAX_BYTES:
        raise SpecInvalid(
            Diagnostic(
                "E111",
                f"{file} is larger than 1 MiB",
                cause="specs are usually a page or two; the limit keeps mlo from parsing a wrong file",
                remedy="check that this is a spec and not a model or a data file",
            )
        )
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SpecInvalid(Diagnostic("E110", f"{file} is UTF-16 text", remedy="save it as UTF-8"))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecInvalid(_not_utf8(file, content, error.start)) from None
    source = SourceText(file, text)
    if (bad := _first_unprintable(text)) is not None:
        raise SpecInvalid(_unprintable(source, bad))
    return source


def _not_utf8(file: str, content: bytes, offset: int) -> Diagnostic:
    if b"\x00" in content:
        return Diagnostic("E110", f"{file} is a binary file, not text", remedy="give the path of a YAML file")
    before = SourceText(file, content[:offset].decode("utf-8-sig"))
    place = before.span(len(before.text), len(before.text))
    return Diagnostic(
        "E110",
        f"{file} is not UTF-8 text",
        span=place,
        label=f"byte 0x{content[offset]:02x} is not UTF-8",
        remedy="save the file as UTF-8",
    )


def _unprintable(source: SourceText, offset: int) -> Diagnostic:
    character = source.text[offset]
    if character == "\x00":
        return Diagnostic("E110", f"{source.file} is a binary file, not text", remedy="give the path of a YAML file")
    return Diagnostic(
        "E110",
        f"control character U+{ord(character):04X}",
        span=source.span(offset, offset + 1),
        label="YAML does not allow it here",
        remedy="remove the character, or write it as an escape in double quotes",
    )
