"""Logs of pods that come while others are followed, without a cluster."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any, cast

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
