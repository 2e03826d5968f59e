"""Requests to a batcher whose answers can be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from orchestrator.server.batcher import Batcher
from orchestrator.server.datatypes import Array
from orchestrator.server.errors import RequestError
from orchestrator.server.instance import Answer, Job


class Asked(NamedTuple):
    """A request and what it will get."""

    job: Job
    future: asyncio.Future[Mapping[str, Array]]


def ask(batcher: Batcher, inputs: Mapping[str, Array], timeout_s: float = 60) -> Asked:
    """Queue a request with as many rows as its first input."""
    future: asyncio.Future[Mapping[str, Array]] = asyncio.get_running_loop().create_future()

    def done(_: Job, answer: Answer) -> None:
        if isinstance(answer, RequestError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    return Asked(batcher.submit(inputs, len(next(iter(inputs.values()))), timeout_s, done), future)
