"""Logs of pods that come, and that end, while others are followed, without a cluster."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any, ClassVar, cast

import pytest

from orchestrator.targets.kubernetes import logs
from orchestrator.targets.kubernetes.connection import Cluster


class Busy:
    """A cluster whose first pod writes lines without end, and whose second pod comes at the second look."""

    looks = 0
    over = False

    def __init__(self, context: str | None = None) -> None:
        self.context = context

    def get(self, path: str, **_: Any) -> Any:
        del path
        Busy.looks += 1
        names = ["first", "second"][: 1 if Busy.looks < 3 else 2]  # one look comes before following
        return {"items": [{"metadata": {"name": name}} for name in names]}

    def stream(self, path: str, **_: Any) -> Iterator[bytes]:
        if "second" in path:
            yield b"hello"
            return
        while not Busy.over:
            time.sleep(0.001)
            yield b"a line"


def test_a_pod_that_comes_under_load_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "Cluster", Busy)
    monkeypatch.setattr(logs, "_EVERY", 0.05)
    lines = logs.log_lines(cast("Cluster", Busy()), "models", "digits", 1, follow=True)
    try:
        assert "second: hello" in itertools.islice(lines, 2000)
    finally:
        Busy.over = True


class Ending:
    """A cluster with a pod whose container is gone, and one that starts its container again after each line."""

    over: ClassVar[dict[str, Any]] = {}

    def __init__(self, context: str | None = None) -> None:
        self.context = context

    def get(self, path: str, **_: Any) -> Any:
        del path
        running = {"metadata": {"name": "running"}, "status": {"phase": "Running"}}
        return {"items": [{"metadata": {"name": "ending"}, **Ending.over}, running]}

    def stream(self, path: str, **_: Any) -> Iterator[bytes]:
        yield b"unable to retrieve container logs" if "ending" in path else b"started"


@pytest.mark.parametrize(
    "over",
    [{"metadata": {"name": "ending", "deletionTimestamp": "2026-01-01T00:00:00Z"}}, {"status": {"phase": "Failed"}}],
    ids=["deleted", "evicted"],
)
def test_a_pod_that_ends_is_not_joined_again(over: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "Cluster", Ending)
    monkeypatch.setattr(logs, "_EVERY", 0.02)
    monkeypatch.setattr(Ending, "over", over)
    lines = logs.log_lines(cast("Cluster", Ending()), "models", "digits", 1, follow=True)
    first = list(itertools.islice(lines, 10))
    assert first.count("ending: unable to retrieve container logs") == 1
    assert first.count("running: started") == 9
