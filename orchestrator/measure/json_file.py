"""How a step writes a JSON document: UTF-8, sorted keys, indented by one, a newline at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["write_json"]


def write_json(path: Path, document: Any) -> None:
    """Write a document; the same document gives the same bytes.

    Raises:
        ValueError: it holds a number that JSON does not have, such as NaN.
    """
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
