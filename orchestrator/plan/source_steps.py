"""The steps that read a source: `inspect`, which planning runs by itself, and `import`; and what later steps take from it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from orchestrator.diagnostics import Diagnostic
from orchestrator.errors import SpecInvalid
from orchestrator.machine.packages import distributions, install_hint, version
from orchestrator.optimize.sources import SOURCES
from orchestrator.plan.found import PlannedModel
from orchestrator.plan.step import FileInput, Step, StepInput
from orchestrator.spec.load import LoadedSpec
from orchestrator.spec.source_models import PytorchSource

__all__ = [
    "code_files",
    "factory_tools",
    "import_step",
    "inspect_step",
    "joined",
    "missing",
    "require_source_tools",
    "source_files",
    "source_params",
]

_AT_WEIGHTS = ("model", "source", "weights")


def joined(*packages: Iterable[str]) -> tuple[str, ...]:
    """Groups of packages as one, sorted, each once."""
    return tuple(sorted({name for group in packages for name in group}))


def missing(packages: Iterable[str]) -> tuple[str, ...]:
    """Those of the packages that are not installed."""
    return tuple(sorted({p for p in packages if version(p) is None}))


def require_source_tools(loaded: LoadedSpec) -> None:
    """Whether everything is installed that reading this source takes.

    Raises:
        SpecInvalid: E202, something is missing.
    """
    kind = loaded.spec.model.source.kind
    if lacking := missing(SOURCES[kind].tools):
        raise SpecInvalid(
            Diagnostic(
                code="E202",
                message=f"{kind} models need {', '.join(lacking)}, which is not installed",
                span=loaded.span(("model", "source", "kind")),
                remedy=install_hint(lacking),
            )
        )


def inspect_step(loaded: LoadedSpec) -> Step | None:
    """The step that reads the model's tensors; None for kinds whose files do not say them.

    Raises:
        SpecInvalid: E202, a package is missing.
    """
    source = SOURCES[loaded.spec.model.source.kind]
    if source.inspect is None:
        return None
    require_source_tools(loaded)
    return Step(
        id="inspect",
        kind="inspect",
        function=source.inspect,
        revision=source.inspect_revision,
        params={"source": _said(loaded)},
        inputs={"weights": _weights(loaded)},
        tools=source.tools,
        at=_AT_WEIGHTS,
    )


def import_step(loaded: LoadedSpec, model: PlannedModel) -> Step:
    """The step that proves the source, and records how it answers."""
    spec = loaded.spec
    source = SOURCES[spec.model.source.kind]
    inputs: dict[str, StepInput] = {**source_files(loaded, model)}
    if spec.model.samples is not None:
        inputs["samples"] = FileInput(spec.path(spec.model.samples, loaded.folder), ("model", "samples"))
    return Step(
        id="import",
        kind="import",
        function=source.check,
        revision=source.check_revision,
        params={
            "source": source_params(loaded, model),
            "signature": model.signature.as_json(),
            "seed": 0,
            "max_rows": 256,
        },
        inputs=inputs,
        code=code_files(loaded),
        tools=joined(source.tools, factory_tools(loaded)),
        at=("model",),
    )


def source_params(loaded: LoadedSpec, model: PlannedModel) -> dict[str, Any]:
    """The parameter `source` of every step that loads the source."""
    said = _said(loaded)
    if not model.names:
        return said
    return {**said, "names": {role: dict(names) for role, names in model.names.items()}}


def source_files(loaded: LoadedSpec, model: PlannedModel) -> dict[str, StepInput]:
    """The model's file or folder, and the further files that it is made of, by role."""
    weights = _weights(loaded)
    further = {f"file:{name}": FileInput(weights.path.parent / name, ("model", "source")) for name in model.files}
    return {"weights": weights, **further}


def code_files(loaded: LoadedSpec) -> tuple[FileInput, ...]:
    """The module that the factory names, where it lies beside the spec; an installed one is a tool instead."""
    source = loaded.spec.model.source
    if not isinstance(source, PytorchSource):
        return ()
    relative = Path(*source.factory.partition(":")[0].split("."))
    for path in (loaded.folder / relative.with_suffix(".py"), loaded.folder / relative / "__init__.py"):
        if path.is_file():
            return (FileInput(path, ("model", "source", "factory")),)
    return ()


def factory_tools(loaded: LoadedSpec) -> tuple[str, ...]:
    """The distribution that brings the factory's module, where it does not lie beside the spec."""
    source = loaded.spec.model.source
    if not isinstance(source, PytorchSource) or code_files(loaded):
        return ()
    return distributions(source.factory.partition(":")[0].partition(".")[0])


def _said(loaded: LoadedSpec) -> dict[str, Any]:
    return loaded.spec.model.source.model_dump(mode="json", exclude={"weights", "sha256"}, exclude_none=True)


def _weights(loaded: LoadedSpec) -> FileInput:
    return FileInput(loaded.spec.path(loaded.spec.model.source.weights, loaded.folder), _AT_WEIGHTS)
