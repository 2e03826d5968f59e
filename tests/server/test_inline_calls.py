"""Short calls are made on the event loop, and nothing else ever waits long for one."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.server.batcher import Batcher, Limits
from orchestrator.server.datatypes import Array
from orchestrator.server.errors import RequestError
from orchestrator.server.inline_calls import InlineCalls, Stopped
from tests.server.asked import ask
from tests.server.conftest import FOREVER, Start, spin, spin_model

LIMITS = Limits(max_rows=8, max_delay_s=0.0, queue_rows=64)


class Model:
    """On the event loop it takes as long as the first element says, or until it is stopped; it notes where it was called."""

    def __init__(self) -> None:
        self.threads: list[bool] = []
        self._stop = threading.Event()

    def stop(self) -> None:
        self._stop.set()

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        here = threading.current_thread() is threading.main_thread()
        self.threads.append(here)
        seconds = float(inputs["x"][0, 0])
        if here and seconds > 0 and self._stop.wait(seconds):
            self._stop.clear()
            raise Stopped
        if seconds < 0:
            raise RequestError(400, "negative", reason="refused")
        return {"y": inputs["x"] * 2}


def rows(count: int, seconds: float = 0.0) -> dict[str, Array]:
    return {"x": np.full((count, 2), seconds, np.float32)}


def around(scenario: Callable[[Model, Batcher], Coroutine[Any, Any, None]], limits: Limits = LIMITS) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            model = Model()
            batcher = Batcher([model.run], limits, inline=InlineCalls(model.run, model.stop))
            await scenario(model, batcher)
            batcher.close(30)

    asyncio.run(limited())


def test_a_call_as_large_as_a_short_one_is_made_on_the_event_loop_and_a_larger_one_is_not() -> None:
    async def scenario(model: Model, batcher: Batcher) -> None:
        for count in (2, 2, 1, 3, 3):
            assert len((await ask(batcher, rows(count)).future)["y"]) == count
        assert model.threads == [False, True, True, False, True]

    around(scenario)


def test_requests_that_arrive_together_are_batched_and_one_cannot_affect_the_others() -> None:
    async def scenario(model: Model, batcher: Batcher) -> None:
        await ask(batcher, rows(8)).future
        jobs = [ask(batcher, rows(1, seconds)) for seconds in (-1.0, 0.0, 0.0)]
        answers = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        assert [isinstance(answer, RequestError) for answer in answers] == [True, False, False]
        assert all(model.threads[1:])
        assert jobs[1].job.batch_rows == 3

    around(scenario)


@pytest.mark.alone
def test_after_each_call_the_loop_has_its_turn() -> None:
    async def scenario(model: Model, batcher: Batcher) -> None:
        before = turns = 0
        for _ in range(50):  # a call that the machine interrupts counts as long, and the next ones are made in a thread
            await ask(batcher, rows(8)).future
            before, turns = len(model.threads), 0
            jobs = [ask(batcher, rows(8)) for _ in range(6)]
            while not jobs[-1].future.done():
                await asyncio.sleep(0)
                turns += 1
            if all(model.threads[before:]):
                break
            await asyncio.sleep(1)
        assert all(model.threads[before:])
        assert turns >= 6

    around(scenario)


def test_a_call_that_turns_out_to_be_long_is_stopped_made_in_a_thread_and_none_is_made_here_for_a_while() -> None:
    async def scenario(model: Model, batcher: Batcher) -> None:
        await ask(batcher, rows(1)).future
        began = time.monotonic()
        assert (await ask(batcher, rows(1, 20)).future)["y"][0, 0] == 40
        assert time.monotonic() - began < 10  # it was stopped, not waited for
        await ask(batcher, rows(1)).future
        await ask(batcher, rows(1)).future
        assert model.threads == [False, True, False, False, False]
        await asyncio.sleep(1)
        await ask(batcher, rows(1)).future
        assert model.threads[-1] is True

    around(scenario)


def test_long_calls_keep_the_event_loop_from_calls_longer_and_longer() -> None:
    inline = InlineCalls(lambda inputs: inputs, lambda: None)
    pauses = []
    for _ in range(9):
        inline.learn(100, 0.0001, here=False)
        inline.learn(100, 0.01, here=True)
        began = time.monotonic()
        inline.learn(100, 0.0001, here=False)
        pauses.append(next(s for s in range(100) if inline.fits(100, began + s + 0.5)))
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    inline._resume = time.monotonic() - 61  # all have been short for a minute
    inline.learn(100, 0.01, here=True)
    inline.learn(100, 0.0001, here=False)
    assert inline.fits(100, time.monotonic() + 1.5)


@pytest.mark.alone
@pytest.mark.frameworks
def test_a_real_model_that_is_short_at_times_never_holds_up_health_or_who_hangs_up(
    tmp_path: Path, start: Start
) -> None:
    server = start(spin_model(tmp_path))
    for _ in range(20):
        assert server.infer(json.loads(spin(1))).status == 200
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("POST", "/v2/models/m/infer", spin(FOREVER, parameters={"timeout": 1_500_000}))
    slowest = 0.0
    for _ in range(50):
        began = time.monotonic()
        assert server.ask("GET", "/v2/health/live").status == 200
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.02)
    assert slowest < 1
    answer = connection.getresponse()
    assert answer.status == 504
    connection.close()
    assert server.stop() == 0
