"""Follows a build by what the Docker Engine's classic builder says of it."""

from __future__ import annotations

import re
import textwrap
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

__all__ = ["follow"]

_LAST_LINES = 15
_LONGEST_LINE = 100
_STEP = re.compile(r"Step (\d+)/(\d+) : (.*)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_NOISE = re.compile(r"--->|Removing intermediate container|Successfully (built|tagged)")


def follow(messages: Iterable[Mapping[str, Any]], progress: Callable[[str], None]) -> tuple[str, str, Sequence[str]]:
    """Read a build's messages to their end, so that their connection is given back.

    Args:
        messages: of the engine's API, decoded.
        progress: told each line, shortened: an instruction or a list of packages may have hundreds of characters.

    Returns:
        The id of the image, the reason of a failure (each empty if there is none), and the last lines in full.
    """
    lines: deque[str] = deque(maxlen=_LAST_LINES)
    built, at, failure = "", "", ""
    for message in messages:
        failure = str(message.get("error", failure))
        built = str(message.get("aux", {}).get("ID", built))
        for line in _COLOURS.sub("", str(message.get("stream", ""))).splitlines():
            if not line.strip() or _NOISE.search(line):
                continue
            lines.append(line.rstrip())
            said = line.strip()
            if step := _STEP.fullmatch(said):
                at, said = f"{step[1]} of {step[2]}", step[3]
            progress(f"{at}: {textwrap.shorten(said, _LONGEST_LINE, placeholder=' ...')}")
    return built, failure, lines
