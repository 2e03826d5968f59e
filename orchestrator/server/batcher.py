"""Joins waiting requests into one call of the model, runs it in a thread of its own, and takes the outputs apart.

What waits while the model is busy goes together; requests join only when all their inner shapes are equal, and sizes
are counted in rows. A call that fails is repeated request by request, so that one cannot spoil another's answer.
"""

from __future__ import annotations

import asyncio
import logging
import queue
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
_Answers = list[Mapping[str, Array] | RequestError]
_NEVER = float("inf")

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
    """One queue in front of one thread for each instance of the model. All but the threads belongs to the event loop.

    Requests that come in one turn of the loop go together even if an instance is free, which costs nothing.
    """

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
        self._groups: dict[_Key, deque[Job]] = {}
        self._queued_rows = 0
        self._closed = False
        self._look: asyncio.Handle | None = None
        self._look_at = _NEVER
        self._idle = [_Instance(run, index, self._deliver_soon) for index, run in enumerate(instances)]
        self._instances = list(self._idle)

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
        key = tuple([inputs[name].shape[1:] for name in inputs]) if self._limits.max_rows > 1 else ()
        future: asyncio.Future[Mapping[str, Array]] = self._loop.create_future()
        now = time.monotonic()
        job = Job(inputs, rows, key, future, now, now + timeout_s)
        job.timer = self._loop.call_later(timeout_s, self._expire, job)
        waiting = self._groups.get(key)
        if waiting is None:
            waiting = self._groups[key] = deque()
        waiting.append(job)
        self._queued_rows += rows
        if self._idle:
            self._plan_to_look(now)
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
        # A job that has been started is no longer in its group, and the group may be gone.
        if not job.started:
            self._groups[job.key].remove(job)
            self._queued_rows -= job.rows
            if not self._groups[job.key]:
                del self._groups[job.key]

    def close(self, timeout_s: float) -> bool:
        """Run what is queued, then end the threads; wait for them at most `timeout_s`. True if they have ended.

        Nobody may wait for an answer any more: none is delivered after this.
        """
        self._closed = True
        while self._groups:
            for instance in self._instances:
                instance.call(self._take(next(iter(self._groups)), time.monotonic()))
                if not self._groups:
                    break
        deadline = time.monotonic() + timeout_s
        for instance in self._instances:
            instance.end()
        return all(instance.ended(deadline) for instance in self._instances)

    def _plan_to_look(self, when: float) -> None:
        """Look for calls to make at `when`, or at the end of this turn of the loop if that is now or past."""
        if when >= self._look_at:
            return
        if self._look is not None:
            self._look.cancel()
        self._look_at = when
        wait = when - time.monotonic()
        self._look = (
            self._loop.call_soon(self._call_idle) if wait <= 0 else self._loop.call_later(wait, self._call_idle)
        )

    def _call_idle(self) -> None:
        """Give every idle instance the jobs that are ripe."""
        self._look, self._look_at = None, _NEVER
        now = time.monotonic()
        while self._idle and self._groups:
            key, ripe = self._ripest()
            if ripe > now:
                self._plan_to_look(ripe)
                return
            jobs = self._take(key, now)
            if jobs:
                self._idle.pop().call(jobs)

    def _ripest(self) -> tuple[_Key, float]:
        """The group to run next and when; a full group goes at once, else the oldest first."""
        if self._limits.max_delay_s:
            for key, jobs in self._groups.items():
                if sum(job.rows for job in jobs) >= self._limits.max_rows:
                    return key, 0.0
        key = min(self._groups, key=lambda group: self._groups[group][0].queued)
        return key, self._groups[key][0].queued + self._limits.max_delay_s

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

    def _deliver_soon(self, instance: _Instance, jobs: list[Job], answers: _Answers) -> None:
        """Called by an instance's thread."""
        try:
            self._loop.call_soon_threadsafe(self._deliver, instance, jobs, answers)
        except RuntimeError:
            _log.debug("a call of the model ended after the event loop")

    def _deliver(self, instance: _Instance, jobs: list[Job], answers: _Answers) -> None:
        """Hand the answers out, once the instance has its next call."""
        self._idle.append(instance)
        self._call_idle_now()
        self._on_batch(jobs[0].batch_rows)
        for job, answer in zip(jobs, answers, strict=True):
            job.timer.cancel()
            if job.future.done():
                continue
            if isinstance(answer, RequestError):
                job.future.set_exception(answer)
            else:
                job.future.set_result(answer)

    def _call_idle_now(self) -> None:
        if self._groups and not self._closed:
            if self._look is not None:
                self._look.cancel()
            self._call_idle()


class _Instance:
    """One instance of the model and the thread that calls it."""

    def __init__(self, run: Run, index: int, deliver: Callable[[_Instance, list[Job], _Answers], None]) -> None:
        self._run = run
        self._deliver = deliver
        self._calls: queue.SimpleQueue[list[Job] | None] = queue.SimpleQueue()
        # A daemon: a call that never returns must not keep a process alive that was told to go.
        self._thread = threading.Thread(target=self._serve, name=f"instance-{index}", daemon=True)
        self._thread.start()

    def call(self, jobs: list[Job]) -> None:
        """Run these together."""
        self._calls.put(jobs)

    def end(self) -> None:
        """Call nothing after what has been asked for."""
        self._calls.put(None)

    def ended(self, deadline: float) -> bool:
        """Whether the thread ends before `deadline`."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while (jobs := self._calls.get()) is not None:
            self._deliver(self, jobs, self._call(jobs) if jobs else [])

    def _call(self, jobs: list[Job]) -> _Answers:
        if len(jobs) == 1:
            return [self._call_one(jobs[0])]
        try:
            inputs = {name: np.concatenate([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}
            answers = _split(self._run(inputs), jobs)
        except Exception as error:  # noqa: BLE001 - whatever it is, each request gets its own try and its own error
            _log.warning("a batch failed, its requests run singly: %s", error)
            return [self._call_one(job) for job in jobs]
        finished = time.monotonic()
        for job in jobs:
            job.finished = finished
        return answers

    def _call_one(self, job: Job) -> Mapping[str, Array] | RequestError:
        try:
            return self._run(job.inputs)
        except RequestError as error:
            return error
        except Exception:  # noqa: BLE001 - the thread must live on for the other requests
            _log.exception("the model failed")
            return RequestError(500, "the model failed; the server's log says more", reason="failed")
        finally:
            job.finished = time.monotonic()


def _split(outputs: Mapping[str, Array], jobs: list[Job]) -> _Answers:
    """Each job's rows of every output, as views."""
    rows = sum(job.rows for job in jobs)
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            raise ValueError(f"output {name!r} of {rows} rows has the shape {array.shape}")
    answers: _Answers = []
    start = 0
    for job in jobs:
        stop = start + job.rows
        answers.append({name: array[start:stop] for name, array in outputs.items()})
        start = stop
    return answers
