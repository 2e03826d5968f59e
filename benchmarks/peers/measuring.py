"""Runs all candidates of one network in turns, each in a process of its own that waits while the others run."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Timer
from types import TracebackType
from typing import Any, Self

import numpy as np

__all__ = ["Failure", "Running", "Timed", "answers", "in_turns"]

TURN = 0.5
"""Seconds of a candidate's turn, or longer where a cycle of calls takes longer."""

PATIENCE = 600
"""Seconds after which a process that has not answered is ended."""

NEAR = 1.5
"""A candidate that takes more than so many times as long as the fastest one after the first rounds gets no further turns."""


class Failure(Exception):
    """A candidate's process ended."""


class Running:
    """A candidate's process."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True, cwd=log.parent
            )

    def ask(self, **command: Any) -> dict[str, Any]:
        """Its answer to a command.

        Raises:
            Failure: it has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the log says why, and there will be no line
        patience = Timer(PATIENCE, self._process.kill)
        patience.start()
        line = self._process.stdout.readline()
        patience.cancel()
        if not line:
            lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [
                "it printed nothing"
            ]
            raise Failure(f"its process ended with {self._process.wait()}: {lines[-1]} ({self._log})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True)
class Timed:
    """A candidate's turns.

    Attributes:
        rounds: round → seconds per call, the median of its cycles.
        answers: its outputs for all samples, [samples, values].
        failure: why it was not measured; empty if it was.
    """

    rounds: Mapping[int, float]
    answers: np.ndarray[Any, Any] | None = None
    failure: str = ""

    @property
    def seconds(self) -> float:
        """The median of its rounds."""
        return median(self.rounds.values())


def answers(name: str, process: Running, folder: Path) -> np.ndarray[Any, Any]:
    """A candidate's outputs for all samples; the calls also warm it up."""
    path = folder / f"{name}.npy"
    process.ask(do="answers", to=str(path))
    found: np.ndarray[Any, Any] = np.load(path, allow_pickle=False)
    return found


def in_turns(
    commands: Mapping[str, Sequence[str]],
    folder: Path,
    *,
    rounds: int,
    further: int,
    always: Sequence[str],
    tell: Callable[[str], None],
) -> dict[str, Timed]:
    """Candidate → its times.

    Args:
        commands: candidate → what runs it.
        folder: for logs and outputs.
        rounds: in which all take part.
        further: in which those take part that are near the fastest one.
        always: names of those that take part in all.
        tell: is called with the progress.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    outputs: dict[str, np.ndarray[Any, Any]] = {}
    failures: dict[str, str] = {}
    times: dict[str, dict[int, float]] = {}
    with ExitStack() as stack:
        processes: dict[str, Running] = {}
        for name, command in commands.items():
            tell(f"opening {name}")
            process = stack.enter_context(Running(command, folder / f"{name}.log"))
            try:
                outputs[name] = answers(name, process, folder)
            except Failure as error:
                failures[name] = str(error)
                tell(f"{name}: {error}")
            else:
                processes[name], times[name] = process, {}
        taking_part = list(processes)
        for number in range(rounds + further):
            if number == rounds:
                fastest = min(median(each.values()) for each in times.values())
                near = [name for name in taking_part if median(times[name].values()) <= NEAR * fastest]
                taking_part = [name for name in taking_part if name in near or name in always]
            draw.shuffle(taking_part)
            for name in list(taking_part):
                try:
                    times[name][number] = median(processes[name].ask(do="calls", seconds=TURN)["seconds"])
                except Failure as error:
                    failures[name] = str(error)
                    tell(f"{name}: {error}")
                    taking_part.remove(name)
                    del times[name]
            tell(f"round {number + 1} of {rounds + further}")
    measured = {name: Timed(found, outputs[name]) for name, found in times.items()}
    return {name: measured.get(name) or Timed({}, failure=failures[name]) for name in commands}
