"""One instance of the model with its own thread, which runs calls one after another."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from .datatypes import Array
from .errors import RequestError
from .inline_calls import InlineCalls, Stopped

__all__ = ["Answer", "Answers", "Done", "Instance", "Job", "Key", "Run"]

Run = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""One call of the model: inputs by name → outputs by name."""

Key = tuple[tuple[int, ...], ...]
"""The inner shapes of a request's inputs."""

Answer = Mapping[str, Array] | RequestError
"""The outputs by name, or the error."""

Answers = list[Answer]

Done = Callable[["Job", Answer], None]
"""Receives a request's answer. Called in the event loop; must not raise, because other requests are waiting."""

_log = logging.getLogger("mlo.instance")


@dataclass(slots=True, eq=False)
class Job:
    """A request in the batcher; times are `time.monotonic()` seconds.

    Attributes:
        inputs, rows: the request.
        key: the inner shapes; jobs with the same key may be batched.
        done: gets the answer.
        deadline: it is not run after this.
        started: when its call of the model began, 0 while it waits.
        finished: when that call was over.
        batch_rows: the rows of that call, including those of others.
        failed_on: the instance on which it failed before, if any.
    """

    inputs: Mapping[str, Array]
    rows: int
    key: Key
    done: Done
    queued: float
    deadline: float
    started: float = 0.0
    finished: float = 0.0
    batch_rows: int = 0
    failed_on: Instance | None = None


class Instance:
    """One instance of the model and the thread that calls it.

    Attributes:
        calls, rows, seconds: the number of calls, their rows and their duration; of the event loop.
        wake: the timer that ends its pause after a failure; of the event loop.
        rests: the number of pauses since it last answered; of the event loop.
    """

    def __init__(
        self,
        run: Run,
        index: int,
        deliver: Callable[[Instance, list[Job], Answers], None],
        inline: InlineCalls | None = None,
    ) -> None:
        """Start the thread.

        Args:
            run: the model; called by this thread only.
            index: its number, from 0.
            deliver: called by the thread with the outcome of each job of a call.
            inline: runs short calls on the event loop; None if all calls go to the thread.
        """
        self.index = index
        self.calls = 0
        self.rows = 0
        self.seconds = 0.0
        self.wake: asyncio.TimerHandle | None = None
        self.rests = 0
        self._run = run
        self._inline = inline
        self._deliver = deliver
        self._todo: queue.SimpleQueue[list[Job] | Callable[[], None] | None] = queue.SimpleQueue()
        # A daemon, so that a call that never returns cannot keep the process from exiting.
        self._thread = threading.Thread(target=self._serve, name=f"instance-{index}", daemon=True)
        self._thread.start()

    @property
    def resting(self) -> bool:
        """Whether it is paused after a failure."""
        return self.wake is not None

    def call(self, jobs: list[Job]) -> None:
        """Run these jobs together in the thread."""
        self._todo.put(jobs)

    def call_inline(self, jobs: list[Job], now: float) -> Answers | None:
        """Run these jobs on the event loop if the call is short; None if it is not, or turns out not to be.

        Called in the event loop, while the thread has nothing to do.
        """
        if self._inline is None or not self._inline.fits(_elements(jobs), now):
            return None
        try:
            return self._call(jobs, self._inline.run)
        except Stopped:
            return None

    def do(self, task: Callable[[], None]) -> Future[None]:
        """Run a task in the instance's thread before later calls; the future finishes with it."""
        done: Future[None] = Future()

        def run() -> None:
            try:
                task()
            except BaseException as error:  # noqa: BLE001 - whoever waits for the future gets it
                done.set_exception(error)
            else:
                done.set_result(None)

        self._todo.put(run)
        return done

    def count(self, jobs: list[Job]) -> None:
        """Count a finished call."""
        self.calls += 1
        self.rows += jobs[0].batch_rows
        self.seconds += jobs[-1].finished - jobs[0].started

    def end(self) -> None:
        """Accept no further calls."""
        self._todo.put(None)

    def ended(self, deadline: float) -> bool:
        """Whether the thread ends before `deadline`."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while (todo := self._todo.get()) is not None:
            if isinstance(todo, list):
                self._deliver(self, todo, self._call(todo, self._run))
            else:
                todo()

    def _call(self, jobs: list[Job], run: Run) -> Answers:
        if self._inline is None:
            return self._call_together(jobs, run)
        began = time.thread_time()
        seconds = float("inf")  # for a call that is stopped
        try:
            answers = self._call_together(jobs, run)
            seconds = time.thread_time() - began
        finally:
            self._inline.learn(_elements(jobs), seconds, here=run is not self._run)
        return answers

    def _call_together(self, jobs: list[Job], run: Run) -> Answers:
        if len(jobs) == 1:
            return [self._call_one(jobs[0], run)]
        try:
            inputs = {name: np.concatenate([job.inputs[name] for job in jobs]) for name in jobs[0].inputs}
            answers = _split(run(inputs), jobs)
        except Stopped:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, each request gets its own try and its own error
            _log.warning("a batch failed, its requests are run one by one: %s", error)
            return [self._call_one(job, run) for job in jobs]
        finished = time.monotonic()
        for job in jobs:
            job.finished = finished
        return answers

    def _call_one(self, job: Job, run: Run) -> Answer:
        try:
            return run(job.inputs)
        except Stopped:
            raise
        except RequestError as error:
            return error
        except Exception:  # noqa: BLE001 - the thread must live on for the other requests
            _log.exception("the model failed")
            return RequestError(500, "the model failed; the server's log says more", reason="failed")
        finally:
            job.finished = time.monotonic()


def _elements(jobs: list[Job]) -> int:
    """The elements of all inputs of a call; the jobs' inner shapes are equal."""
    first = jobs[0]
    return sum(array.size for array in first.inputs.values()) * first.batch_rows // max(first.rows, 1)


def _split(outputs: Mapping[str, Array], jobs: list[Job]) -> Answers:
    """Each job's rows of every output, as views."""
    rows = sum(job.rows for job in jobs)
    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            raise ValueError(f"output {name!r} of {rows} rows has the shape {array.shape}")
    answers: Answers = []
    start = 0
    for job in jobs:
        stop = start + job.rows
        answers.append({name: array[start:stop] for name, array in outputs.items()})
        start = stop
    return answers
