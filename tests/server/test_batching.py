"""The batcher, around functions that stand for a model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import numpy as np
import pytest

from orchestrator.server.batcher import Batcher, Limits
from orchestrator.server.datatypes import Array
from orchestrator.server.errors import RequestError
from orchestrator.server.instance import Run
from tests.server.asked import Asked, ask

PLENTY = Limits(max_rows=8, max_delay_s=0.0, queue_rows=64)


class Gate:
    """A model that notes its calls' rows, holds each until it is let go, and refuses negative numbers."""

    def __init__(self, *, closed: bool = True) -> None:
        self.calls: list[int] = []
        self.entered = threading.Semaphore(0)
        self._open = threading.Event()
        if not closed:
            self._open.set()

    def open(self) -> None:
        self._open.set()

    def __call__(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        x = inputs["x"]
        self.calls.append(len(x))
        self.entered.release()
        assert self._open.wait(30)
        if (x < 0).any():
            raise RequestError(400, "negative", reason="refused")
        return {"y": x * 2}


def rows(count: int, value: float = 1.0, width: int = 2) -> dict[str, Array]:
    return {"x": np.full((count, width), value, np.float32)}


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(limited())


async def busy(batcher: Batcher, gate: Gate) -> Asked:
    """A job that occupies the model."""
    job = ask(batcher, rows(1))
    await asyncio.to_thread(gate.entered.acquire)
    return job


def close(batcher: Batcher, *gates: Gate) -> None:
    for gate in gates:
        gate.open()
    batcher.close(30)


def test_requests_that_wait_while_the_model_is_busy_are_batched_up_to_the_maximum_rows() -> None:
    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher([gate], PLENTY)
        jobs = [await busy(batcher, gate), *(ask(batcher, rows(3, value)) for value in range(3))]
        gate.open()
        answers = await asyncio.gather(*(job.future for job in jobs))
        close(batcher)
        assert gate.calls == [1, 6, 3]
        assert [answer["y"][0, 0] for answer in answers] == [2, 0, 2, 4]
        assert [answer["y"].shape for answer in answers[1:]] == [(3, 2)] * 3
        assert [asked.job.batch_rows for asked in jobs] == [1, 6, 6, 3]

    run(scenario)


def test_only_equal_inner_shapes_are_batched_and_the_oldest_goes_first() -> None:
    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher([gate], PLENTY)
        jobs = [await busy(batcher, gate)]
        jobs += [ask(batcher, rows(1, 1, width)) for width in (3, 2, 3)]
        gate.open()
        await asyncio.gather(*(job.future for job in jobs))
        close(batcher)
        assert gate.calls == [1, 2, 1]

    run(scenario)


def test_a_request_larger_than_a_batch_runs_alone() -> None:
    async def scenario() -> None:
        gate = Gate(closed=False)
        batcher = Batcher([gate], Limits(max_rows=2, max_delay_s=0, queue_rows=4))
        answer = await ask(batcher, rows(9)).future
        close(batcher)
        assert answer["y"].shape == (9, 2)

    run(scenario)


def test_without_batching_every_request_runs_alone() -> None:
    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher([gate], Limits(max_rows=1, max_delay_s=0, queue_rows=64))
        jobs = [await busy(batcher, gate), *(ask(batcher, rows(1)) for _ in range(3))]
        gate.open()
        await asyncio.gather(*(job.future for job in jobs))
        close(batcher)
        assert gate.calls == [1, 1, 1, 1]

    run(scenario)


def test_a_request_waits_for_others_but_a_full_batch_does_not_wait() -> None:
    async def scenario() -> None:
        gate = Gate(closed=False)
        batcher = Batcher([gate], Limits(max_rows=4, max_delay_s=3600, queue_rows=64))
        jobs = [ask(batcher, rows(2, 1, 3)), *(ask(batcher, rows(2)) for _ in range(2))]
        await asyncio.gather(*(job.future for job in jobs[1:]))
        assert gate.calls == [4]
        assert not jobs[0].future.done()
        close(batcher)  # what waits is run before the end
        await jobs[0].future
        assert gate.calls == [4, 2]

    run(scenario)


def test_a_delay_ends() -> None:
    async def scenario() -> None:
        gate = Gate(closed=False)
        batcher = Batcher([gate], Limits(max_rows=4, max_delay_s=0.01, queue_rows=64))
        job = ask(batcher, rows(1))
        await job.future
        close(batcher)
        assert job.job.started - job.job.queued >= 0.01

    run(scenario)


def test_a_full_queue_refuses_and_an_empty_one_takes_any_request() -> None:
    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher([gate], Limits(max_rows=8, max_delay_s=0, queue_rows=4))
        await busy(batcher, gate)
        large = ask(batcher, rows(5))
        with pytest.raises(RequestError) as raised:
            ask(batcher, rows(1))
        assert (raised.value.status, raised.value.reason, raised.value.retry_after) == (429, "queue_full", 1)
        assert batcher.queued_rows == 5
        gate.open()
        await large.future
        assert batcher.queued_rows == 0
        close(batcher)

    run(scenario)


def test_a_bad_request_fails_alone() -> None:
    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher([gate], PLENTY)
        jobs = [await busy(batcher, gate), *(ask(batcher, rows(1, value)) for value in (1, -1, 3))]
        gate.open()
        answers = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        close(batcher)
        assert isinstance(answers[2], RequestError)
        assert answers[2].status == 400
        for answer, value in ((answers[1], 2), (answers[3], 6)):
            assert isinstance(answer, dict)
            assert answer["y"].tolist() == [[value, value]]
        assert gate.calls == [1, 3, 1, 1, 1]

    run(scenario)


def test_a_model_that_raises_anything_answers_500_and_keeps_running() -> None:
    calls: list[int] = []

    def moody(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError
        return inputs

    async def scenario() -> None:
        batcher = Batcher([moody], PLENTY)
        with pytest.raises(RequestError) as raised:
            await ask(batcher, rows(1)).future
        assert raised.value.status == 500
        assert set(await ask(batcher, rows(1)).future) == {"x"}
        batcher.close(30)

    run(scenario)


def test_a_model_whose_output_loses_rows_is_called_singly() -> None:
    def mean(inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        entered.release()
        assert gate.wait(30)
        return {"y": inputs["x"].mean(axis=0, keepdims=True)}

    gate = threading.Event()
    entered = threading.Semaphore(0)

    async def scenario() -> None:
        batcher = Batcher([mean], PLENTY)
        jobs = [ask(batcher, rows(1))]
        await asyncio.to_thread(entered.acquire)
        jobs += [ask(batcher, rows(1, value)) for value in (2, 4)]
        gate.set()
        answers = await asyncio.gather(*(job.future for job in jobs))
        batcher.close(30)
        assert [answer["y"][0, 0] for answer in answers] == [1, 2, 4]

    run(scenario)


def test_cancelled_requests_leave_the_queue_and_never_run() -> None:
    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher([gate], PLENTY)
        first = await busy(batcher, gate)
        gone, stays = ask(batcher, rows(3)), ask(batcher, rows(2))
        batcher.cancel(gone.job)
        assert batcher.queued_rows == 2
        batcher.cancel(first.job)  # runs already
        gate.open()
        await stays.future
        close(batcher)
        assert gate.calls == [1, 2]
        assert not gone.future.done()
        assert not first.future.done()

    run(scenario)


def test_expired_requests_are_answered_in_time_and_never_run() -> None:
    async def scenario() -> None:
        gate = Gate()
        batcher = Batcher([gate], PLENTY)
        first = await busy(batcher, gate)
        late, stays = ask(batcher, rows(3), timeout_s=0.01), ask(batcher, rows(2))
        with pytest.raises(RequestError) as raised:
            await late.future  # while the model is still busy
        assert raised.value.status == 504
        gate.open()
        await asyncio.gather(first.future, stays.future)
        close(batcher)
        assert gate.calls == [1, 2]

    run(scenario)


def test_instances_run_at_the_same_time() -> None:
    async def scenario() -> None:
        gates = [Gate(), Gate()]
        both: list[Run] = list(gates)
        batcher = Batcher(both, Limits(max_rows=1, max_delay_s=0, queue_rows=64))
        jobs = [ask(batcher, rows(1)) for _ in range(2)]
        for gate in gates:
            await asyncio.to_thread(gate.entered.acquire)
        close(batcher, *gates)
        await asyncio.gather(*(job.future for job in jobs))
        assert [gate.calls for gate in gates] == [[1], [1]]

    run(scenario)


def test_after_close_no_requests_are_accepted() -> None:
    async def scenario() -> None:
        batcher = Batcher([Gate(closed=False)], PLENTY)
        batcher.close(30)
        with pytest.raises(RequestError) as raised:
            ask(batcher, rows(1))
        assert raised.value.status == 503

    run(scenario)


def test_batches_are_counted_in_rows() -> None:
    async def scenario() -> None:
        counted: list[int] = []
        gate = Gate(closed=False)
        batcher = Batcher([gate], PLENTY, counted.append)
        await ask(batcher, rows(3)).future
        close(batcher)
        assert counted == [3]

    run(scenario)
