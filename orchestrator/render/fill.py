"""Fills templates. No value is inserted as free text: each passes a filter that checks its form."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from orchestrator.render.assets import assets_dir

__all__ = ["fill"]

_IMAGE = (
    r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?/)?[a-z0-9]+((/|\.|_|__|-+)[a-z0-9]+)*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)


class _Checked(str):
    """Text that passed a filter."""

    __slots__ = ()


class _Pattern:
    """A filter that accepts a matching text without changing it."""

    def __init__(self, name: str, pattern: str) -> None:
        self._name = name
        self._pattern = re.compile(pattern)

    def __call__(self, value: object) -> _Checked:
        if not isinstance(value, str) or not self._pattern.fullmatch(value):
            raise ValueError(f"{value!r} is not a valid {self._name}")
        return _Checked(value)


class _Quoted(_Pattern):
    """The same, in single quotes for YAML; the pattern must not match one."""

    def __call__(self, value: object) -> _Checked:
        return _Checked(f"'{super().__call__(value)}'")


def _quoted(value: object) -> _Checked:
    """In double quotes for YAML, JSON and Dockerfiles; characters that any of them would interpret are refused."""
    if not isinstance(value, str) or not re.fullmatch(r"[ !#%-\[\]-_a-~]*", value):
        raise ValueError(
            f"{value!r} cannot be quoted: only printable ASCII without quotes, backslash, dollar and backtick is allowed"
        )
    return _Checked(f'"{value}"')


def _whole(value: object) -> _Checked:
    if type(value) is not int:
        raise ValueError(f"{value!r} is not a whole number")
    return _Checked(str(value))


def _number(value: object) -> _Checked:
    if type(value) not in {int, float}:
        raise ValueError(f"{value!r} is not a number")
    return _Checked(f"{value:g}")


def _flag(value: object) -> _Checked:
    if type(value) is not bool:
        raise ValueError(f"{value!r} is neither true nor false")
    return _Checked("true" if value else "false")


def _refuse_unchecked(value: object) -> object:
    if not isinstance(value, _Checked):
        raise ValueError(f"{value!r} is inserted into a template without a filter")  # noqa: TRY004 - one kind of error
    return value


def fill(template: str, values: dict[str, Any]) -> str:
    """The text of `templates/TEMPLATE` with these values.

    Raises:
        ValueError: a filter refuses a value, or a value has no filter.
        jinja2.UndefinedError: the template needs a value that is missing.
    """
    environment = Environment(
        loader=FileSystemLoader(assets_dir("templates")),
        undefined=StrictUndefined,
        finalize=_refuse_unchecked,
        autoescape=False,  # noqa: S701 - no HTML: filters check instead, and `finalize` refuses what passed none
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters = {
        "digest": _Pattern("sha256 in hex", r"[0-9a-f]{64}"),
        "file": _Pattern("absolute path of a file", r"(/[A-Za-z0-9._-]+)+"),
        "flag": _flag,
        "image": _Pattern("image reference", _IMAGE),
        "number": _number,
        "path": _Pattern("URL path", r"(/[A-Za-z0-9._-]+)+(:[a-z]+)?"),
        "platform": _Pattern("platform", r"linux/(amd64|arm64)"),
        "phrase": _Pattern("phrase", r"[A-Za-z0-9 '.-]+"),
        "promql": _Quoted("expression of PromQL", r"[ -&(-\[\]-~]+"),
        "quantity": _Pattern("quantity", r"[0-9]+(\.[0-9]+)?(m|Mi|Gi)?"),
        "quoted": _quoted,
        "sentence": _Pattern("sentence", r"[^\x00-\x1f\x7f]+"),
        "url": _Pattern("URL", r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~-]+)*"),
        "whole": _whole,
        "word": _Pattern("word", r"[A-Za-z0-9][A-Za-z0-9._-]*"),
    }
    return environment.get_template(template).render(values)
