"""A step of a plan as a value: function, inputs, parameters, and everything else in its key."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from orchestrator.artifacts.document import Document
from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid
from orchestrator.machine.here import Here
from orchestrator.optimize.variants import RefusedCandidate
from orchestrator.plan.found import PlannedModel
from orchestrator.steps.context import StepKind
from orchestrator.steps.parameters import Accelerator, CodeAccess

__all__ = ["Failed", "FileInput", "Growth", "Plan", "Root", "Step", "StepInput", "StepOutput", "Succeeded", "Took"]

_AnyDocument = TypeVar("_AnyDocument", bound=Document)


@dataclass(frozen=True, slots=True)
class Root:
    """A folder outside of the spec's that files of the user's lie in, with the name that requests have for it."""

    name: str
    folder: Path


@dataclass(frozen=True, slots=True)
class FileInput:
    """A file or a folder of the user's.

    Attributes:
        path: absolute.
        at: where the spec names it.
        root: what it lies below; None for the spec's folder.
    """

    path: Path
    at: tuple[str | int, ...]
    root: Root | None = None

    @classmethod
    def of(cls, path: Path, at: tuple[str | int, ...], project: Path, name: str) -> FileInput:
        """A file wherever it lies; outside of the spec's folder, with a root of this name."""
        inside = Path(os.path.normpath(path)).is_relative_to(project)
        return cls(path, at, None if inside else Root(name, path.parent))

    def beside(self, name: str) -> FileInput:
        """Another file of the same model, by its path relative to the folder of this one."""
        return replace(self, path=self.path.parent / name, at=("model", "source"))

    def name(self, project: Path) -> str:
        """Its path relative to its root or to the spec's folder, POSIX: the same on every machine.

        Raises:
            SpecInvalid: E203, it lies somewhere else.
        """
        folder = project if self.root is None else self.root.folder
        path, base = (Path(os.path.normpath(each)) for each in (self.path, folder))
        if not path.is_relative_to(base):
            raise SpecInvalid(
                Diagnostic(
                    "E203",
                    f"{self.path} cannot be named relative to {folder}",
                    cause="it lies outside of that folder, and a step may run where this path does not exist",
                    remedy="move it into that folder",
                    at=self.at,
                )
            )
        return path.relative_to(base).as_posix()


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Another step's output: the whole folder, or one file of it."""

    step: str
    file: str = ""


StepInput = FileInput | StepOutput


@dataclass(frozen=True, slots=True)
class Step:
    """One unit of work.

    Attributes:
        id: unique in its plan, such as `convert.onnx` or `verify.onnx-int8`.
        function: `module:function`, imported by the worker only; empty for live steps.
        revision: rises when the step's behaviour changes, so that old results are not reused.
        optional: roles whose producer may have failed; they are then simply absent.
        code: files of the user's code that the step is known to import before it has run.
        user_code: what it needs to run the user's code; None for a step that runs none. What `import` used of it is then part
            of the keys of later steps.
        tools: packages whose versions the result depends on.
        machine: whether the result depends on the machine, and so its fingerprint is part of the key.
        candidate: the candidate, variant or format that this step is about; its failure then decides that candidate's fate and does not fail the run.
        accelerator: what the models that it runs compute on.
        exclusive: nothing else may run meanwhile, since it measures time.
        live: an effect on the world, always observed and never cached.
        light: it is short, so it neither waits for a measurement nor delays one, and runs at a low priority.
        network: whether it may use the network, if only the loopback; what loads other people's models may not.
        containers: whether it starts containers of the Docker Engine; only such a step learns where the engine is.
        at: the place of the spec that asks for it.
        timeout: seconds.
        gathers_fates: gets the fates of all candidates' steps as an input with the role `fates`.
        contenders: whom it measures: candidates that passed verification, or the finalists of the runtime benchmark. With none
            left it is skipped.
        pointless: why it cannot change the outcome whatever it finds, so that it is skipped; empty if it can.
        only_winner: of the roles `variant:NAME` only the one that winner.json (role `winner`) names is an input.
    """

    id: str
    kind: StepKind
    function: str
    revision: int
    params: Mapping[str, Any]
    inputs: Mapping[str, StepInput]
    optional: frozenset[str] = frozenset()
    code: tuple[FileInput, ...] = ()
    user_code: CodeAccess | None = None
    tools: tuple[str, ...] = ()
    machine: bool = False
    candidate: str | None = None
    accelerator: Accelerator = "none"
    exclusive: bool = False
    live: bool = False
    light: bool = False
    network: bool = False
    containers: bool = False
    at: tuple[str | int, ...] = ()
    timeout: float = 600.0
    gathers_fates: bool = False
    only_winner: bool = False
    contenders: Literal["verified", "finalists"] | None = None
    pointless: str = ""

    @property
    def producers(self) -> frozenset[str]:
        """The ids of the steps that must have ended before this one can start."""
        return frozenset(source.step for source in self.inputs.values() if isinstance(source, StepOutput))


@dataclass(frozen=True, slots=True)
class Took:
    """When a step ran, as its receipt says: the same in every run that finds the receipt.

    Attributes:
        began: seconds since 1970, whole ones.
        seconds: how long it took.
    """

    began: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Succeeded:
    """A step that is done, as a growth sees it.

    Attributes:
        folder: its output, in the store; equal results lie in one folder, so reading it is as pure as the outcome.
        took: when it ran.
    """

    folder: Path
    took: Took

    def read(self, document: type[_AnyDocument]) -> _AnyDocument:
        """The document of that type that the step left: `result.read(Verdict).passed`.

        Raises:
            DocumentRefused: E714, the step left no such document, or another version of it.
        """
        return document.read(self.folder)


@dataclass(frozen=True, slots=True)
class Failed:
    """A step that failed, or was skipped because a step that it needs failed, as a growth sees it.

    Attributes:
        took: when it ran; None if it was skipped.
    """

    error: Diagnostic
    took: Took | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """How a plan grows once some of its steps have ended; see `orchestrator.plan.expand`.

    Attributes:
        after: ids of the steps that it waits for, however they end.
        adds: what it may add, for reviewers of the plan: "the second round of the search".
        grow: the plan without this growth and how steps ended → the grown plan; pure. It sees the steps in `after` and all
            that these need. Only steps that come after `after` may change.
    """

    after: tuple[str, ...]
    adds: str
    grow: Callable[[Plan, Mapping[str, Succeeded | Failed]], Plan]


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of one deployment, in an order in which they can run.

    Attributes:
        refused: candidates that are not tried, with the reason.
        project: the spec's folder.
        here: the machine that it was compiled for; the keys of its steps are made from it.
        notes: what a reviewer of the plan should know, a sentence each.
        growths: how it grows while it runs, in order.
        model: the signature that it was made with; None for a plan that only reads the model.
    """

    name: str
    steps: tuple[Step, ...]
    refused: tuple[RefusedCandidate, ...]
    project: Path
    here: Here
    notes: tuple[str, ...] = ()
    model: PlannedModel | None = None
    growths: tuple[Growth, ...] = ()

    @property
    def roots(self) -> Mapping[str, Path]:
        """The folders outside of the spec's that its steps read files from, by name."""
        sources = (source for step in self.steps for source in (*step.inputs.values(), *step.code))
        files = (source for source in sources if isinstance(source, FileInput))
        return {file.root.name: file.root.folder for file in files if file.root is not None}

    def step(self, step_id: str) -> Step:
        """The step of that id.

        Raises:
            KeyError: there is none.
        """
        for step in self.steps:
            if step.id == step_id:
                return step
        raise KeyError(step_id)
