"""The parent's side of a measured process: starts it on its CPUs, sends it commands, and reports how it ended.

The child is `orchestrator.frameworks.source.measure_session` or `orchestrator.measure.load`. Commands and replies are lines
of JSON over two separate pipes, because libraries print to standard output. Between commands the child blocks in a read
and uses no CPU.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from orchestrator.diagnostics import Diagnostic
from orchestrator.machine.cpus import CpuShare, confined, package_environment, thread_environment
from orchestrator.measure.failure import MeasureError, above_limit
from orchestrator.process.children import ended_by, start_logged
from orchestrator.process.memory import MemoryWatch, end_tree
from orchestrator.steps.context import Ending

__all__ = ["MeasuredProcess"]

_GOODBYE = 5.0
"""Seconds that a child has to exit after its command pipe is closed."""

_LOG_TAIL = 2000


class MeasuredProcess:
    """A child that answers commands on some of the machine's CPUs and within a memory limit.

    Args:
        module: run with `python -m`.
        share: the CPUs.
        memory: bytes that it may use; None for no limit.
        folder: its working directory; its output goes to `log.txt` there.
    """

    def __init__(self, module: str, share: CpuShare, *, memory: int | None, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log.txt"
        self._memory = memory
        self._buffered = b""
        commands, self._commands = os.pipe()
        self._replies, replies = os.pipe()
        command = (sys.executable, "-P", "-m", module, str(commands), str(replies))
        self._child = start_logged(
            confined(command, share, on_parent_end=signal.SIGKILL),
            self._log,
            env={**package_environment(), **thread_environment(share.threads)},
            cwd=folder,
            pass_fds=(commands, replies),
        )
        os.close(commands)
        os.close(replies)
        self._watch = MemoryWatch(self._child.pid, memory)
        self._reported_peak = 0

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    @property
    def peak(self) -> int:
        """The peak resident memory, as observed or as reported by the child, bytes."""
        return max(self._watch.peak, self._reported_peak)

    def ask(self, command: dict[str, Any], timeout: float) -> dict[str, Any]:
        """Send a command and wait for its reply.

        Args:
            command: JSON; `do` is its name.
            timeout: seconds, after which the child is killed.

        Raises:
            MeasureError: it ran out of memory, died, took too long, or replied with an error.
        """
        try:
            os.write(self._commands, json.dumps(command).encode() + b"\n")
        except BrokenPipeError:
            raise self._ended() from None
        reply: dict[str, Any] = json.loads(self._line(time.monotonic() + timeout, timeout))
        self._reported_peak = max(self._reported_peak, reply.get("peak_rss", 0))
        if self._memory is not None and self._reported_peak > self._memory:
            # A peak that the watch missed between two samples: a container would have killed it, so it is killed here.
            end_tree(self._child.pid)
            raise self._out_of_memory()
        if "error" in reply:
            raise MeasureError.from_json(reply["error"])
        return reply

    def close(self) -> None:
        """End the child: closing the pipes makes it exit; if it does not, it is killed."""
        for descriptor in (self._commands, self._replies):
            if descriptor >= 0:
                os.close(descriptor)
        self._commands = self._replies = -1
        try:
            self._child.wait(_GOODBYE)
        except subprocess.TimeoutExpired:
            end_tree(self._child.pid)
            self._child.wait()
        self._watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _line(self, deadline: float, timeout: float) -> bytes:
        while b"\n" not in self._buffered:
            ready, _, _ = select.select([self._replies], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                end_tree(self._child.pid)
                self._child.wait()
                raise MeasureError(Ending.TIMEOUT, Diagnostic("E402", f"no answer within {timeout:g} s"))
            chunk = os.read(self._replies, 1 << 20)
            if not chunk:
                raise self._ended()
            self._buffered += chunk
        line, _, self._buffered = self._buffered.partition(b"\n")
        return line

    def _out_of_memory(self) -> MeasureError:
        assert self._memory is not None
        return above_limit(self.peak, self._memory)

    def _ended(self) -> MeasureError:
        code = self._child.wait()
        self._watch.close()
        if self._watch.exceeded:
            return self._out_of_memory()
        if (name := ended_by(code)) is not None:
            why = "the kernel does this when the machine runs out of memory" if code == -signal.SIGKILL else ""
            return MeasureError(Ending.DIED, Diagnostic("E404", f"its process was killed by {name}", cause=why))
        exited = Diagnostic("E404", f"its process exited with code {code}", cause=self._last_output())
        return MeasureError(Ending.DIED, exited)

    def _last_output(self) -> str:
        lines = self._log.read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it printed nothing"
