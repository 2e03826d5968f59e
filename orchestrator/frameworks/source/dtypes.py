"""Element types as a spec spells them: numpy's names, and `string`, for which numpy has arrays of many widths."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["STRING", "dtype_name", "element_bytes", "plain"]

STRING = "string"
"""Arrays of it are unicode (kind `U`), which an npz file holds without pickling; its zero is the empty text."""

_TEXT_BYTES = 64
"""What a text is taken to need where nothing is known of it: a word or two, four bytes for a character."""


def dtype_name(array: np.ndarray[Any, Any]) -> str:
    """How a spec spells the element type of `array`."""
    return STRING if array.dtype.kind in "UO" else array.dtype.name


def element_bytes(dtype: str) -> int:
    """Bytes that an element of this type takes; an estimate for texts."""
    return _TEXT_BYTES if dtype == STRING else np.dtype(dtype).itemsize


def plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Texts that are Python objects, as runtimes return them, as an array of unicode; all else as it is."""
    return array.astype(np.str_) if array.dtype.kind == "O" else array
