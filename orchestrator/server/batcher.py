"""Joins waiting requests into one call of the model, runs it in a thread of its own, and takes the outputs apart.

What waits while the model is busy goes together; requests join only when all their inner shapes are equal, and sizes
are counted in rows. A call that fails is repeated request by request, so that one cannot spoil another's answer.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .datatypes import Array
from .errors import RequestError

__all__ = ["Batcher", "Job", "Limits", "Run"]

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""One call of the model: inputs by name → outputs by name."""

_Key = tuple[tuple[int, ...], ...]

_log = logging.getLogger("mlo.batcher")


@dataclass(frozen=True, slots=True)
class Limits:
    """How requests may be joined and how many may wait.

    Attributes:
        max_rows: rows of one call at most; 1 joins nothing. A request of more rows runs alone.
        max_delay_s: how long a request waits for company while an instance is free.
        queue_rows: rows that may wait; one request is always taken by an empty queue.
    """

    max_rows: int
    max_delay_s: float
    queue_rows: int


@dataclass(slots=True, eq=False)
class Job:
    """One request on its way through the batcher; times are `time.monotonic()` seconds.

    Attributes:
        inputs, rows: the request.
        key: the inner shapes; jobs of one key may go together.
        future: gets the outputs, or the `RequestError`.
        deadline: not run after this.
        timer: answers the request when the deadline has passed.
        started: when its call of the model began, 0 while it waits.
        finished: when that call was over.
        batch_rows: the rows of that call, others' included.
    """

    inputs: Mapping[str, Array]
    rows: int
    key: _Key
    future: asyncio.Future[Mapping[str, Array]]
    queued: float
    deadline: float
    timer: asyncio.TimerHandle = field(init=False)
    started: float = 0.0
    finished: float = 0.0
    batch_rows: int = 0


