"""The steps that read a source: `inspect`, which planning itself runs, and `import`; and their inputs for later steps."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid
from orchestrator.machine.here import Here
from orchestrator.machine.packages import install_hint
from orchestrator.optimize.sources import SOURCES
from orchestrator.plan.found import PlannedModel
from orchestrator.plan.step import FileInput, Step, StepInput
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.source_models import PytorchSource
from orchestrator.steps.parameters import CodeAccess, ImportParameters, InspectParameters, SourceParameters, TensorNames
from orchestrator.steps.roles import WEIGHTS, file_role

__all__ = [
    "code_access",
    "code_files",
    "import_step",
    "inspect_step",
    "require_source_tools",
    "source_files",
    "source_parameters",
    "source_tools",
    "union",
]

_AT_WEIGHTS = ("model", "source", "weights")


def union(*packages: Iterable[str]) -> tuple[str, ...]:
    """The union of groups of packages, sorted."""
    return tuple(sorted({name for group in packages for name in group}))


def require_source_tools(loaded: LoadedSpec, here: Here) -> None:
    """Check that the packages for reading this source are installed.

    Raises:
        SpecInvalid: E202, something is missing.
    """
    kind = loaded.spec.model.source.kind
    if lacking := here.missing(SOURCES[kind].tools):
        raise SpecInvalid(
            Diagnostic(
                code="E202",
                message=f"{kind} models need {', '.join(lacking)}, which is not installed",
                span=loaded.span(("model", "source", "kind")),
                remedy=install_hint(lacking),
            )
        )


def inspect_step(loaded: LoadedSpec, here: Here) -> Step | None:
    """The step that reads the model's tensors; None for kinds whose files do not describe them.

    Raises:
        SpecInvalid: E202, a package is missing.
    """
    source = SOURCES[loaded.spec.model.source.kind]
    if not source.describes:
        return None
    require_source_tools(loaded, here)
    return Step(
        id="inspect",
        kind="inspect",
        function=source.inspect,
        revision=source.inspect_revision,
        params=InspectParameters(source_parameters(loaded, None)).as_json(),
        inputs={WEIGHTS: _weights(loaded)},
        tools=source.tools,
        at=_AT_WEIGHTS,
    )


def import_step(loaded: LoadedSpec, model: PlannedModel, here: Here) -> Step:
    """The step that verifies the source and records its outputs."""
    spec = loaded.spec
    source = SOURCES[spec.model.source.kind]
    inputs: dict[str, StepInput] = {**source_files(loaded, model)}
    if spec.model.samples is not None:
        path = spec.path(spec.model.samples, loaded.folder)
        inputs["samples"] = FileInput.of(path, ("model", "samples"), loaded.folder, "samples")
    parameters = ImportParameters(
        source_parameters(loaded, model),
        model.signature,
        seed=0,
        max_rows=256,
        one_by_one=model.one_by_one,
        inner_batch=model.inner_batch,
    )
    return Step(
        id="import",
        kind="import",
        function=source.check,
        revision=source.check_revision,
        params=parameters.as_json(),
        inputs=inputs,
        code=code_files(loaded, here),
        user_code=code_access(loaded),
        tools=source_tools(loaded),
        at=("model",),
    )


def source_parameters(loaded: LoadedSpec, model: PlannedModel | None) -> SourceParameters:
    """How the source is loaded, in the parameters of every step that loads it; without a model before it is read."""
    fields = loaded.spec.model.source.model_dump(mode="json", exclude={"weights", "sha256"}, exclude_none=True)
    access = code_access(loaded)
    fields |= {} if access is None else {"path": access.path, "env": access.env}
    names = {} if model is None else model.names
    return SourceParameters(**fields, names=TensorNames(names.get("inputs", {}), names.get("outputs", {})))


def source_files(loaded: LoadedSpec, model: PlannedModel) -> dict[str, StepInput]:
    """The model's file or folder, and the further files that it is made of, by role."""
    weights = _weights(loaded)
    return {WEIGHTS: weights, **{file_role(name): weights.beside(name) for name in model.files}}


def code_files(loaded: LoadedSpec, here: Here) -> tuple[FileInput, ...]:
    """The factory's module, if it is in the spec's folder or named by `model.source.path`; `import` finds the rest."""
    if here.factory_file is None:
        return ()
    return (FileInput.of(here.factory_file, ("model", "source", "factory"), loaded.folder, "factory"),)


def code_access(loaded: LoadedSpec) -> CodeAccess | None:
    """What a step that loads the source needs to run the user's code; None for kinds that have none."""
    source = loaded.spec.model.source
    return CodeAccess(tuple(source.path), tuple(source.env)) if isinstance(source, PytorchSource) else None


def source_tools(loaded: LoadedSpec) -> tuple[str, ...]:
    """The packages that load the source."""
    return SOURCES[loaded.spec.model.source.kind].tools


def _weights(loaded: LoadedSpec) -> FileInput:
    path = loaded.spec.path(loaded.spec.model.source.weights, loaded.folder)
    return FileInput.of(path, _AT_WEIGHTS, loaded.folder, WEIGHTS)
