"""The executor's protocol, with its requests and results. Nothing in them names a path of one machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, Field

from orchestrator.diagnostics import Diagnostic
from orchestrator.engine.stop import Stop
from orchestrator.spec.strict import Strict
from orchestrator.steps.context import Ending
from orchestrator.steps.parameters import Accelerator, CodeAccess
from orchestrator.store.digest import Manifest
from orchestrator.store.user_code import NO_USER_CODE, UserCode

__all__ = ["Executor", "InlineInput", "RequestInput", "StepEnd", "StepRequest", "StoredInput", "UserInput"]


def _below(path: str) -> str:
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError("it leads out of its folder")
    return path


class StoredInput(Strict):
    """Another step's output: a tree of the store, or one file of it."""

    kind: Literal["stored"] = "stored"
    digest: str
    file: str = ""


class UserInput(Strict):
    """One of the user's files or folders.

    Attributes:
        root: the name of the folder that contains it; empty for the project.
        path: POSIX, relative to that folder, never outside.
        sha256: of its content, or of the tree if it is a folder.
        at: its key in the spec.
    """

    kind: Literal["user"] = "user"
    root: str = ""
    path: Annotated[str, AfterValidator(_below)]
    sha256: str
    at: tuple[str | int, ...] = ()


class InlineInput(Strict):
    """A small document from the engine itself."""

    kind: Literal["inline"] = "inline"
    name: str
    content: str


RequestInput = StoredInput | UserInput | InlineInput


class StepRequest(Strict):
    """A step to run, on any machine.

    Attributes:
        key: the step's key.
        step: its id, for messages and logs.
        function: `module:function`.
        inputs: role → input; optional roles may be absent.
        code: files of the user's code that the step is known to import.
        user_code: what it needs to run the user's code; None if it runs none.
        imported_code: what `import` used of the user's code, for later steps that run it.
        network: whether it keeps its network, if only the loopback.
        containers: whether it starts containers of the Docker Engine.
        accelerator: what the models that it runs compute on.
        exclusive: it measures time: nothing else may run beside it, and an unfinished run is useless.
        light: it may run beside a measurement, and so runs at a low priority.
        timeout: seconds.
        at: the key in the spec that requires the step.
    """

    key: str
    step: str
    function: str
    params: Mapping[str, Any]
    inputs: Mapping[str, Annotated[RequestInput, Field(discriminator="kind")]]
    code: tuple[UserInput, ...] = ()
    user_code: CodeAccess | None = None
    imported_code: UserCode = NO_USER_CODE
    network: bool = False
    containers: bool = False
    accelerator: Accelerator = "none"
    exclusive: bool = False
    light: bool = False
    timeout: float
    at: tuple[str | int, ...] = ()


@dataclass(frozen=True, slots=True)
class StepEnd:
    """How a step ended.

    Attributes:
        ending: how.
        error: why it failed; None if and only if it is done.
        output: its output, already in the store; None if it failed, unless it was refused with an output that explains why.
        summary: facts for people.
        found: what it used of the user's code.
        seconds: its duration.
        peak_bytes: its largest resident memory.
    """

    ending: Ending
    error: Diagnostic | None
    output: Manifest | None
    summary: Mapping[str, Any]
    found: UserCode
    seconds: float
    peak_bytes: int


class Executor(Protocol):
    """A place that runs steps; called from several threads."""

    def run(self, request: StepRequest, stop: Stop, progress: Callable[[str, float | None], None]) -> StepEnd:
        """Run a step to its end. Its output is in the engine's store when this returns.

        Args:
            request: what to run.
            stop: level 2 ends the step; level 1 ends an exclusive step, and lets any other finish.
            progress: called with the step's messages, each with the completed fraction in [0, 1], or None.

        Raises:
            StoreFailed: the request cannot be written, or the output cannot be kept.
            StepFailed: E203, this executor has no folder for the root of an input.
        """
        ...
