"""Reads the JSON files of a Transformers folder, which come from others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from orchestrator.frameworks.source.expected_kind import AT_WEIGHTS, headline
from orchestrator.steps import StepError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["json_list", "json_object", "optional_object"]


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        StepError: E302, it holds none.
    """
    document = _read(path)
    if not isinstance(document, dict):
        raise _damaged(path, f"it holds a {type(document).__name__}, and an object is wanted")
    return document


def optional_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty one where there is no file.

    Raises:
        StepError: E302, it holds none.
    """
    return json_object(path) if path.is_file() else {}


def json_list(path: Path) -> list[dict[str, Any]]:
    """The objects in the list that a JSON file holds.

    Raises:
        StepError: E302, it holds no such list.
    """
    document = _read(path)
    if not isinstance(document, list) or not all(isinstance(entry, dict) for entry in document):
        raise _damaged(path, f"it holds a {type(document).__name__}, and a list of objects is wanted")
    return document


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, headline(error)) from error


def _damaged(path: Path, cause: str) -> StepError:
    return StepError(
        "E302", f"{path.name} cannot be read", cause=cause, remedy="copy or save the folder again", at=AT_WEIGHTS
    )
