"""Batches waiting requests into model calls and passes each call to an idle instance.

Requests that wait while the model is busy are batched, if all their inner shapes are equal; sizes are counted in rows. A
failed call is repeated request by request, so that one request cannot affect another; and a request that fails on one of
several instances is repeated on another one, so that a broken device does not affect every request that it gets.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .datatypes import Array
from .errors import RequestError
from .inline_calls import InlineCalls
from .instance import Answer, Answers, Done, Instance, Job, Key, Run
from .logs import fields

__all__ = ["Batcher", "Limits"]

_NEVER = float("inf")
_FAILED = 500
"""The status for a failure of the model. A request that the model refuses gets 400, which does not concern the instance."""

_EXPIRY_S = 0.001
"""Minimum time between checks for expired requests, so that many short timeouts cost no more than a few."""

_LONGEST_REST_S = 60.0
"""The longest pause of a failing instance: it is paused for a second, then twice as long each time, until it answers again."""

_log = logging.getLogger("mlo.batcher")


@dataclass(frozen=True, slots=True)
class Limits:
    """How requests are batched and how many may wait.

    Attributes:
        max_rows: the maximum rows of a call; with 1, requests are not batched. A request with more rows runs alone.
        max_delay_s: how long a request waits for others while an instance is idle.
        queue_rows: the maximum number of waiting rows; an empty queue accepts any request.
    """

    max_rows: int
    max_delay_s: float
    queue_rows: int


class Batcher:
    """A queue in front of the instances, each with its own thread. Everything except the threads belongs to the event loop.

    Requests that arrive in the same turn of the loop are batched even if an instance is idle, which costs nothing.
    """

    def __init__(
        self,
        instances: Sequence[Run],
        limits: Limits,
        on_batch: Callable[[int], None] | None = None,
        inline: InlineCalls | None = None,
    ) -> None:
        """Start the threads.

        Args:
            instances: the model's instances; each is called by one thread only.
            limits: see `Limits`.
            on_batch: called in the event loop with the rows of every call of the model.
            inline: runs short calls of a single instance on the event loop; None if all calls go to threads.
        """
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._on_batch = on_batch or (lambda _: None)
        self._groups: dict[Key, deque[Job]] = {}
        self._unanswered: set[Job] = set()
        self._expiry: asyncio.TimerHandle | None = None
        self._expire_at = _NEVER
        self._queued_rows = 0
        self._closed = False
        self._look: asyncio.Handle | None = None
        self._look_at = _NEVER
        self._idle = [Instance(run, index, self._deliver_soon, inline) for index, run in enumerate(instances)]
        self._instances = list(self._idle)

    @property
    def instances(self) -> Sequence[Instance]:
        """The instances, in the order in which they were given."""
        return self._instances

    @property
    def queued_rows(self) -> int:
        """The number of waiting rows."""
        return self._queued_rows

    def submit(self, inputs: Mapping[str, Array], rows: int, timeout_s: float, done: Done) -> Job:
        """Queue a request; `done` is called with its answer in a later turn of the loop, unless it is cancelled.

        Raises:
            RequestError: 429 when the queue is full, 503 after `close`.
        """
        if self._closed:
            raise RequestError(503, "the server is stopping", reason="stopping", retry_after=1)
        if self._queued_rows and self._queued_rows + rows > self._limits.queue_rows:
            raise RequestError(429, "too many requests are waiting", reason="queue_full", retry_after=1)
        key = tuple([inputs[name].shape[1:] for name in inputs]) if self._limits.max_rows > 1 else ()
        now = time.monotonic()
        job = Job(inputs, rows, key, done, now, now + timeout_s)
        self._unanswered.add(job)
        if job.deadline < self._expire_at:
            self._plan_to_expire(job.deadline)
        waiting = self._groups.get(key)
        if waiting is None:
            waiting = self._groups[key] = deque()
        waiting.append(job)
        self._queued_rows += rows
        if self._idle:
            self._plan_to_look(now)
        return job

    def cancel(self, job: Job) -> None:
        """Remove a request; if it is running already, its outputs are discarded."""
        if job in self._unanswered:
            self._unanswered.remove(job)
            self._withdraw(job)

    def _plan_to_expire(self, when: float) -> None:
        """One timer for all: most requests may take equally long, and are answered long before."""
        if self._expiry is not None:
            self._expiry.cancel()
        self._expire_at = when
        self._expiry = self._loop.call_later(max(_EXPIRY_S, when - time.monotonic()), self._expire)

    def _expire(self) -> None:
        """Answer expired requests."""
        now = time.monotonic()
        self._expiry, self._expire_at = None, _NEVER
        for job in [job for job in self._unanswered if job.deadline <= now]:
            self._withdraw(job)
            self._answer(job, RequestError(504, "the request timed out", reason="expired"))
        soonest = min((job.deadline for job in self._unanswered), default=_NEVER)
        if soonest < self._expire_at:
            self._plan_to_expire(soonest)

    def _answer(self, job: Job, answer: Answer) -> None:
        """Deliver an answer, unless the request was cancelled."""
        if job in self._unanswered:
            self._unanswered.remove(job)
            job.done(job, answer)

    def _withdraw(self, job: Job) -> None:
        # A job that has been started is no longer in its group, and the group may be gone.
        if not job.started:
            self._groups[job.key].remove(job)
            self._queued_rows -= job.rows
            if not self._groups[job.key]:
                del self._groups[job.key]

    def close(self, timeout_s: float) -> bool:
        """Run queued requests, then end the threads; wait for them at most `timeout_s`. True if they have ended.

        No request may be waiting for an answer: none is delivered after this.
        """
        self._closed = True
        while self._groups:
            for instance in self._instances:
                if jobs := self._take(next(iter(self._groups)), time.monotonic()):
                    instance.call(jobs)
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
        """Give every idle instance the jobs that are due."""
        self._look, self._look_at = None, _NEVER
        now = time.monotonic()
        while self._idle and self._groups:
            key, ripe = self._ripest()
            if ripe > now:
                self._plan_to_look(ripe)
                return
            jobs = self._take(key, now)
            if not jobs:
                continue
            instance = self._idle.pop()
            answers = instance.call_inline(jobs, now)
            if answers is None:
                instance.call(jobs)
            else:
                instance.count(jobs)
                self._idle.append(instance)
                if self._groups:
                    self._plan_to_look(now)  # in the next turn, so that other tasks of the loop run in between
                self._hand_out(jobs, answers)
                return

    def _ripest(self) -> tuple[Key, float]:
        """The group to run next and when; a full group goes at once, else the oldest first."""
        if self._limits.max_delay_s:
            for key, jobs in self._groups.items():
                if sum(job.rows for job in jobs) >= self._limits.max_rows:
                    return key, 0.0
        key = min(self._groups, key=lambda group: self._groups[group][0].queued)
        return key, self._groups[key][0].queued + self._limits.max_delay_s

    def _take(self, key: Key, now: float) -> list[Job]:
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

    def _deliver_soon(self, instance: Instance, jobs: list[Job], answers: Answers) -> None:
        """Called by an instance's thread."""
        try:
            self._loop.call_soon_threadsafe(self._deliver, instance, jobs, answers)
        except RuntimeError:
            _log.debug("a call of the model ended after the event loop")

    def _deliver(self, instance: Instance, jobs: list[Job], answers: Answers) -> None:
        """Hand the answers out, once the instance has its next call."""
        instance.count(jobs)
        again = self._to_repeat(instance, jobs, answers) if len(self._instances) > 1 else ()
        if not instance.resting:
            self._idle.append(instance)
        self._call_idle_now()
        self._hand_out(jobs, answers, again)

    def _hand_out(self, jobs: list[Job], answers: Answers, again: Sequence[Job] = ()) -> None:
        self._on_batch(jobs[0].batch_rows)
        for job, answer in zip(jobs, answers, strict=True):
            if job not in again:
                self._answer(job, answer)

    def _to_repeat(self, instance: Instance, jobs: list[Job], answers: Answers) -> Sequence[Job]:
        """The jobs that another instance gets, because every request of this call failed; the instance is then paused.

        Another instance shows whether the instance or the request is the cause: if it fails too, it is the request, and the
        first instance continues at once. The last active instance is never paused.
        """
        failed = [
            job
            for job, answer in zip(jobs, answers, strict=True)
            if isinstance(answer, RequestError) and answer.status == _FAILED
        ]
        for job in failed:
            if job.failed_on is not None and job.failed_on is not instance:
                self._wake(job.failed_on, blamed=False)
        if len(failed) < len(jobs):
            instance.rests = 0
            return ()
        again = [job for job in failed if job.failed_on is None and job in self._unanswered]
        others_awake = any(not other.resting for other in self._instances if other is not instance)
        if not again or not others_awake or self._closed:
            return ()
        seconds = min(2.0**instance.rests, _LONGEST_REST_S)
        instance.rests += 1
        instance.wake = self._loop.call_later(seconds, self._wake, instance)
        _log.warning("an instance failed and is paused", extra=fields(instance=instance.index, seconds=seconds))
        for job in reversed(again):
            job.failed_on, job.started = instance, 0.0
            self._groups.setdefault(job.key, deque()).appendleft(job)
            self._queued_rows += job.rows
        return again

    def _wake(self, instance: Instance, *, blamed: bool = True) -> None:
        """Resume a paused instance."""
        if instance.wake is None:
            return
        instance.wake.cancel()
        instance.wake = None
        if not blamed:
            instance.rests -= 1
        self._idle.append(instance)
        self._call_idle_now()

    def _call_idle_now(self) -> None:
        if self._groups and not self._closed:
            if self._look is not None:
                self._look.cancel()
            self._call_idle()
