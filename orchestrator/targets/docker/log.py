"""What the container with the traffic prints, across its crashes and across switches."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import DeployFailed
from orchestrator.targets.docker.marks import Marks
from orchestrator.targets.docker.observing import find

__all__ = ["FollowedLog"]


class FollowedLog:
    """The log of a deployment, of which each line is given once.

    Args:
        name: the deployment's.
        marks: of the deployment.
    """

    def __init__(self, name: str, marks: Marks) -> None:
        self._name = name
        self._marks = marks
        self._container: str | None = None
        self._last = ""
        """The engine's time of the latest line; all of them have the same form and are in UTC."""

    def last(self, api: Any, lines: int) -> Iterator[str]:
        """The last lines so far.

        Raises:
            DeployFailed: E615 no container has the traffic.
        """
        live = find(api, self._marks).live
        if live is None:
            raise self._no_log("the engine has no container that serves it")
        self._container = live["Id"]
        text = api.logs(live["Id"], stdout=True, stderr=True, tail=lines, timestamps=True)
        for line in text.split(b"\n"):
            yield from self._later(line, "")

    def more(self, api: Any) -> Iterator[str]:
        """The lines that come until the container ends, which it may have done already.

        Raises:
            DeployFailed: E615 the deployment was removed.
        """
        found = find(api, self._marks)
        if found.live is None:
            if not found.models and not found.fronts:
                raise self._no_log("its containers were removed meanwhile")
            return
        if found.live["Id"] != self._container:
            self._container, self._last = found.live["Id"], ""
        given = self._last
        since = int(datetime.fromisoformat(self._last).timestamp()) if self._last else None
        rest = b""
        stream = api.logs(
            self._container, stdout=True, stderr=True, timestamps=True, stream=True, follow=True, since=since
        )
        try:
            for data in stream:
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    yield from self._later(line, given)
        finally:
            stream.close()
            deque(stream, maxlen=0)  # to its end, which gives its connection back
        yield from self._later(rest, given)

    def _later(self, line: bytes, given: str) -> Iterator[str]:
        """The line without its time, unless it is of the time `given` or before."""
        time, _, text = line.decode("utf-8", "replace").partition(" ")
        if time > given:
            self._last = max(self._last, time)
            yield text.rstrip("\r")

    def _no_log(self, cause: str) -> DeployFailed:
        return DeployFailed(
            Diagnostic("E615", f"{self._name} has no log", cause=cause, remedy="run `mlo apply` with its spec")
        )
