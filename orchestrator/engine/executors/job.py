"""The files that an executor and its worker exchange on one machine: the job and its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import StoreFailed
from orchestrator.spec.strict import Strict
from orchestrator.steps.context import Ending
from orchestrator.steps.parameters import Accelerator
from orchestrator.store.atomic import write_atomic
from orchestrator.store.failures import store_errors
from orchestrator.store.record import first_problem
from orchestrator.store.user_code import UserCode

__all__ = ["EXIT_DISK_FULL", "WorkerJob", "WorkerResult"]


EXIT_DISK_FULL = 74
"""EX_IOERR of sysexits.h: a worker that could not even write its result ends with it."""


class WorkerJob(Strict):
    """A step with all paths on this machine that it needs. The worker reads it from `job.json`.

    Attributes:
        format: of the file.
        network: whether the worker keeps its network; otherwise it gives it up before it loads anything.
        import_roots: folders of modules besides the project, relative to it; None for a step that runs no code of the user's.
        variables: names of environment variables that its code reads.
        containers: whether it starts containers of the Docker Engine.
        accelerator: what the models that it runs compute on.
        light: whether it runs at a low priority, because others may be measuring.
    """

    format: Literal[1]
    step: str
    function: str
    params: Mapping[str, Any]
    inputs: Mapping[str, str]
    output: str
    scratch: str
    project: str
    result: str
    network: bool
    import_roots: tuple[str, ...] | None
    variables: tuple[str, ...]
    containers: bool
    accelerator: Accelerator
    light: bool = False

    def write(self, path: Path) -> None:
        """Write the job as JSON."""
        path.write_text(json.dumps(self.model_dump(), indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @staticmethod
    def read(path: Path) -> WorkerJob:
        """Read what `write` wrote.

        Raises:
            StoreFailed: E714, it is damaged, or was written by another version of mlo.
        """
        with store_errors("read", path):
            content = path.read_bytes()
        try:
            return WorkerJob.model_validate_json(content)
        except ValidationError as error:
            raise StoreFailed(
                Diagnostic(
                    "E714",
                    f"{path} is not a job of this version of mlo",
                    cause=first_problem(error),
                    remedy="run `mlo apply` again, which writes a new one if the step fails again",
                )
            ) from error


class WorkerResult(Strict):
    """The result of a worker: a summary or an error, and the user's code files that it imported.

    Attributes:
        ending: how the step ended, as far as the worker itself knows.
        error: why the step is not done; None if and only if it is.
        found: what it used of the user's code.
        keeps_output: whether it was refused with an output that explains why.
    """

    ending: Ending
    summary: Mapping[str, Any]
    error: Diagnostic | None
    found: UserCode
    keeps_output: bool

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