class Batcher:
    """One queue in front of one thread for each instance of the model. `submit` belongs to the event loop's thread."""

    def __init__(self, instances: Sequence[Run], limits: Limits, on_batch: Callable[[int], None] | None = None) -> None:
        """Start the threads.

        Args:
            instances: the model's instances; each is called by one thread only.
            limits: see `Limits`.
            on_batch: called in the event loop with the rows of every call of the model.
        """
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._on_batch = on_batch or (lambda _: None)
        self._changed = threading.Condition()
        self._groups: dict[_Key, deque[Job]] = {}
        self._queued_rows = 0
        self._closed = False
        # Daemons: a call that never returns must not keep a process alive that was told to go.
        self._threads = [
            threading.Thread(target=self._serve, args=(run,), name=f"instance-{index}", daemon=True)
            for index, run in enumerate(instances)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued_rows(self) -> int:
        """Rows that wait now."""
        return self._queued_rows

    def submit(self, inputs: Mapping[str, Array], rows: int, timeout_s: float) -> Job:
        """Queue a request; its `future` gets the outputs.

        Raises:
            RequestError: 429 when the queue is full, 503 after `close`.
        """
        if self._closed:
            raise RequestError(503, "the server is stopping", reason="stopping", retry_after=1)
        if self._queued_rows and self._queued_rows + rows > self._limits.queue_rows:
            raise RequestError(429, "too many requests wait already", reason="queue_full", retry_after=1)
        key = tuple(inputs[name].shape[1:] for name in sorted(inputs)) if self._limits.max_rows > 1 else ()
        future: asyncio.Future[Mapping[str, Array]] = self._loop.create_future()
        now = time.monotonic()
        job = Job(inputs, rows, key, future, now, now + timeout_s)
        job.timer = self._loop.call_later(timeout_s, self._expire, job)
        with self._changed:
            self._groups.setdefault(key, deque()).append(job)
            self._queued_rows += rows
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Take a request out; one that is running already runs to its end and its outputs are thrown away."""
        job.timer.cancel()
        job.future.cancel()
        self._withdraw(job)

    def _expire(self, job: Job) -> None:
        if not job.future.done():
            late = RequestError(504, "the answer took longer than the request may", reason="expired")
            job.future.set_exception(late)
        self._withdraw(job)

    def _withdraw(self, job: Job) -> None:
        with self._changed:
            # A job that has been started is no longer in its group, and the group may be gone.
            if not job.started:
                self._groups[job.key].remove(job)
                self._queued_rows -= job.rows
                if not self._groups[job.key]:
                    del self._groups[job.key]

    def close(self, timeout_s: float) -> bool:
        """Run what is queued, then end the threads; wait for them at most `timeout_s`. True if they have ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _serve(self, run: Run) -> None:
        """The life of one instance's thread."""
        while (jobs := self._next()) is not None:
            if jobs:
                answers = self._call(run, jobs)
                self._loop.call_soon_threadsafe(self._deliver, jobs, answers)

    def _next(self) -> list[Job] | None:
        """Wait for the next jobs that go together; None when there will be no more."""
        with self._changed:
            while True:
                now = time.monotonic()
                key, wait = self._ripest(now)
                if key is not None and wait <= 0:
                    return self._take(key, now)
                if key is None and self._closed:
                    return None
                self._changed.wait(None if key is None else wait)

    def _ripest(self, now: float) -> tuple[_Key | None, float]:
        """The group to run next and the seconds until then; a full group goes at once, else the oldest first."""
        oldest: _Key | None = None
        oldest_queued = float("inf")
        for key, jobs in self._groups.items():
            if self._limits.max_delay_s and sum(job.rows for job in jobs) >= self._limits.max_rows:
                return key, 0.0
            if jobs[0].queued < oldest_queued:
                oldest, oldest_queued = key, jobs[0].queued
        if oldest is None or self._closed:
            return oldest, 0.0
        return oldest, oldest_queued + self._limits.max_delay_s - now

    def _take(self, key: _Key, now: float) -> list[Job]:
        """Take jobs of one group up to the most rows, leaving out those that are too late."""
        waiting = self._groups[key]
        jobs: list[Job] = []
        rows = 0
        while waiting and (not jobs or rows + waiting[0].rows <= self._limits.max_rows):
            job = waiting.popleft()
            job.started = now
            self._queued_rows -= job.rows
            if now < job.deadline:  # the timer answers the others, as soon as the loop gets to it
                jobs.append(job)
                rows += job.rows
        if not waiting:
            del self._groups[key]
        for job in jobs:
            job.batch_rows = rows
        return jobs

    def _call(self, run: Run, jobs: list[Job]) -> list[Mapping[str, Array] | RequestError]:
        if len(jobs) == 1:
            return [self._call_one(run, jobs[0])]
        try:
            inputs = {name: np.concatenate([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}
            answers = _split(run(inputs), jobs)
        except Exception as error:  # noqa: BLE001 - whatever it is, each request gets its own try and its own error
            _log.warning("a batch failed, its requests run singly: %s", error)
            return [self._call_one(run, job) for job in jobs]
        finished = time.monotonic()
        for job in jobs:
            job.finished = finished
        return answers

    def _call_one(self, run: Run, job: Job) -> Mapping[str, Array] | RequestError:
        try:
            return run(job.inputs)
        except RequestError as error:
            return error
        except Exception:  # noqa: BLE001 - the thread must live on for the other requests
            _log.exception("the model failed")
            return RequestError(500, "the model failed; the server's log says more", reason="failed")
        finally:
            job.finished = time.monotonic()

    def _deliver(self, jobs: list[Job], answers: list[Mapping[str, Array] | RequestError]) -> None:
        """Hand the answers out, in the event loop."""
        self._on_batch(jobs[0].batch_rows)
        for job, answer in zip(jobs, answers, strict=True):
            job.timer.cancel()
            if job.future.done():
                continue
            if isinstance(answer, RequestError):
                job.future.set_exception(answer)
            else:
                job.future.set_result(answer)


def _split(outputs: Mapping[str, Array], jobs: list[Job]) -> list[Mapping[str, Array] | RequestError]:
    """Each job's rows of every output, as views."""
    rows = sum(job.rows for job in jobs)
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            raise ValueError(f"output {name!r} of {rows} rows has the shape {array.shape}")
    answers: list[Mapping[str, Array] | RequestError] = []
    start = 0
    for job in jobs:
        stop = start + job.rows
        answers.append({name: array[start:stop] for name, array in outputs.items()})
        start = stop
    return answers
