"""What an exception that mlo did not raise itself means for a step: memory ran out, or something unexpected happened.

Most libraries have no exception of their own for memory that ran out, only a sentence. It is read here and nowhere else;
`tests/test_failures.py` holds the messages as the libraries raised them.
"""

from __future__ import annotations

import re
import traceback
from types import MappingProxyType
from typing import TYPE_CHECKING

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import causes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["is_out_of_memory", "unexpected"]

_SENTENCES: Mapping[str, re.Pattern[str]] = MappingProxyType(
    {
        "PyTorch": re.compile(r"DefaultCPUAllocator: can't allocate memory|CUDA out of memory\. Tried to allocate"),
        "ONNX Runtime": re.compile(r"Failed to allocate memory for requested buffer of size \d+"),
        "TensorFlow": re.compile(r"OOM when allocating tensor|Out of memory while trying to allocate"),
        "LiteRT": re.compile(r"^Failed to allocate ", re.MULTILINE),
        "C++": re.compile(r"std::bad_alloc"),
        "CUDA": re.compile(r"CUDA (?:error|failure \d+): out of memory"),
    }
)
"""Library → what it says when an allocation fails."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, in this exception or in one that led to it."""
    return any(
        isinstance(each, MemoryError) or any(sentence.search(str(each)) for sentence in _SENTENCES.values())
        for each in causes_of(error)
    )


def unexpected(error: Exception) -> Diagnostic:
    """E401: an exception that no code expected, with the place that raised it."""
    message = (str(error).strip().splitlines() or [""])[0]
    frames = traceback.extract_tb(error.__traceback__)
    return Diagnostic(
        "E401",
        f"{type(error).__name__}: {message}" if message else type(error).__name__,
        cause=f"raised at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}" if frames else "",
    )
