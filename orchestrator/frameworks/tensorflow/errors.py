"""Says what TensorFlow and Keras say when something fails, without their traces and colours."""

from __future__ import annotations

import re

__all__ = ["said"]

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NODE = re.compile(r"\s*\[\[\{\{node .*|\s*\[Op:\w*\].*")
_ABOUT_THE_WAY = (
    "in user code:", "File ", "Exception encountered when calling", "Graph execution error", "Detected at node",
    "Arguments received by", "•", "Call arguments received", "Node: ", "Traceback", "return ", "raise ", "^", "~",
)  # fmt: skip


def said(error: Exception) -> str:
    """The line of what an exception says that tells the reason, or its type if it says nothing."""
    lines = [_NODE.sub("", line).strip() for line in _COLOUR.sub("", str(error)).splitlines()]
    telling = [line for line in lines if line and not line.startswith(_ABOUT_THE_WAY)]
    return (telling or [line for line in lines if line] or [type(error).__name__])[0]
