"""The files that an executor and its worker exchange on one machine: the job and its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.spec.strict import Strict
from orchestrator.steps.context import Ending
from orchestrator.steps.parameters import Accelerator
from orchestrator.store.atomic import write_atomic

__all__ = ["EXIT_DISK_FULL", "WorkerJob", "WorkerResult"]


EXIT_DISK_FULL = 74
"""EX_IOERR of sysexits.h: a worker that could not even write its result ends with it."""


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """A step with all paths on this machine that it needs. The worker reads it from `job.json`.

    Attributes:
        network: whether the worker keeps its network; otherwise it gives it up before it loads anything.
        containers: whether it starts containers of the Docker Engine.
        accelerator: what the models that it runs compute on.
    """

    step: str
    function: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    output: str
    scratch: str
    project: str
    result: str
    network: bool
    containers: bool
    accelerator: Accelerator

    def write(self, path: Path) -> None:
        """Write the job as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @staticmethod
    def read(path: Path) -> WorkerJob:
        """Read what `write` wrote."""
        return WorkerJob(**json.loads(path.read_text(encoding="utf-8")))


class WorkerResult(Strict):
    """The result of a worker: a summary or an error, and the user's code files that it imported.

    Attributes:
        ending: how the step ended, as far as the worker itself knows.
        error: why the step is not done; None if and only if it is.
        found: path relative to the project → sha256.
    """

    ending: Ending
    summary: Mapping[str, Any]
    error: Diagnostic | None
    found: Mapping[str, str]

    def write(self, path: Path) -> None:
        """Write the result as JSON, atomically."""
        text = json.dumps(self.model_dump(), indent=1, sort_keys=True) + "\n"  # NaN too: the engine refuses it
        write_atomic(path, text.encode())

    @staticmethod
    def read(path: Path) -> WorkerResult | None:
        """The result, or None if the worker died before it wrote one."""
        try:
            return WorkerResult.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
